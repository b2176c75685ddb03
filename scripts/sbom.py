"""The bill of materials of a release, as CycloneDX 1.5 JSON: the libraries that doorward needs, and what it contains.

python3 scripts/sbom.py VERSION <pyproject.toml; SOURCE_DATE_EPOCH is its date.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
import uuid
from datetime import UTC, datetime
from typing import Any

_CONTAINED = {  # in src/doorward/page/qr.mjs
    "type": "library",
    "bom-ref": "pkg:npm/uqr@0.1.3",
    "name": "uqr",
    "version": "0.1.3",
    "scope": "required",
    "licenses": [{"license": {"id": "MIT"}}],
    "purl": "pkg:npm/uqr@0.1.3",
}
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(?P<bound>.*)")


def bill(project: dict[str, Any], version: str, date: datetime) -> dict[str, Any]:
    """Return the document for the table [project] of pyproject.toml."""
    optional = {text for texts in project["optional-dependencies"].values() for text in texts}
    parts = [_component(text, "required") for text in project["dependencies"]]
    parts += [_component(text, "optional") for text in sorted(optional)]
    parts.append(_CONTAINED)
    own = f"pkg:pypi/{project['name']}@{version}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, own)}",
        "version": 1,
        "metadata": {
            "timestamp": f"{date:%Y-%m-%dT%H:%M:%SZ}",
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": project["name"],
                "version": version,
                "description": project["description"],
                "licenses": [{"expression": project["license"]}],
                "purl": own,
            },
        },
        "components": parts,
        "dependencies": [{"ref": own, "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def _component(requirement: str, scope: str) -> dict[str, Any]:
    found = _REQUIREMENT.fullmatch(requirement)
    if found is None:
        raise ValueError(f"pyproject.toml: unexpected requirement {requirement!r}; write NAME>=VERSION")
    name = found["name"].lower().replace("_", "-")
    purl = f"pkg:pypi/{name}"
    bound = {"name": "doorward:bound", "value": found["bound"]}
    return {"type": "library", "bom-ref": purl, "name": name, "scope": scope, "purl": purl, "properties": [bound]}


if __name__ == "__main__":
    moment = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    made = bill(tomllib.load(sys.stdin.buffer)["project"], sys.argv[1], moment)
    sys.stdout.write(json.dumps(made, indent=2) + "\n")
