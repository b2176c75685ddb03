"""The ledger as a file of any bytes."""

from __future__ import annotations

from contextlib import closing, suppress
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory

from doorward.daemon.ledger import open_ledger, read_records
from doorward.errors import HostError
from doorward.model import Opening, Port

NEW = Opening("fuzz", ip_address("192.0.2.99"), (Port.parse("22/tcp"),), 1000.0, 1030.0, "hand")


def one(data: bytes) -> None:
    """Read the file's records, open it as the daemon does, and record an opening: stored, or reported."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "ledger.sqlite3")
        path.write_bytes(data)
        with suppress(HostError):
            list(read_records(path, 0.0, 100))
        ledger, _ = open_ledger(path, "stamp")
        with closing(ledger):
            ledger.active()
            ledger.opened(NEW)
            assert ledger.trouble or NEW in ledger.active()
