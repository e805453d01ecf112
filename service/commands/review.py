"""zhiying review: the third party's approval, recorded on the hospital's side. Papers: review_papers.py."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ethics_review.dossier import Approval
from service import wire
from service.commands.output import AsJson, ConfigFile, show, told
from service.errors import CommandRefused

app = typer.Typer(no_args_is_help=True, help="Third-party approvals: sign one, record one, see them.")


@app.command()
def approve(
    note: Annotated[Path, typer.Argument(help="The signed approval that the reviewer handed over.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Check a signed approval and record it in the log; from then on the gate knows it."""
    with told(), wire.offline(config) as site:
        try:
            text = note.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise CommandRefused(f"{note} is not text, so it is not a signed approval") from None
        approval = site.register.record(text)
        show(_described(approval), as_json=as_json, title="approval", rows=[_row(approval)])


@app.command("show")
def show_approvals(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """The approvals that the log holds."""
    with told(), wire.offline(config) as site:
        approvals = site.register.approvals()
        show([_described(a) for a in approvals], as_json=as_json, title="approvals", rows=[_row(a) for a in approvals])


def _row(approval: Approval) -> dict[str, Any]:
    return {
        "approval": approval.id,
        "reviewer": approval.reviewer_org,
        "key": approval.signer,
        "model": f"{approval.model.name} {approval.model.version}",
        "digest": approval.model.digest[:19],
        "valid": f"{approval.valid_from} to {approval.valid_to}",
    }


def _described(approval: Approval) -> dict[str, Any]:
    return _row(approval) | {"digest": approval.model.digest, "note_digest": approval.note_digest}
