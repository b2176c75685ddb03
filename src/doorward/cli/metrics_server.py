"""Serve metrics to Prometheus, locally only, in a process of its own so that slow clients never block the daemon.

A loopback port is readable by every local user and serves the public metrics. A UNIX socket has a group and a mode,
and serves everything.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from copy import copy
from itertools import accumulate
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from doorward import __version__
from doorward.errors import HostError, UsageError
from doorward.watch.view import FINGERPRINT

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

Stats = Mapping[str, Any]  # the daemon's answer to the command `stats`
_Samples = dict[tuple[str, ...], float]
_PUBLIC = {
    "doorward_up",
    "doorward_build_info",
    "doorward_doors",
    "doorward_signed_ready",
    "doorward_fleet_in_touch",
    "doorward_ledger_trouble",
    "doorward_packets",
}
# Not `dropped_stealth`, `throttled`, `banned` or `ratelimit_full`: with wrong_port = "known" they reveal which ports
# occur in a sequence.
_PUBLIC_PATHS = {
    "dropped_closed",
    "signed_length",
    "signed_throttled",
    "signed_budget_exceeded",
    "browser_throttled",
    "browser_budget_exceeded",
    "fwknop_throttled",
    "fwknop_budget_exceeded",
}
_EVENTS = {
    "opened": ("doorward_opened", "Openings started, by door and trigger: knock, key or hand."),
    "prolonged": ("doorward_prolonged", "Openings prolonged, by door and trigger."),
    "closed": (
        "doorward_closed",
        "Openings ended, by door and reason: time, hand, key, ban, use, or lost by the kernel.",
    ),
    "ran": ("doorward_hook_runs", "Runs of command-only doors, by door and trigger."),
}


class StatsCollector(Collector):
    """Collects the metrics that every local user may read, or all of them."""

    def __init__(self, stats: Callable[[], Stats | None], *, is_public: bool) -> None:
        """`stats` returns None if no daemon answers."""
        self._stats, self._is_public = stats, is_public

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the statistics as they are now."""
        stats = self._stats()
        yield _gauge("doorward_up", "Whether the daemon answers.", stats is not None)
        for metric in () if stats is None else families(stats):
            if not self._is_public:
                yield metric
            elif metric.name in _PUBLIC:
                yield _public(metric)


def _public(family: Metric) -> Metric:
    if family.name == "doorward_packets":
        family = copy(family)
        family.samples = [sample for sample in family.samples if sample.labels["path"] in _PUBLIC_PATHS]
    return family


def families(stats: Stats) -> Iterator[Metric]:
    """Yield every metric family of the daemon's statistics."""
    yield _with_samples(
        GaugeMetricFamily("doorward_build_info", "The version.", labels=["version"]), {(__version__,): 1}
    )
    yield _gauge("doorward_doors", "Doors in the active configuration.", stats["doors"])
    yield _gauge("doorward_openings", "Active openings.", stats["openings"])
    yield _gauge("doorward_bans", "Banned addresses and networks.", stats["bans"])
    yield from _events(stats)
    yield _refusals(stats)
    packets = CounterMetricFamily("doorward_packets", "Packets counted by the kernel, by outcome.", labels=["path"])
    yield _with_samples(packets, {(name,): count for name, count in stats["counters"].items()})
    yield from _sets(stats["sets"])
    yield _latency(stats["latency"])
    if (signed := stats["signed"]) is not None:
        yield _gauge("doorward_signed_ready", "Whether signed knocks are accepted.", signed["takes"])
        help_text = "Signed knocks that opened or closed a door and asked for a confirmation, by its outcome."
        confirmed = CounterMetricFamily("doorward_confirmations", help_text, labels=["outcome"])
        counts = signed["confirmations"]["counts"]
        yield _with_samples(confirmed, {(outcome,): count for outcome, count in counts.items()})
    if (fleet := stats.get("fleet")) is not None:  # missing from an older daemon
        yield from _fleet(fleet)
    yield _counter(
        "doorward_log_overflows", "Times that the kernel's log overflowed and lost messages.", stats["log_overflows"]
    )
    yield _gauge("doorward_ledger_trouble", "Whether the ledger cannot be written.", bool(stats["ledger_trouble"]))
    yield _counter("doorward_ledger_lost", "Records that never reached the ledger.", stats["ledger_lost"])


def _fleet(fleet: Mapping[str, Any]) -> Iterator[Metric]:
    yield _gauge("doorward_fleet_in_touch", "Whether etcd answers.", fleet["is_in_touch"])
    yield _gauge("doorward_fleet_openings", "Openings of the fleet, as known to this gate.", fleet["openings"])
    yield _gauge("doorward_fleet_owed", "Changes not yet written to etcd.", fleet["owed"])
    rejected = CounterMetricFamily(
        "doorward_fleet_rejected", "Openings of the fleet rejected by this gate, by reason.", labels=["reason"]
    )
    yield _with_samples(rejected, {(reason,): count for reason, count in fleet.get("rejected", {}).items()})
    help_text = "Signed knocks decided by local policy because etcd did not answer, by outcome."
    unanswered = CounterMetricFamily("doorward_fleet_unanswered", help_text, labels=["outcome"])
    counted = dict.fromkeys(("refused", "taken"), 0) | fleet["without_answer"]
    yield _with_samples(unanswered, {(outcome,): count for outcome, count in counted.items()})


def _events(stats: Stats) -> Iterator[Metric]:
    for event, (name, help_text) in _EVENTS.items():
        samples: _Samples = {
            (door, by): count for sample_event, door, by, count in stats["events"] if sample_event == event
        }
        yield _with_samples(CounterMetricFamily(name, help_text, labels=["door", "by"]), samples)


def _refusals(stats: Stats) -> Metric:
    signed = (stats["signed"] or {}).get("refused", {})
    samples: _Samples = {("knock", reason): count for reason, count in stats["refused"].items()}
    samples |= {("key", reason): count for reason, count in signed.items()}
    help_text = "Rejected knocks and signed knocks, by kind and reason."
    return _with_samples(CounterMetricFamily("doorward_refusals", help_text, labels=["by", "reason"]), samples)


def _sets(sets: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield the fill level of each set; an automaton's sets have its fingerprint in their name."""
    labels = ["set", "automaton"]
    known = {(*FINGERPRINT.split(name), "")[:2]: state for name, state in sets.items()}
    full = GaugeMetricFamily(
        "doorward_set_elements", "Current size of each nftables set, where the kernel reports it.", labels=labels
    )
    yield _with_samples(full, {key: state["elements"] for key, state in known.items() if state["elements"] is not None})
    size = GaugeMetricFamily("doorward_set_size", "Maximum size of each nftables set.", labels=labels)
    yield _with_samples(size, {key: state["size"] for key, state in known.items() if state["size"]})


def _latency(histogram: Mapping[str, Any]) -> Metric:
    bounds = [*map(str, histogram["bounds"]), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram["counts"]), strict=True))
    help_text = "Seconds from the kernel's log of a complete knock to its opening in the ledger."
    return HistogramMetricFamily("doorward_recording_seconds", help_text, buckets=buckets, sum_value=histogram["sum"])


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=float(value))


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(name, help_text, value=float(value))


def _with_samples(family: GaugeMetricFamily | CounterMetricFamily, samples: _Samples) -> Metric:
    for labels, value in samples.items():
        family.add_metric(labels, float(value))
    return family


MAX_CLIENTS = 8  # at once; further connections are closed
PATIENCE_S = 10.0  # for a request and its answer together
FRESH_S = 1.0  # the daemon is queried at most this often
_LOCAL = {"127.0.0.1": socket.AF_INET, "localhost": socket.AF_INET, "[::1]": socket.AF_INET6}


class Listen(NamedTuple):
    """Where to listen: a UNIX socket, or a port of a loopback address."""

    family: socket.AddressFamily
    address: str
    port: int = 0


def parse_listen(text: str) -> Listen:
    """Parse `unix:PATH`, `127.0.0.1:PORT`, `localhost:PORT` or `[::1]:PORT`. UsageError for anything else."""
    if text.startswith("unix:/"):
        return Listen(socket.AF_UNIX, text.removeprefix("unix:"))
    host, _, port = text.rpartition(":")
    if host not in _LOCAL or not (port.isascii() and port.isdecimal() and 1 <= int(port[:6]) <= 65535):
        examples = "unix:/run/doorward/metrics.sock or 127.0.0.1:9477"
        raise UsageError(
            "invalid-listen-address",
            f"--listen: {text!r} must be a UNIX socket or a loopback address; write {examples}",
        )
    return Listen(_LOCAL[host], host.strip("[]").replace("localhost", "127.0.0.1"), int(port))


class StatsCache:
    """The daemon's statistics, requested at most once per second."""

    def __init__(self, fetch: Callable[[], Stats | None]) -> None:
        self._fetch, self._at_s = fetch, float("-inf")
        self._stats: Stats | None = None
        self._lock = threading.Lock()

    def get(self) -> Stats | None:
        """Return the cached statistics, or new ones if they are older than FRESH_S."""
        with self._lock:
            if time.monotonic() >= self._at_s + FRESH_S:
                self._stats, self._at_s = self._fetch(), time.monotonic()
            return self._stats


class Server(ThreadingMixIn, WSGIServer):
    """Serves `/metrics` until `shutdown`."""

    daemon_threads = True
    request_queue_size = 2 * MAX_CLIENTS
    _file: Path | None = None  # the socket that this server created

    def __init__(self, listen: Listen, stats: Callable[[], Stats | None]) -> None:
        self.address_family, self._listen = listen.family, listen
        self._room = threading.BoundedSemaphore(MAX_CLIENTS)
        try:
            super().__init__((listen.address, listen.port), _Handler)
        except OSError as error:
            where = listen.address if listen.family is socket.AF_UNIX else f"{listen.address}:{listen.port}"
            raise HostError(
                "listen-failed", f"--listen: {where}: {error.strerror or error}; choose another address"
            ) from None
        is_local_port = listen.family is not socket.AF_UNIX
        metrics = make_wsgi_app(StatsCollector(stats, is_public=is_local_port), disable_compression=True)
        self.set_app(_restrict(metrics, check_host=is_local_port))

    def server_bind(self) -> None:
        """Bind; a UNIX socket is accessible to the group, and replaces a stale one."""
        self.server_name, self.server_port = self._listen.address, self._listen.port
        self.setup_environ()
        if self._listen.family is not socket.AF_UNIX:
            TCPServer.server_bind(self)  # HTTPServer would look up this host's name in the DNS
            return
        path = Path(self._listen.address)
        _remove_dead(path)
        previous_umask = os.umask(0o117)
        try:
            self.socket.bind(str(path))
        finally:
            os.umask(previous_umask)
        self._file = path

    def server_close(self) -> None:
        """Close, and remove the socket's file."""
        super().server_close()
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a client; one of a UNIX socket has no address, which WSGI needs."""
        request, address = super().get_request()
        return request, address or ("local", 0)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread, or close the connection if MAX_CLIENTS are being served."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve, and cut the connection after PATIENCE_S."""
        cut = threading.Timer(PATIENCE_S, _cut, (request,))
        cut.daemon = True
        cut.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            cut.cancel()
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect early."""


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Log no requests."""


def _restrict(metrics: WSGIApplication, *, check_host: bool) -> WSGIApplication:
    """Return `metrics` for GET /metrics alone and, if `check_host`, for loopback names alone."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if check_host and _is_foreign(environ.get("HTTP_HOST", "localhost")):
            status = "403 unknown Host: only loopback names are served"
        elif environ["PATH_INFO"] != "/metrics":
            status = "404 only /metrics is served"
        elif environ["REQUEST_METHOD"] != "GET":
            status = "405 only GET is served"
        else:
            return metrics(environ | {"QUERY_STRING": ""}, start_response)  # which could ask for a part
        start_response(status, [("Content-Type", "text/plain")])
        return [f"{status[4:]}\n".encode()]

    return application


def _is_foreign(host: str) -> bool:
    """Return whether the Host header is foreign, as in a DNS rebinding attack on a browser."""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name not in _LOCAL


def _cut(request: socket.socket) -> None:
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _remove_dead(path: Path) -> None:
    """Remove a stale socket. HostError if a server listens on it, or if it is not a socket."""
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        if not path.is_socket() or probe.connect_ex(str(path)) == 0:
            raise HostError("socket-in-use", f"--listen: {path} is in use; choose another path")
    path.unlink()
