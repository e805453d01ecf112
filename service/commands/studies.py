"""zhiying studies: what happened to each study, and why."""

from typing import Annotated, Any

import typer

from service import views, wire
from service.commands.output import AsJson, ConfigFile, show, told
from service.errors import NothingSuch

app = typer.Typer(no_args_is_help=True, help="What happened to each study.")


@app.command("list")
def list_studies(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Runs, newest first, and studies that are still arriving."""
    with told(), wire.ledger(config) as (store, inbox):
        value = views.studies(store, inbox)
        rows = [
            {
                "study": item["study_uid"],
                "state": item["state"],
                "code": item["code"],
                "attempt": item["attempt"],
                "model": (item["model"] or {}).get("name"),
                "updated": item["updated_at"],
            }
            for item in value
        ]
        show(value, as_json=as_json, title="studies", rows=rows)


@app.command("show")
def show_study(
    study_uid: Annotated[str, typer.Argument(help="StudyInstanceUID")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """One study: each run, its end and its code."""
    with told(), wire.ledger(config) as (store, inbox):
        value = views.study(store, inbox, study_uid)
        if value is None:
            raise NothingSuch("no such study was received")
        show(value, as_json=as_json, title="study", rows=[_row(run) for run in value["runs"]] or [_row(value)])


def _row(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "state": item["state"],
        "stage": item.get("stage"),
        "code": item["code"],
        "condition": item.get("condition"),
        "observed": item.get("observed"),
        "call": item.get("call"),
        "found": "; ".join(f"{m['value']} {m['unit']}" for m in item.get("measurements", ())),
        "outputs": "\n".join(f"{o['kind']} {o['uid']}" for o in item.get("outputs", ())),
    }
