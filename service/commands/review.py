"""zhiying review: the third party's approval, signed on the reviewer's side, recorded on the hospital's."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from audit.note import Signer
from ethics_review.dossier import Approval, draft_approval
from models.library import Library
from service import wire
from service.commands.opt_out import opt_out
from service.commands.output import AsJson, ConfigFile, show, told
from service.errors import CommandRefused

app = typer.Typer(no_args_is_help=True, help="Third-party approvals: sign one, record one, see them.")
app.command("opt-out")(opt_out)


@app.command()
def keygen(
    name: Annotated[str, typer.Option(help="Who signs: a name without spaces or '+', such as reviewer.example.org")],
    out: Annotated[Path, typer.Option(help="Where the secret key goes; it must not exist yet.")],
    as_json: AsJson = False,
) -> None:
    """Make a reviewer's key pair. The public line goes to the hospital by a way that both trust."""
    with told():
        if out.exists():
            raise CommandRefused(f"{out} exists; a key is never overwritten")
        signer = Signer.generate(name)
        signer.save(out)
        row = {"name": name, "secret": str(out), "public": signer.vkey}
        show(row, as_json=as_json, title="key", rows=[row])
        if not as_json:
            typer.echo(signer.vkey)


@app.command()
def sign(
    terms: Annotated[Path, typer.Argument(help="JSON: model, organisation, validity and every condition.")],
    key: Annotated[Path, typer.Option(help="The reviewer's secret key.")],
    out: Annotated[Path, typer.Option(help="The signed approval.")],
    as_json: AsJson = False,
) -> None:
    """Sign an approval. Runs on the reviewer's machine; needs no service."""
    with told():
        try:
            fields = json.loads(terms.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as fault:
            raise CommandRefused(f"{terms} is not JSON: {fault}") from None
        signer = Signer.load(key)
        out.write_text(signer.sign(draft_approval(fields)), encoding="utf-8")
        row = {"approval": fields.get("approval"), "signed_by": signer.vkey.split("+")[0], "file": str(out)}
        show(row, as_json=as_json, title="signed approval", rows=[row])


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


@app.command()
def terms(
    model: Annotated[str, typer.Argument(help="An installed model's name.")],
    config: ConfigFile = None,
) -> None:
    """The model's identity as the approval must name it, for the reviewer's terms file."""
    with told():
        settings = wire.settings(config)
        ref = Library(settings.data.folder / "models").find(model)
        typer.echo(json.dumps({"name": ref.name, "version": ref.version, "digest": ref.digest}, indent=2))


def _row(approval: Approval) -> dict[str, Any]:
    return {
        "approval": approval.id,
        "reviewer": approval.reviewer_org,
        "key": ", ".join(approval.signers),
        "model": f"{approval.model.name} {approval.model.version}",
        "digest": approval.model.digest[:19],
        "valid": f"{approval.valid_from} to {approval.valid_to}",
    }


def _described(approval: Approval) -> dict[str, Any]:
    return _row(approval) | {"digest": approval.model.digest, "note_digest": approval.note_digest}
