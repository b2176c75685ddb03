"""The steps of `doorward verify`: scan, knock, scan, wait until closed. All effects are arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from doorward.verify.findings import (
    Course,
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
CALM_S = 2.5
CALM_S_A_PORT = 0.15
ROUNDS = 3  # a packet of a knock may get lost or be overtaken
TRY_S = 20.0  # no further round after this: scanning all ports takes time
PAUSE_S = 1.0
POLL_S = 1.0  # no faster: sshd penalizes an address that connects repeatedly without logging in


class Probes(NamedTuple):
    """The effects that a run needs: `now` and `sleep` in seconds; `knock` None: only scan."""

    look: Callable[[Ports], View]
    knock: Callable[[], object] | None
    now: Callable[[], float]
    sleep: Callable[[float], object]
    waiting: Callable[[Ports], object] = lambda _: None  # called with ports that are open before the knock


Tell = Callable[[Course], object]


def run_probes(question: VerifyRequest, means: Probes, tell: Tell) -> Course:
    """Scan, knock and wait; `tell` receives the observations so far after each step."""
    before = means.look(question.ports)
    if means.knock is not None:
        before = {**before, **_shut_first(question, before, means)}
    course = Course(before)
    tell(course)
    if means.knock is None:
        return course
    wanted = worth_knocking_for(question, course.before)
    if not wanted:
        course = course._replace(opening=ObservedOpening({}, question.opens, rounds=0))
        tell(course)
        return course
    means.sleep(calm_s(question.ports))
    knocked_s, opening = _open(question, wanted, course.before, means, means.knock)
    course = course._replace(opening=opening)
    tell(course)
    if opening.found:
        course = course._replace(closing=_close(question, course.before, opening, knocked_s, means))
        tell(course)
    return course


def _shut_first(question: VerifyRequest, before: View, means: Probes) -> View:
    """Wait while the ports to open are still open, as after a recent knock; return their answers then."""
    ports = frozenset(port for port in question.opens - question.public if before[port].answer is PortAnswer.OPEN)
    if not ports:
        return {}
    means.waiting(ports)
    began_s, found = means.now(), before
    while any(found[port].answer is PortAnswer.OPEN for port in ports) and means.now() - began_s < question.wait_s:
        means.sleep(POLL_S)
        found = means.look(ports)
    return {port: found[port] for port in ports}


def calm_s(ports: Ports) -> float:
    """Return how long to send nothing after a scan, so that the knock counts."""
    return min(CALM_S, CALM_S_A_PORT * len(ports))


def _open(
    question: VerifyRequest, wanted: Ports, before: View, means: Probes, knock: Callable[[], object]
) -> tuple[float, ObservedOpening]:
    began_s = means.now()
    for number in range(1, ROUNDS + 1):
        if number > 1:
            means.sleep(PAUSE_S + calm_s(wanted))
        knocked_s = means.now()
        knock()
        found = opened_by_knock(question, before, means.look(wanted))
        missing = frozenset(port for port in question.opens if port in wanted and port not in found)
        if (found and not missing) or means.now() - began_s > TRY_S:
            break
    return knocked_s, ObservedOpening(found, missing, number)


def _close(
    question: VerifyRequest, before: View, opening: ObservedOpening, knocked_s: float, means: Probes
) -> ObservedClosing:
    """Scan the opened ports until they answer as before, twice in a row: once may be a lost packet."""
    ports = frozenset(opening.found)
    open_s = 0.0
    while True:
        looked_s = means.now() - knocked_s
        left = _still_open(ports, before, means)
        if not left and not (left := _still_open(ports, before, means)):
            return ObservedClosing(open_s, looked_s, left)
        open_s = looked_s
        if open_s >= question.wait_s:
            return ObservedClosing(open_s, open_s, left)
        means.sleep(POLL_S)


def _still_open(ports: Ports, before: View, means: Probes) -> Ports:
    found = means.look(ports)
    return frozenset(port for port in ports if found[port].answer is not before[port].answer)
