"""The manual pages, and their texts that no parser has."""

from __future__ import annotations

from typing import NamedTuple

from doorward import __version__
from doorward.cli import knockd, knockd_client
from doorward.cli.main import COMMANDS, build_parser
from manual import groff
from manual.descriptions import DESCRIPTIONS
from manual.markdown import of_document
from manual.parsers import of_parser, of_usage, synopsis

MANUAL = "doorward"
ABOUT = """\
**doorward** hides the services of a Linux host: their ports are silent until a client knocks, with one packet that its
SSH key has signed, or with packets to ports in order. A correct knock opens one door, for one source address and a
short time. The service behind the door is unchanged and still authenticates its users. doorward changes only its own
nftables table, `inet doorward`. To begin, run `doorward init` on the server."""
STATUS = "0 success, 1 negative result (for example: not open, not running), 2 usage or configuration error"
ENVIRONMENT = {
    "CONFIGURATION_DIRECTORY": "the directory of doorward.toml; else `/etc/doorward`",
    "STATE_DIRECTORY": "the directory of the ledger; else `/var/lib/doorward`",
    "RUNTIME_DIRECTORY": "the directory of the control socket; else `/run/doorward`",
    "SSH_AUTH_SOCK": "the agent whose first key signs knocks",
    "NO_COLOR": "if set, no colors are printed without `--color always`",
}
FILES = {
    "/etc/doorward/doorward.toml": "the configuration, doorward.toml(5)",
    "/etc/doorward/doorward.toml.last": "root's copy of the last good configuration, for a start with a wrong one",
    "/etc/doorward/off": "made by `doorward off`: while it exists, no gate is loaded",
    "~/.config/doorward/hosts.toml": "the client's hosts and their doors",
    "/var/lib/doorward/ledger.sqlite3": "the record of openings, refusals and bans",
    "/var/lib/doorward/gate.nft": "the gate as it was last loaded, for the time before the network is up",
}
KNOCKD_ABOUT = """\
**knockd** waits for secret knocks and runs the commands that its configuration names for them. This one is
doorward's: it takes the knockd.conf, the options and the words of knockd 0.8, and has the kernel match the knocks."""
EXAMPLES = """\
# doorward init                       # on the server: writes the files
# doorward run --trial 5m             # hides port 22; reverted unless confirmed
$ doorward add 'doorward://…' --name home --ssh   # as init printed
$ ssh -t home sudo doorward confirm   # you came through the door: keep it
# systemctl enable --now doorward-gate doorward"""
KNOCKD_EXAMPLES = """\
# knockd -v -c /etc/knockd.conf    # in the foreground, to see what it does
# knockd -d                        # as a daemon
$ knock server 7000 8000:udp 9000"""
KNOCKD_STATUS = "0: help or version was asked for. 1: it could not start. Else the signal that ended it: 15 or 2."
KNOCKD_FILES = {
    "/etc/knockd.conf": "the configuration, as knockd 0.8 reads it",
    "/etc/default/knockd": "KNOCKD_OPTS: options for the unit knockd.service",
    "/var/lib/doorward/knockd.sqlite3": "which commands are still owed",
}
KNOCK_ABOUT = """\
**knock** sends packets to ports of a host, in order. It takes the options of knockd's client, version 0.8."""
KNOCK_STATUS = "0: everything was sent. 1: it was not, or the call is wrong."


class Page(NamedTuple):
    """One page: `text` is all of it but the title."""

    name: str
    section: int
    text: str

    def roff(self, date: str) -> str:
        """Return the whole file."""
        return groff.page(groff.title(self.name, self.section, date, f"doorward {__version__}", MANUAL), self.text)


def pages(configuration: str) -> list[Page]:
    """Make all pages; `configuration` is the text of docs/configuration.md."""
    return [
        _overview(),
        *(_command(name) for name in COMMANDS),
        Page("doorward.toml", 5, _configuration(configuration)),
        Page("knockd", 1, _knockd()),
        Page("knock", 1, _knock()),
    ]


def _name(name: str, what: str) -> str:
    return f"{groff.heading('name')}{groff.plain(name)} \\- {groff.plain(what)}\n"


def _entries(title: str, entries: dict[str, str]) -> str:
    rows = (groff.entry(groff.bold(name), groff.marked(what)) for name, what in entries.items())
    return groff.heading(title) + "".join(rows)


def _section(title: str, text: str) -> str:
    return groff.heading(title) + groff.paragraph(groff.marked(" ".join(text.split())))


def _examples(text: str) -> str:
    return groff.heading("examples") + groff.verbatim(text.splitlines())


def _see(*names: str) -> str:
    """Refer to other pages, written like `nft(8)`."""
    words = (f"{groff.bold(name)}({section}" for name, _, section in (one.partition("(") for one in names))
    return groff.heading("see also") + groff.paragraph(", ".join(words))


def _overview() -> Page:
    text = _name("doorward", "hide services until a client knocks with its SSH key")
    text += synopsis("doorward [COMMAND …]") + _section("description", ABOUT)
    text += _entries("commands", {f"doorward-{name}(1)": what for name, what in COMMANDS.items()})
    text += _section("exit status", STATUS) + _entries("environment", ENVIRONMENT) + _entries("files", FILES)
    text += _examples(EXAMPLES)
    return Page("doorward", 1, text + _see("doorward.toml(5)", "nft(8)"))


def _command(name: str) -> Page:
    about = _section("description", DESCRIPTIONS[name])
    text = _name(f"doorward-{name}", COMMANDS[name]) + of_parser(build_parser(name), about, STATUS)
    return Page(f"doorward-{name}", 1, text + _see("doorward(1)", "doorward.toml(5)"))


def _configuration(document: str) -> str:
    text = _name("doorward.toml", "configuration of doorward")
    return text + of_document(document) + _see("doorward(1)", "doorward-check(1)")


def _knockd() -> str:
    text = _name("knockd", "run commands on a port sequence, with an unchanged knockd.conf")
    usage, _, rest = of_usage(knockd.USAGE).partition(groff.heading("options"))
    text += usage + _section("description", KNOCKD_ABOUT) + groff.heading("options") + rest
    text += _section("exit status", KNOCKD_STATUS) + _entries("files", KNOCKD_FILES) + _examples(KNOCKD_EXAMPLES)
    return text + _see("knock(1)", "doorward(1)", "doorward-import(1)")


def _knock() -> str:
    text = _name("knock", "send a port sequence")
    usage, _, rest = of_usage(knockd_client.USAGE).partition(groff.heading("options"))
    text += usage + _section("description", KNOCK_ABOUT) + groff.heading("options") + rest
    return text + _section("exit status", KNOCK_STATUS) + _see("knockd(1)", "doorward-knock(1)")
