"""The steps of `doorward verify`: scan, knock, scan, wait until closed. All effects are arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from doorward.verify.findings import (
    Observations,
    ObservedClosing,
    ObservedOpening,
    VerifyRequest,
    View,
    opened_by_knock,
    worth_knocking_for,
)
from doorward.verify.nmap_xml import PortAnswer
from doorward.verify.port_set import Ports

# A gate accepts no knock from a source over the rate limit, 20 knock packets/s (burst 40), as a scan is. After two
# seconds without a packet the whole burst is available again; each port was probed twice or more.
QUIET_S = 2.5
QUIET_S_PER_PORT = 0.15
ROUNDS = 3  # a packet of a knock may get lost or be overtaken
TRY_S = 20.0  # no further round after this: scanning all ports takes time
PAUSE_S = 1.0
POLL_S = 1.0  # no faster: sshd penalizes an address that connects repeatedly without logging in


class Probes(NamedTuple):
    """The effects that a run needs: `now` and `sleep` in seconds; `knock` None: only scan."""

    scan: Callable[[Ports], View]
    knock: Callable[[], object] | None
    now: Callable[[], float]
    sleep: Callable[[float], object]
    waiting: Callable[[Ports], object] = lambda _: None  # called with ports that are open before the knock


OnProgress = Callable[[Observations], object]


def run_probes(request: VerifyRequest, probes: Probes, notify: OnProgress) -> Observations:
    """Scan, knock and wait; `notify` receives the observations so far after each step."""
    before = probes.scan(request.ports)
    if probes.knock is not None:
        before = {**before, **_wait_until_closed(request, before, probes)}
    observed = Observations(before)
    notify(observed)
    if probes.knock is None:
        return observed
    wanted = worth_knocking_for(request, observed.before)
    if not wanted:
        observed = observed._replace(opening=ObservedOpening({}, request.opens, rounds=0))
        notify(observed)
        return observed
    probes.sleep(quiet_s(request.ports))
    knocked_s, opening = _open(request, wanted, observed.before, probes, probes.knock)
    observed = observed._replace(opening=opening)
    notify(observed)
    if opening.found:
        observed = observed._replace(closing=_close(request, observed.before, opening, knocked_s, probes))
        notify(observed)
    return observed


def _wait_until_closed(request: VerifyRequest, before: View, probes: Probes) -> View:
    """Wait while the ports to open are still open, as after a recent knock; return their answers then."""
    ports = frozenset(port for port in request.opens - request.public if before[port].answer is PortAnswer.OPEN)
    if not ports:
        return {}
    probes.waiting(ports)
    started_s, found = probes.now(), before
    while any(found[port].answer is PortAnswer.OPEN for port in ports) and probes.now() - started_s < request.wait_s:
        probes.sleep(POLL_S)
        found = probes.scan(ports)
    return {port: found[port] for port in ports}


def quiet_s(ports: Ports) -> float:
    """Return how long to send nothing after a scan, so that the knock counts."""
    return min(QUIET_S, QUIET_S_PER_PORT * len(ports))


def _open(
    request: VerifyRequest, wanted: Ports, before: View, probes: Probes, knock: Callable[[], object]
) -> tuple[float, ObservedOpening]:
    started_s = probes.now()
    for number in range(1, ROUNDS + 1):
        if number > 1:
            probes.sleep(PAUSE_S + quiet_s(wanted))
        knocked_s = probes.now()
        knock()
        found = opened_by_knock(request, before, probes.scan(wanted))
        missing = frozenset(port for port in request.opens if port in wanted and port not in found)
        if (found and not missing) or probes.now() - started_s > TRY_S:
            break
    return knocked_s, ObservedOpening(found, missing, number)


def _close(
    request: VerifyRequest, before: View, opening: ObservedOpening, knocked_s: float, probes: Probes
) -> ObservedClosing:
    """Scan the opened ports until they answer as before, twice in a row: once may be a lost packet."""
    ports = frozenset(opening.found)
    open_s = 0.0
    while True:
        scanned_s = probes.now() - knocked_s
        left = _still_open(ports, before, probes)
        shut_s = probes.now() - knocked_s  # during the scan a port may still have been open
        if not left and not (left := _still_open(ports, before, probes)):
            return ObservedClosing(open_s, shut_s, left)
        open_s = scanned_s
        if open_s >= request.wait_s:
            return ObservedClosing(open_s, open_s, left)
        probes.sleep(POLL_S)


def _still_open(ports: Ports, before: View, probes: Probes) -> Ports:
    found = probes.scan(ports)
    return frozenset(port for port in ports if found[port].answer is not before[port].answer)
