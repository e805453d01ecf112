"""How commands speak: a table for people, JSON with --json, one line with a code for an error."""

import json
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from audit.errors import AuditError
from dicom_bridge.errors import BridgeError
from ethics_review.errors import ReviewError
from inference.errors import InferenceError
from models.errors import ModelError
from service.errors import ServiceError

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="ZHIYING_CONFIG", help="TOML file; without it, the defaults.")
]
PIPE_COLUMNS = 1000  # where no terminal sets the width: a row stays whole, and a name can be found in it and copied
KNOWN_ERRORS = (ServiceError, AuditError, BridgeError, ReviewError, InferenceError, ModelError)


@contextmanager
def told() -> Iterator[None]:
    """Turn an error of ours into one line and exit status 1; a traceback is a bug."""
    try:
        yield
    except KNOWN_ERRORS as error:
        text = str(error)
        code = getattr(error, "code", type(error).__name__)
        line = text if text.startswith(code) else f"{code}: {text}"
        typer.echo(f"error {line}", err=True)
        raise typer.Exit(1) from None
    except _database_errors() as error:  # its own text quotes the query, and with it a study
        what = f"the database gave {type(error).__name__}; see [database] url, or the disk of the data folder"
        typer.echo(f"error DATABASE_UNAVAILABLE: {what}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        typer.echo(f"error IO_ERROR: {error.strerror or error}: {error.filename or ''}", err=True)
        raise typer.Exit(1) from None


def _database_errors() -> tuple[type[Exception], ...]:
    """What a database gives. A library that is not loaded gives none, and to load it takes a third of a second."""
    loaded = sys.modules.get("sqlalchemy.exc")
    return (sqlite3.Error,) if loaded is None else (sqlite3.Error, loaded.SQLAlchemyError)


def show(value: Any, *, as_json: bool, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print `value` as JSON, or `rows` as a table."""
    if as_json:
        typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
        return
    if not rows:
        typer.echo(f"{title}: none")
        return
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row.values()))
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)
