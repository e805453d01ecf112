"""zhiying reports: results on their way to the RIS and the record, and those that did not get there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from service import wire
from service.commands.output import AsJson, ConfigFile, show, told
from service.config import Config
from service.errors import CommandRefused, NothingSuch
from service.reporting.book import BOOK_FILE, Book, Row, State
from service.reporting.receivers import receivers_of

app = typer.Typer(no_args_is_help=True, help="Results told to the RIS and the record.")


@app.command("list")
def list_reports(
    dead: Annotated[bool, typer.Option("--dead", help="Only those that were refused or given up.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Reports that were not taken yet, oldest first: where each stands, and why."""
    with told():
        with _book(wire.settings(config)) as book:
            states = (State.DEAD,) if dead else (State.WAITING, State.SETTLED, State.DEAD)
            rows = [] if book is None else [_described(row) for row in book.listed(*states)]
        show(rows, as_json=as_json, title="reports", rows=rows)


@app.command()
def retry(
    receiver: Annotated[str, typer.Argument(help="Its name, as `zhiying reports list --dead` shows it.")],
    call: Annotated[str, typer.Argument(help="The call, as shown there.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Have a dead one told again, by a new message. A running service takes it up within a second."""
    with told():
        settings = wire.settings(config)
        with _book(settings) as book:
            if book is None:
                raise NothingSuch("no such report is in the book")
            if receiver not in {one.name for one in receivers_of(settings)}:
                raise CommandRefused("the configuration names no such receiver; nothing is told to others")
            book.revive(receiver, call, wire.now())
        value = {"receiver": receiver, "call": call, "state": State.WAITING.value}
        show(value, as_json=as_json, title="told again", rows=[value])


@contextmanager
def _book(config: Config) -> Iterator[Book | None]:
    """Beside a running service or without one; None where nobody was ever to be told."""
    folder = config.data.folder / "reports"
    if not (folder / BOOK_FILE).is_file():
        yield None
        return
    book = Book(folder)
    try:
        yield book
    finally:
        book.close()


def _described(row: Row) -> dict[str, Any]:
    return {
        "receiver": row.receiver,
        "call": row.call,
        "state": row.state.value,
        "told": "WITHDRAWAL" if row.withdrawn else "RESULT",
        "code": row.code,
        "attempts": row.attempts,
        "released_at": row.released_at.isoformat(),
    }
