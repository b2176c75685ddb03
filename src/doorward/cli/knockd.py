"""`knockd`: the daemon with knockd 0.8's options, output and exit codes."""

from __future__ import annotations

import fcntl
import getopt
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from doorward import __version__
from doorward.errors import DoorwardError, HostError
from doorward.escape import visible

if TYPE_CHECKING:
    from doorward.knockd.knockd_log import KnockdLog

_SHORT = "vDdli:c:p:g:hV4"
_LONG = {
    "verbose": "v", "debug": "D", "daemon": "d", "lookup": "l", "interface=": "i", "config=": "c", "help": "h",
    "pidfile=": "p", "logfile=": "g", "version": "V", "only-ip-v4": "4", "engine=": "engine",
}  # fmt: skip
USAGE = """\
usage: knockd [options]
options:
  -i, --interface <int>  network interface to listen on (default "eth0")
  -d, --daemon           run as a daemon
  -c, --config <file>    use an alternate config file
  -D, --debug            output debug messages
  -l, --lookup           lookup DNS names (may be a security risk)
  -p, --pidfile          use an alternate pidfile
  -g, --logfile          use an alternate logfile
  -v, --verbose          be verbose
  -4, --only-ip-v4       do not track ipv6
  -V, --version          display version
  -h, --help             this help
      --engine <engine>  kernel or ring (default: kernel if possible)

"""
ENGINES = ("kernel", "ring")
_STATE, _LOCK = "/var/lib/doorward-knockd", "knockd.lock"  # not doorward's: that is an unprivileged user's


class DaemonArguments(NamedTuple):
    """The parsed command line: options without a value, and options with theirs."""

    flags: frozenset[str]
    values: dict[str, str]


def main(argv: list[str] | None = None) -> int:
    """Run knockd. Its exit codes: 0 help was requested, 1 it could not start, else the signal that ended it."""
    try:
        call = _parse(sys.argv[1:] if argv is None else argv)
    except getopt.GetoptError as error:
        sys.stderr.write(f"knockd: {error.msg}\n")
        sys.stdout.write(USAGE)
        return 1  # knockd exits with 0 here, and scripts continue without a daemon
    if "V" in call.flags:
        sys.stdout.write(f"knockd 0.8 (doorward {__version__})\n")
        return 0
    if "h" in call.flags:
        sys.stdout.write(USAGE)
        return 0
    try:
        return _run_daemon(call)
    except DoorwardError as error:
        sys.stderr.write("".join(f"knockd: {visible(line)}\n" for line in str(error).splitlines()))
        return 1


def _parse(words: list[str]) -> DaemonArguments:
    pairs, rest = getopt.gnu_getopt(words, _SHORT, list(_LONG))
    if rest:
        raise getopt.GetoptError(f"unexpected argument {rest[0]!r}; only options are accepted")
    letters = [(name.lstrip("-"), value) for name, value in pairs]
    named = {long.rstrip("="): letter for long, letter in _LONG.items()}
    options = {named.get(name, name): value for name, value in letters}
    if options.get("engine", "kernel") not in ENGINES:
        raise getopt.GetoptError(f"--engine: unknown engine {options['engine']!r}; expected kernel or ring")
    return DaemonArguments(frozenset(name for name, value in options.items() if not value), options)


def _run_daemon(call: DaemonArguments) -> int:
    from doorward.config.files import read_text, trusted_owners
    from doorward.config.knockd import DEFAULT_PID_FILE, parse
    from doorward.daemon.ledger import open_ledger
    from doorward.knockd.engine import open_engine
    from doorward.knockd.knockd_daemon import Knockd, KnockdSettings
    from doorward.knockd.knockd_log import KnockdLog

    values = call.values
    directory = Path.cwd()
    path = directory / values.get("c", "/etc/knockd.conf")
    configuration = parse(read_text(path, trusted_owners()), str(path))
    options = configuration.options
    settings = KnockdSettings(path, directory, values.get("i"), "4" in call.flags, "l" in call.flags, values.get("g"))
    output = KnockdLog(verbose="v" in call.flags, debug="D" in call.flags)
    pid_file = directory / (options.pid_file or values.get("p") or DEFAULT_PID_FILE)
    log_file = options.log_file or settings.log_file  # the file takes precedence, as in knockd
    output.open_log(log_file and str(directory / log_file), use_syslog=options.use_syslog)
    daemonized = _Daemon(pid_file) if "d" in call.flags else None
    try:
        ledger_file = _own_ledger()
        engine = open_engine(values.get("engine"), output)
        ledger, set_aside = open_ledger(ledger_file, time.strftime("%Y%m%dT%H%M%S"))
        _lock_state_directory(ledger_file.with_name(_LOCK))
        if set_aside:
            output.alert(set_aside)
        app = Knockd(settings, configuration, engine, output, ledger)
    except DoorwardError as error:
        if daemonized is not None:
            daemonized.fail(str(error))
        raise
    try:
        return app.run(lambda: _release_caller(daemonized, output))
    finally:
        app.close()
        if daemonized is not None:
            daemonized.remove_pid_file()


def _own_ledger() -> Path:
    """Return the path of the ledger. HostError if another user could redirect root by a link in its directory."""
    from doorward.daemon.ledger import ledger_path, make_directory, parts_of
    from doorward.daemon.run_as import refuse_foreign, refuse_shared

    path = ledger_path(_STATE).with_name("knockd.sqlite3")
    make_directory(path)
    if os.geteuid() == 0:
        refuse_shared(path, "give knockd a STATE_DIRECTORY of its own, which belongs to root")
        refuse_foreign([*parts_of(path), path.with_name(_LOCK)], None)
    return path


def _lock_state_directory(lock: Path) -> None:
    """Lock the state directory until this process ends. HostError if another knockd holds the lock.

    Otherwise both would run the same pending commands, and the second's commands would wait for the first to end.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HostError(
            "other-knockd",
            f"another knockd runs with {lock.parent}; stop it, or give this one a STATE_DIRECTORY of its own",
        ) from None


def _release_caller(daemonized: _Daemon | None, output: KnockdLog) -> None:
    if daemonized is not None and (fault := daemonized.succeed()):
        output.log(fault)


class _Daemon:
    """Daemonizes; the calling process exits once the daemon has started or failed."""

    def __init__(self, pid_file: Path) -> None:
        self._pid_file = pid_file
        sys.stdout.flush()
        reader, self._tell = os.pipe()
        if os.fork():
            os.close(self._tell)
            _wait_for_daemon(reader)
        os.close(reader)
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        # Before it is ready: programs that it starts must not keep the caller's terminal open either.
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)

    def fail(self, message: str) -> NoReturn:
        """Pass the message to the calling process, which prints it, and exit with 1."""
        os.write(self._tell, message.encode())
        os._exit(1)

    def succeed(self) -> str:
        """Write the pid file and release the calling process; return what went wrong, or an empty string."""
        fault = ""
        try:
            self._pid_file.write_text(f"{os.getpid()}\n")
        except OSError as error:
            fault = f"could not create pid file {self._pid_file}: {error.strerror}"
        os.write(self._tell, b"\0")
        os.close(self._tell)
        return fault

    def remove_pid_file(self) -> None:
        """Remove the pid file, unless it names another process."""
        try:
            if self._pid_file.read_text().strip() == str(os.getpid()):
                self._pid_file.unlink()
        except OSError:
            pass


def _wait_for_daemon(descriptor: int) -> NoReturn:
    with os.fdopen(descriptor, "rb") as pipe:
        message = pipe.read()
    if message != b"\0":
        error_text = message.decode() or "the daemon ended before it was ready"
        sys.stderr.write(f"knockd: {visible(error_text)}\n")
        sys.stderr.flush()
    os._exit(0 if message == b"\0" else 1)


if __name__ == "__main__":
    sys.exit(main())
