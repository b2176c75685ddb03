"""The live view (textual): shows the state that `view.py` keeps, and sends the operator's requests to the daemon."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical
from textual.coordinate import Coordinate
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, RichLog, Sparkline, Static

from doorward.config.duration import parse_duration_ms
from doorward.daemon.control_client import EventClient, ask
from doorward.daemon.log import text_of
from doorward.errors import DoorwardError
from doorward.escape import visible
from doorward.model import parse_source
from doorward.watch.feed import DaemonFeed, FeedItem
from doorward.watch.view import MORE, TableRow, WatchState, cut


class Dialog(ModalScreen[str | None]):
    """Asks a question: Enter answers it, Esc cancels. The result is the text of the answer, or None.

    Without `proposed` there is no text to edit, and the answer is empty. `check` raises ValueError for a wrong text.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "no"),
        Binding("enter", "dismiss('')", "yes"),
    ]

    def __init__(
        self,
        question: str,
        proposed: str | None = None,
        check: Callable[[str], object] = str,
        keys: str = "Enter yes   Esc no",
    ) -> None:
        super().__init__()
        self._question, self._proposed, self._check, self._keys = question, proposed, check, keys

    def compose(self) -> ComposeResult:
        """Show the question, the text if there is one, and the keys."""
        with Vertical(classes="dialog"):
            yield Static(self._question, markup=False)
            if self._proposed is not None:
                yield Input(self._proposed, compact=True)
            yield Static(self._keys, id="hint", classes="keys", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Close the dialog with the text, or show what is wrong with it."""
        try:
            self._check(event.value)
        except ValueError as error:
            self.query_one("#hint", Static).update(str(error))
        else:
            self.dismiss(event.value.strip())


def address_and_time(text: str) -> dict[str, str]:
    """Return the fields of a request from "ADDRESS TIME" or "ADDRESS". ValueError: neither of them."""
    address, _, for_ = text.strip().partition(" ")
    parse_source(address)
    if not for_:
        return {"address": address}
    parse_duration_ms(for_.strip())
    return {"address": address, "for": for_.strip()}


HELP = """\
up, down   select a door or an opening
o          open the door to an address
c          close the opening; connections continue
p          prolong the opening, from now
b          ban an address from every door
u          end a ban
Tab        go to the events, to scroll them
q, Ctrl-C  end the view; the gate is unchanged"""
EVERY_S = 0.25  # between two updates of the screen
_COLUMNS = ("door", "open to", "left", "ports", "by")
_MOST_LETTERS = 24  # of a door, its ports or a key; an address is never cut
_KEPT_LINES = 500
LEAVES_SOON_S = 10
_STYLES = {
    **dict.fromkeys(("opened", "prolonged", "ran"), "green"),
    **dict.fromkeys(("closed", "released", "not_open"), "dim"),
    "refused": "yellow",
    **dict.fromkeys(("banned", "lost"), "red"),
}
_LEVELS = {"warning": "yellow", "error": "red"}


class WatchApp(App[int]):
    """One screen: openings, knocks in progress, bans, the gate's counters, and events."""

    TITLE = "doorward"
    ENABLE_COMMAND_PALETTE = False
    CSS_PATH = "app.tcss"
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 (declared so by the base class)
        (0, "-narrow"),
        (110, "-wide"),
    ]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "open", "open"),
        Binding("c", "close", "close"),
        Binding("p", "prolong", "prolong"),
        Binding("b", "ban", "ban"),
        Binding("u", "unban", "unban"),
        Binding("question_mark", "help", "help"),
        Binding("q,ctrl+c", "quit", "quit"),
    ]

    def __init__(self, control: Path) -> None:
        super().__init__()
        self._control, self._feed, self._state = control, DaemonFeed(control), WatchState()
        self._error = ""
        self._shown: list[TableRow] = []

    def compose(self) -> ComposeResult:
        """Lay out the screen."""
        yield Static(id="summary", markup=False)
        yield DataTable(id="doors", cursor_type="row")
        with Horizontal(id="middle"):
            with Container(id="sources"):
                yield Static(id="attempts", markup=False)
                yield Static(id="bans", markup=False)
            yield Static(id="gate", markup=False)
        with Horizontal(id="dropping"):
            yield Static(id="rate", markup=False)
            yield Sparkline(id="drops")
        yield RichLog(id="events", max_lines=_KEPT_LINES, wrap=True, auto_scroll=True)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Set up the table and titles, and connect to the daemon."""
        table = self._table()
        for name in _COLUMNS:
            table.add_column(name, key=name)
        table.border_title = "doors"
        self.query_one("#attempts").border_title = "knocks in progress"
        self.query_one("#bans").border_title = "bans"
        self.query_one("#gate").border_title = "gate"
        self.query_one("#events").border_title = "events"
        self._feed.start()
        self.set_interval(EVERY_S, self._refresh)

    def on_unmount(self) -> None:
        """Disconnect from the daemon."""
        self._feed.stop()

    def _table(self) -> DataTable[Any]:
        return self.query_one("#doors", DataTable)

    def _refresh(self) -> None:
        if not self.query("#summary"):
            return  # the screen is being removed: the program ends
        now_s = time.monotonic()
        for item in self._feed.drain():
            self._handle(item, now_s)
        clock = f"{datetime.now(UTC).astimezone():%H:%M:%S}"
        state = self._state
        is_connected = state.summary and not self._error
        words = f"{state.summary} · {state.open_count} open" if is_connected else "no daemon; waiting"
        self.query_one("#summary", Static).update(f"doorward · {words} · {clock}")
        self._show_rows(self._state.rows(now_s))
        attempts, bans = self.query_one("#attempts", Static), self.query_one("#bans", Static)
        attempts.update("\n".join(self._state.attempts(max(1, attempts.size.height))) or "none")
        bans.update("\n".join(self._state.ban_lines(max(1, bans.size.height), now_s)))
        self.query_one("#gate", Static).update("\n".join(self._state.gate()))
        self.query_one("#rate", Static).update(self._state.drop_rate())
        self.query_one("#drops", Sparkline).data = list(self._state.drops)

    def _handle(self, item: FeedItem, now_s: float) -> None:
        kind, data = item
        if kind == "event":
            self._state.on_event(data, now_s)
            self._show_event(data)
        elif kind == "stats":
            self._state.on_stats(data, now_s)
            if self._state.generation != data["generation"]:
                self._feed.reconnect()
        elif kind == "bans":
            self._state.on_bans(data, now_s, time.time())
        elif kind == "began":
            self._error = ""
            self._state.begin(data, now_s, time.time())
        elif data["why"] != self._error:
            self._error = data["why"]
            self._write(datetime.now(UTC), self._error, "red")

    def _show_event(self, event: dict[str, Any]) -> None:
        style = _LEVELS.get(event.get("level", ""), _STYLES.get(event["event"], ""))
        self._write(datetime.fromisoformat(event["time"]), text_of(event["event"], event), style)

    def _write(self, moment: datetime, words: str, style: str) -> None:
        """Add a line to the events, without markup: parts of the text are untrusted input."""
        line = Text.assemble((f"{moment.astimezone():%H:%M:%S} ", "dim"), (words, style))
        self.query_one("#events", RichLog).write(line, expand=True)

    def _show_rows(self, rows: list[TableRow]) -> None:
        """Update the cells that changed; if rows came or went, all rows, with the cursor on the same opening."""
        table, before = self._table(), self._shown
        if [row[:2] for row in rows] == [row[:2] for row in before]:
            for number, (row, was) in enumerate(zip(rows, before, strict=True)):
                for column, (cell, old) in enumerate(zip(_cells(row), _cells(was), strict=True)):
                    if cell != old:
                        table.update_cell_at(Coordinate(number, column), cell)
        else:
            chosen = self._chosen()
            table.clear()
            table.add_rows(map(_cells, rows))
            # A table that is drawn before it has measured its new rows would keep those narrow columns.
            table.call_after_refresh(table.notify_style_update)
            keys = [row[:2] for row in rows]
            if chosen is not None and chosen[:2] in keys:
                table.move_cursor(row=keys.index(chosen[:2]), animate=False)
        self._shown = rows

    def _chosen(self) -> TableRow | None:
        at = self._table().cursor_row
        return self._shown[at] if 0 <= at < len(self._shown) else None

    def _chosen_opening(self) -> TableRow | None:
        row = self._chosen()
        if row is None or not row.address:
            self.notify("select an open door first", severity="warning")
            return None
        return row

    def _ask(
        self, request: dict[str, str], question: str, proposed: str | None = None, check: Callable[[str], Any] = str
    ) -> None:
        """Ask a question, and send the request once it is answered, with the fields that `check` returns."""

        def on_result(answer: str | None) -> None:
            if answer is not None:
                self._send(request | (check(answer) if proposed is not None else {}))

        self.push_screen(Dialog(question, proposed, check), on_result)

    def action_open(self) -> None:
        """Open the chosen door to an address, after a question."""
        if (row := self._chosen()) is not None and row.door != MORE:
            request = {"command": "open", "door": row.door}
            self._ask(request, f"Open {row.door} to which ADDRESS, and for what TIME?", "", address_and_time)

    def action_close(self) -> None:
        """Close the chosen opening, after a question."""
        if (row := self._chosen_opening()) is not None:
            request = {"command": "close", "door": row.door, "address": row.address}
            self._ask(request, f"Close {row.door} to {row.address}? Established connections continue.")

    def action_prolong(self) -> None:
        """Keep the chosen opening open for longer, after a question."""
        if (row := self._chosen_opening()) is not None:
            request = {"command": "open", "door": row.door, "address": row.address}
            self._ask(request, f"Keep {row.door} open to {row.address} for how long from now?", "1h", _time)

    def action_ban(self) -> None:
        """Ban an address, after a question."""
        row = self._chosen()
        proposed = f"{row.address} 1h" if row is not None and row.address else ""
        self._ask(
            {"command": "ban"}, "Ban which ADDRESS from every door, and for what TIME?", proposed, address_and_time
        )

    def action_unban(self) -> None:
        """End a ban, after a question."""
        newest = next((address for address, _ in self._state.active_bans(time.monotonic())), "")
        self._ask({"command": "unban"}, "End the ban of which ADDRESS?", newest, _banned)

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Dialog(HELP, keys="Enter or Esc to go back"))

    def _send(self, request: dict[str, Any]) -> None:
        """Send a request to the daemon, and show its error if any; its effect arrives as an event."""
        self.run_worker(lambda: self._send_and_report(request), thread=True)

    def _send_and_report(self, request: dict[str, Any]) -> None:
        try:
            ask(self._control, request)
        except DoorwardError as error:
            self.call_from_thread(self.notify, visible(str(error)), severity="error", markup=False)


def _time(text: str) -> dict[str, str]:
    parse_duration_ms(text.strip())
    return {"for": text.strip()}


def _banned(text: str) -> dict[str, str]:
    return {"address": str(parse_source(text.strip()))}


def _cells(row: TableRow) -> list[Text]:
    """Return a row's cells: a closed door is dim, an opening that ends soon is bright."""
    if not row.address:
        words = (row.door, "" if row.by else "-", "", row.ports, row.by)
        return [Text(cut(word, _MOST_LETTERS), "dim") for word in words]
    leaves_soon = row.left.endswith("s") and int(row.left[:-1]) <= LEAVES_SOON_S
    left = Text(row.left, "bold red" if leaves_soon else "", justify="right")
    door, ports, by = (cut(word, _MOST_LETTERS) for word in (row.door, row.ports, row.by))
    return [Text(door, "bold"), Text(row.address), left, Text(ports), Text(by)]


def watch(control: Path) -> int:
    """Show the live view until the operator ends it; return the exit status. NegativeResult if no daemon runs."""
    EventClient(control).close()  # so that its error is shown on the terminal, not in the view
    return WatchApp(control).run() or 0
