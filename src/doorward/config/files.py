"""The edge: which file holds the configuration, and its text."""

from __future__ import annotations

import grp
import os
from pathlib import Path

from doorward.config.schema import Configuration
from doorward.config.toml import parse
from doorward.errors import ConfigError, Fault, HostError, UsageError

MAX_BYTES = 256 << 20  # a million doors are a tenth of it; a device or a disk image has no end


def default_path() -> Path:
    """Give the file that is read when the call names none."""
    folders = os.environ.get("CONFIGURATION_DIRECTORY", "")  # systemd separates several with colons
    return Path(folders.split(":")[0] or "/etc/doorward") / "doorward.toml"


def read(path: Path) -> Configuration:
    """Read a whole configuration, or raise ConfigError or UsageError."""
    return parse(read_text(path), str(path))


def group_id(name: str | None) -> int | None:
    """Give the number of a Unix group; HostError where the host has none of that name."""
    try:
        return None if name is None else grp.getgrnam(name).gr_gid
    except KeyError:
        raise HostError(f"[gate] control_group: the host has no group {name!r}; make it with groupadd") from None


def read_text(path: Path) -> str:
    """Give the text of a configuration, or say why there is none."""
    raw = _bytes(path)
    if len(raw) > MAX_BYTES:
        remedy = "name the right file with -c FILE, or write fewer doors"
        raise ConfigError([Fault(str(path), 1, f"the file is larger than {MAX_BYTES >> 20} MiB", remedy)])
    try:
        text = raw.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError([_not_text(path, raw, error.start, "a byte is not UTF-8")]) from None
    if "\0" in text:
        raise ConfigError([_not_text(path, raw, raw.index(b"\0"), "a NUL byte is in the file")])
    return text


def _not_text(path: Path, raw: bytes, place: int, what: str) -> Fault:
    return Fault(str(path), raw.count(b"\n", 0, place) + 1, what, "save the file as UTF-8 text")


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file; write it, or name another with -c FILE") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: this is a directory; name the file in it with -c FILE") from None
    except PermissionError:
        raise UsageError(f"{path}: this user may not read it; run doorward as root, or change its mode") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path}: it cannot be read ({reason}); name another with -c FILE") from None
