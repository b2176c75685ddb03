"""The two questions of the live view: yes or no, and for how long."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from doorward.config.duration import parse_duration_ms


class Sure(ModalScreen[bool]):
    """Asks before something ends for somebody."""

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
        """Give the answer."""
        self.dismiss(answer)


class ForHowLong(ModalScreen[str | None]):
    """Asks for a duration, and takes nothing else; None where it is not to be."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "no")]

    def __init__(self, question: str, proposed: str) -> None:
        super().__init__()
        self._question, self._proposed = question, proposed

    def compose(self) -> ComposeResult:
        """Show the question with an answer that may be changed."""
        with Vertical(classes="dialog"):
            yield Static(self._question, markup=False)
            yield Input(self._proposed, compact=True)
            yield Static("Enter yes   Esc no", id="hint", classes="keys", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Give the duration, or say what is wrong with it."""
        try:
            parse_duration_ms(event.value.strip())
        except ValueError as error:
            self.query_one("#hint", Static).update(str(error))
        else:
            self.dismiss(event.value.strip())
