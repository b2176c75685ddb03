"""The live view (textual): shows the state that `view.py` keeps, and sends the operator's requests to the daemon."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.coordinate import Coordinate
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, RichLog, Sparkline, Static

from doorward.config.duration import parse_duration_ms
from doorward.daemon.control_client import EventClient, ask
from doorward.daemon.log import text_of
from doorward.errors import DoorwardError
from doorward.escape import visible
from doorward.watch.feed import DaemonFeed, FeedItem
from doorward.watch.view import TableRow, WatchState, cut


class ConfirmDialog(ModalScreen[bool]):
    """Asks for confirmation; the result is the answer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "yes"),
        Binding("n,escape", "answer(False)", "no"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """Show the question and its keys."""
        with Vertical(classes="dialog"):
            yield Static(self._question, markup=False)
            yield Static("y yes   n no", classes="keys")

    def action_answer(self, answer: bool) -> None:
        """Close the dialog with the answer."""
        self.dismiss(answer)


class DurationDialog(ModalScreen[str | None]):
    """Asks for a valid duration; the result is its text, or None if canceled."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "no")]

    def __init__(self, question: str, proposed: str) -> None:
        super().__init__()
        self._question, self._proposed = question, proposed

    def compose(self) -> ComposeResult:
        """Show the question with an editable answer."""
        with Vertical(classes="dialog"):
            yield Static(self._question, markup=False)
            yield Input(self._proposed, compact=True)
            yield Static("Enter yes   Esc no", id="hint", classes="keys", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Close the dialog with the duration, or show what is wrong with it."""
        try:
            parse_duration_ms(event.value.strip())
        except ValueError as error:
            self.query_one("#hint", Static).update(str(error))
        else:
            self.dismiss(event.value.strip())


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
    """One screen: openings, knocks in progress, the gate's counters, and events."""

    TITLE = "doorward"
    ENABLE_COMMAND_PALETTE = False
    CSS_PATH = "app.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "close", "close"),
        Binding("p", "prolong", "prolong"),
        Binding("b", "ban", "ban"),
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
            yield Static(id="attempts", markup=False)
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
        attempts, gate = self.query_one("#attempts", Static), self.query_one("#gate", Static)
        attempts.update("\n".join(self._state.attempts(max(1, attempts.size.height))) or "none")
        gate.update("\n".join(self._state.gate()))
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
        self.query_one("#events", RichLog).write(line)

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

    def action_close(self) -> None:
        """Close the chosen opening, after a question."""
        if (row := self._chosen_opening()) is not None:
            request = {"command": "close", "door": row.door, "address": row.address}

            def on_result(sure: bool | None) -> None:
                if sure:
                    self._send(request)

            question = f"Close {row.door} to {row.address}? Established connections continue."
            self.push_screen(ConfirmDialog(question), on_result)

    def action_prolong(self) -> None:
        """Keep the chosen opening open for longer, after a question."""
        if (row := self._chosen_opening()) is not None:

            def on_result(for_: str | None) -> None:
                if for_:
                    self._send({"command": "open", "door": row.door, "address": row.address, "for": for_})

            self.push_screen(
                DurationDialog(f"Keep {row.door} open to {row.address} for how long from now?", "1h"), on_result
            )

    def action_ban(self) -> None:
        """Ban the chosen address, after a question."""
        if (row := self._chosen_opening()) is not None:

            def on_result(for_: str | None) -> None:
                if for_:
                    self._send({"command": "ban", "address": row.address, "for": for_})

            question = f"Ban {row.address} from every door, and ignore its knocks, for how long?"
            self.push_screen(DurationDialog(question, "1h"), on_result)

    def _send(self, request: dict[str, Any]) -> None:
        """Send a request to the daemon, and show its error if any; its effect arrives as an event."""
        self.run_worker(lambda: self._send_and_report(request), thread=True)

    def _send_and_report(self, request: dict[str, Any]) -> None:
        try:
            ask(self._control, request)
        except DoorwardError as error:
            self.call_from_thread(self.notify, visible(str(error)), severity="error", markup=False)


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
