"""The request, observations and findings of `doorward verify`. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from doorward.model import Port, Protocol
from doorward.verify.nmap_xml import PortAnswer, PortResult
from doorward.verify.port_set import MAX_RANGES, Ports, port_numbers, port_ranges, ports_text

View = Mapping[Port, PortResult]


class VerifyRequest(NamedTuple):
    """The options of one call.

    `public` ports may be visible; `opens` are the ports that the knock must open (empty: any change counts); `guard`:
    closed ports are expected; `knocks`: the ports of the sequence, if the client knows them.
    """

    ports: Ports
    public: Ports = frozenset()
    opens: Ports = frozenset()
    knocks: Ports = frozenset()
    guard: bool = False
    wait_s: float = 120.0


class ObservedOpening(NamedTuple):
    """The effect of a knock: the ports that answer now, and those that should but do not.

    `rounds` is how often it was sent: 0 if every port that it may open is already open.
    """

    found: View
    missing: Ports
    rounds: int


class ObservedClosing(NamedTuple):
    """When the door was last seen open and first seen closed, in seconds after the knock; `left`: still open."""

    open_s: float
    shut_s: float
    left: Ports


class Observations(NamedTuple):
    """All observations, in order; None for a phase that did not take place."""

    before: View
    opening: ObservedOpening | None = None
    closing: ObservedClosing | None = None


class VerifyFinding(NamedTuple):
    """One problem and its remedy."""

    what: str
    instead: str


def opened_by_knock(request: VerifyRequest, before: View, after: View) -> View:
    """Return the ports that answer after the knock and did not before, or were closed and are open now.

    Closed UDP ports count only if listed in `opens`: hosts rate-limit such answers, so they come and go.
    """
    return {port: seen for port, seen in after.items() if _is_opened(request, port, before[port].answer, seen.answer)}


def _is_opened(request: VerifyRequest, port: Port, before: PortAnswer, after: PortAnswer) -> bool:
    if after is PortAnswer.OPEN:
        return before is not PortAnswer.OPEN
    is_sure = port.protocol is Protocol.TCP or port in request.opens
    return is_sure and before is PortAnswer.SILENT and after is not PortAnswer.SILENT


def worth_knocking_for(request: VerifyRequest, before: View) -> Ports:
    """Return the ports that a knock may still open: all that are not open yet."""
    wanted = request.opens or request.ports
    return frozenset(port for port in wanted if before[port].answer is not PortAnswer.OPEN)


def visible(request: VerifyRequest, before: View) -> View:
    """Return the ports that are visible and should not be."""
    return {
        port: seen
        for port, seen in before.items()
        if seen.answer is not PortAnswer.SILENT
        and port not in request.public
        and not (request.guard and seen.answer is PortAnswer.CLOSED and port not in request.opens)
    }


def find_problems(request: VerifyRequest, observed: Observations) -> list[VerifyFinding]:
    """Return all problems, in the order of observation."""
    findings = [*_visible(request, observed.before), *_odd_knock_ports(request, observed.before)]
    if observed.opening is not None:
        findings += _not_opened(request, observed.opening)
    if observed.closing is not None and observed.closing.left:
        findings.append(
            VerifyFinding(
                f"{ports_text(observed.closing.left)} did not close within {request.wait_s:.0f} s",
                "if the door's `for` is longer, set it with --for; otherwise see `doorward status` on the server",
            )
        )
    return findings


def _visible(request: VerifyRequest, before: View) -> list[VerifyFinding]:
    by_answer: dict[PortAnswer, dict[Port, PortResult]] = {}
    for port, seen in visible(request, before).items():
        by_answer.setdefault(seen.answer, {})[port] = seen
    return [
        VerifyFinding(f"{ports_text(found)} {_verb(answer, found)}", _remedy(request, answer, found))
        for answer in PortAnswer
        if (found := by_answer.get(answer, {}))
    ]


def _verb(answer: PortAnswer, found: View) -> str:
    single = len(found) == 1
    if answer is PortAnswer.OPEN:
        return "is open without a knock" if single else "are open without a knock"
    if answer is PortAnswer.CLOSED:
        return ("refuses" if single else "refuse") + ", which reveals that a host exists"
    (reason, by), _ = Counter((seen.reason, seen.by) for seen in found.values()).most_common(1)[0]
    sender = f" by {by}" if by else ""
    return ("is" if single else "are") + f" rejected{sender} ({reason}), which reveals a packet filter"


def _remedy(request: VerifyRequest, answer: PortAnswer, found: View) -> str:
    if any(port in request.opens for port in found) and answer is PortAnswer.OPEN:
        return "is the door still open for this address from an earlier knock? wait until it closes, and run this again"
    if answer is PortAnswer.OPEN:
        earlier = "" if request.opens else "; if an earlier knock from this address opened it, wait until it closes"
        return f"hide it behind a door; if it is meant to be public, add --expect {_listed(found)}{earlier}"
    if answer is PortAnswer.CLOSED and not request.guard:
        either = 'use mode = "stealth" to hide it; if mode = "guard" is intended, add --guard'
        return f"{either}; if it is meant to be public, add --expect {_listed(found)}"
    if answer is PortAnswer.CLOSED:
        return "a door's port must be silent before the knock: is it in the door's `opens`, and does the daemon run?"
    return "configure that packet filter to drop instead of reject"


def _listed(found: View) -> str:
    """Return the ports as `--expect` takes them."""
    tcp, udp = (port_ranges(port_numbers(found, protocol)) for protocol in (Protocol.TCP, Protocol.UDP))
    words = tcp + [f"{text}/udp" for text in udp]
    return ",".join(words[:MAX_RANGES]) + (",…" if len(words) > MAX_RANGES else "")


def _odd_knock_ports(request: VerifyRequest, before: View) -> list[VerifyFinding]:
    """Find silent knock ports among closed ports: they show a scanner where to knock."""
    silent: dict[bool, set[Port]] = {True: set(), False: set()}
    refusing = 0
    for port, seen in before.items():
        if port.protocol is Protocol.TCP:  # closed UDP ports answer too rarely to decide
            refusing += seen.answer is PortAnswer.CLOSED
            if seen.answer is PortAnswer.SILENT:
                silent[port in request.knocks].add(port)
    if not silent[True] or refusing <= len(silent[True]) + len(silent[False]):
        return []
    return [
        VerifyFinding(
            f"{ports_text(silent[True])}: a knock port that is silent among closed ports",
            'it reveals where to knock; use mode = "stealth", or close every port that no door opens',
        )
    ]


def _not_opened(request: VerifyRequest, opening: ObservedOpening) -> list[VerifyFinding]:
    if not opening.rounds:
        return [
            VerifyFinding(
                "the knock cannot be tested: every port that it may open is open already",
                "close it first, or name another port with --port",
            )
        ]
    findings = []
    if opening.missing or not opening.found:
        times = "once" if opening.rounds == 1 else f"{opening.rounds} times"
        what = ports_text(opening.missing) if request.opens else "any port"
        mute = any(port.protocol is Protocol.UDP for port in opening.missing)
        findings.append(
            VerifyFinding(
                f"the knock (sent {times}) did not open {what} for this address",
                "check the sequence or the key, and `doorward log` on the server"
                + ("; a UDP service that never answers looks silent" if mute else ""),
            )
        )
    if refused := [port for port, seen in opening.found.items() if seen.answer is not PortAnswer.OPEN]:
        findings.append(
            VerifyFinding(
                f"the knock lets packets to {ports_text(refused)} in, but nothing accepts a connection there",
                "check whether the service runs, and whether another packet filter rejects it",
            )
        )
    return findings


def counts(view: View) -> dict[PortAnswer, Ports]:
    """Return the ports by answer."""
    found: dict[PortAnswer, set[Port]] = {answer: set() for answer in PortAnswer}
    for port, seen in view.items():
        found[seen.answer].add(port)
    return {answer: frozenset(ports) for answer, ports in found.items()}
