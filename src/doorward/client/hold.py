"""When to knock while a door is held open. Pure: times are arguments, in seconds of a clock that also counts a suspend.

To read a row of TABLE: in this state, after this event, the hold goes to that state, and does this. An event without a
row changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

DEFAULT_FOR_S = 60
LEAST_FOR_S = 3  # also where less is confirmed: a packet a second is enough
LOOK_S = 1.0  # between looks at the clock and the routes
# A look that is so late was held up: the host was suspended, or this process stopped. The network may be another one.
SLEPT_S = LOOK_S + 2.0
CLOSE_S = 2.0  # for the packet that closes; the opening ends by itself if it cannot be sent
# After the first knock and after a change the packet is sent again after these pauses: it may be lost, as networks
# are not always ready when their address is.
RETRIES_S = (1.0, 4.0)
# Where a packet costs nothing, two in a row may be lost, and a gate may open for less than was asked for; where it
# costs a touch, it is sent late.
RENEW_AT, RENEW_TOUCH_AT = 1 / 3, 9 / 10

Routes = tuple[object, ...]  # for each address of the gate how this host reaches it; None: there is no route


class HoldState(Enum):
    """What the hold is doing."""

    HOLDING = auto()  # the packets are sent, and the next are not due yet
    SENDING = auto()  # packets are signed and sent, which may take a touch
    AGAIN = auto()  # as SENDING, and the routes have changed meanwhile
    CLOSING = auto()
    ENDED = auto()


class HoldEvent(Enum):
    """What happens to the hold."""

    DUE = auto()  # it is time for the next packets, or while CLOSING, to give up
    CHANGED = auto()  # the routes have changed, or the host was asleep
    SENT = auto()  # the packets were sent, or could not be
    END = auto()  # the command has ended, or a signal has come
    LEAVE = auto()  # as END, where the door is left to close by itself
    CLOSED = auto()  # the packets that close were sent, or could not be


class HoldAction(Enum):
    """What the hold does."""

    NOTHING = auto()
    KNOCK = auto()
    CLOSE = auto()
    EXIT = auto()


TABLE = {
    (HoldState.HOLDING, HoldEvent.DUE): (HoldState.SENDING, HoldAction.KNOCK),
    (HoldState.HOLDING, HoldEvent.CHANGED): (HoldState.SENDING, HoldAction.KNOCK),
    (HoldState.HOLDING, HoldEvent.END): (HoldState.CLOSING, HoldAction.CLOSE),
    (HoldState.HOLDING, HoldEvent.LEAVE): (HoldState.ENDED, HoldAction.EXIT),
    (HoldState.SENDING, HoldEvent.CHANGED): (HoldState.AGAIN, HoldAction.NOTHING),
    (HoldState.SENDING, HoldEvent.SENT): (HoldState.HOLDING, HoldAction.NOTHING),
    (HoldState.SENDING, HoldEvent.END): (HoldState.CLOSING, HoldAction.CLOSE),
    (HoldState.SENDING, HoldEvent.LEAVE): (HoldState.ENDED, HoldAction.EXIT),
    (HoldState.AGAIN, HoldEvent.SENT): (HoldState.SENDING, HoldAction.KNOCK),
    (HoldState.AGAIN, HoldEvent.END): (HoldState.CLOSING, HoldAction.CLOSE),
    (HoldState.AGAIN, HoldEvent.LEAVE): (HoldState.ENDED, HoldAction.EXIT),
    (HoldState.CLOSING, HoldEvent.DUE): (HoldState.ENDED, HoldAction.EXIT),
    (HoldState.CLOSING, HoldEvent.END): (HoldState.ENDED, HoldAction.EXIT),
    (HoldState.CLOSING, HoldEvent.CLOSED): (HoldState.ENDED, HoldAction.EXIT),
}


@dataclass(frozen=True, slots=True)
class Hold:
    """A door held open: what each knock asks for, for how long it then is open, and whether it costs a touch."""

    for_s: float
    open_s: float
    needs_touch: bool
    routes: Routes
    looked_s: float
    due_s: float
    retries_s: tuple[float, ...] = ()
    state: HoldState = HoldState.HOLDING

    @property
    def next_s(self) -> float:
        """When to look again, unless the routes change before; what is due already waits for a route, or a touch."""
        look_s = self.looked_s + LOOK_S
        return min(self.due_s, look_s) if self.due_s > self.looked_s else look_s


Step = tuple[Hold, HoldAction]


def begin(for_s: float, routes: Routes, now_s: float, *, needs_touch: bool) -> Hold:
    """Return the hold after the first knock, which was sent now by these routes."""
    hold = Hold(for_s, for_s, needs_touch, routes, now_s, now_s)
    return _set_due(replace(hold, retries_s=RETRIES_S), now_s)


def on_look(hold: Hold, now_s: float, routes: Routes) -> Step:
    """Handle a look at the clock and the routes. Without a route nothing is sent, and its return is a change."""
    has_slept = now_s - hold.looked_s > SLEPT_S and not hold.needs_touch
    has_changed = routes != hold.routes or has_slept
    hold = replace(hold, looked_s=now_s, routes=routes)
    if hold.state is not HoldState.CLOSING and not any(routes):
        return hold, HoldAction.NOTHING
    if has_changed and hold.state is not HoldState.CLOSING:
        return _step(replace(hold, retries_s=RETRIES_S), HoldEvent.CHANGED)
    return _step(hold, HoldEvent.DUE) if now_s >= hold.due_s else (hold, HoldAction.NOTHING)


def on_sent(hold: Hold, now_s: float) -> Step:
    """Handle that packets were sent, or could not be."""
    return _step(hold if hold.state is HoldState.CLOSING else _set_due(hold, now_s), HoldEvent.SENT)


def on_confirmed(hold: Hold, now_s: float, left_s: float) -> Hold:
    """Handle a confirmation that the door is open for `left_s`, which may be less than was asked for.

    An earlier knock may have opened it for longer, but to an address that this one has left unnoticed.
    """
    hold = replace(hold, open_s=min(hold.for_s, max(left_s, LEAST_FOR_S)))
    return _set_due(replace(hold, retries_s=()), now_s) if hold.state is HoldState.HOLDING else hold


def on_end(hold: Hold, now_s: float) -> Step:
    """Handle the end: close the door, unless that costs a touch."""
    return _step(replace(hold, due_s=now_s + CLOSE_S), HoldEvent.LEAVE if hold.needs_touch else HoldEvent.END)


def on_closed(hold: Hold) -> Step:
    """Handle that the packets that close were sent, or could not be."""
    return _step(hold, HoldEvent.CLOSED)


def _step(hold: Hold, event: HoldEvent) -> Step:
    state, action = TABLE.get((hold.state, event), (hold.state, HoldAction.NOTHING))
    return replace(hold, state=state), action


def _set_due(hold: Hold, now_s: float) -> Hold:
    """Set when the next packets are due."""
    pause_s = hold.open_s * (RENEW_TOUCH_AT if hold.needs_touch else RENEW_AT)
    if hold.retries_s and not hold.needs_touch:
        pause_s = min(pause_s, hold.retries_s[0])
    return replace(hold, due_s=now_s + pause_s, retries_s=hold.retries_s[1:])
