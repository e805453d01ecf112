"""What the demo shows: progress while it runs, panels where somebody else acts, one table at the end."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

STEPS = 7  # of the story as the README tells it; setting up the machine was the first


class Screen:
    """A console with one progress line at its bottom; on a pipe or in a file, plain lines. A context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._title = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._finish()
        self._progress.stop()

    def step(self, number: int, title: str) -> None:
        """A step of the story begins; the one before has ended well."""
        self._finish()
        self._title = f"[bold]\\[{number}/{STEPS}][/] {escape(title)}"
        self._task = self._progress.add_task(self._title, total=1)
        if not self._console.is_terminal:
            self._console.print(self._title)

    def tell(self, what: str) -> None:
        """What is going on inside the step, in a few words."""
        if self._task is not None:
            self._progress.update(self._task, description=f"{self._title} [dim]· {escape(what)}[/]")
        if not self._console.is_terminal:
            self._console.print(f"      {escape(what)}")

    def panel(self, title: str, lines: Sequence[str], *, style: str) -> None:
        """A box that stays on the screen."""
        self._progress.console.print(Panel("\n".join(map(escape, lines)), title=escape(title), border_style=style))

    def table(self, title: str, rows: Mapping[str, Any]) -> None:
        """The end of the story: names on the left, values on the right."""
        table = Table(title=title, title_justify="left", show_header=False, show_lines=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(escape(name), escape(str(value)))
        self._progress.console.print(table)

    def say(self, text: str) -> None:
        """One line."""
        self._progress.console.print(escape(text), highlight=False, soft_wrap=True)

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, description=self._title, completed=1)
            self._task = None
