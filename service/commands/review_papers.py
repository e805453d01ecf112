"""zhiying review: the papers of a dossier, what goes to the reviewer and back, signatures, and the controls."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from audit import durable
from audit.note import Signer
from ethics_review import controls as catalogue
from ethics_review import handing_over, signing, submission
from ethics_review.metrics import N_MIN
from ethics_review.periods import CIVIL_TIME
from models.errors import ModelNotFound
from models.library import LISTING_NAME, Library
from models.manifest import MANIFEST_NAME
from models.ref import ModelRef
from models.strict import DOCUMENT_BYTES_MAX
from service import wire
from service.commands import review
from service.commands.output import AsJson, ConfigFile, show, told
from service.errors import CommandRefused

app = review.app
Folder = Annotated[Path, typer.Argument(help="The dossier's folder.", exists=True, file_okay=False)]
ModelName = Annotated[str, typer.Option("--model", help="An installed model's name.")]
Fewest = Annotated[int, typer.Option("--n-min", min=1, help="Cases below which a subgroup's result says nothing.")]


@app.command()
def keygen(
    name: Annotated[str, typer.Option(help="Who signs: a name without spaces or '+', such as reviewer.example.org")],
    out: Annotated[Path, typer.Option(help="Where the secret key goes; it must not exist yet.")],
    as_json: AsJson = False,
) -> None:
    """Make a key pair for somebody who signs. The public line goes to the others by a way that all trust."""
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
    text: Annotated[Path, typer.Argument(help="An approval's terms (JSON), a drafted text, or a note to sign too.")],
    key: Annotated[Path, typer.Option(help="Your secret key.")],
    out: Annotated[Path, typer.Option(help="The signed note; a new file.")],
    as_json: AsJson = False,
) -> None:
    """Sign an approval or an act, or add a signature to one. Needs no service, and no configuration."""
    with told():
        if out.exists():
            raise CommandRefused(f"{out} exists; a signed note is never overwritten")
        with text.open("rb") as file:
            data = file.read(DOCUMENT_BYTES_MAX + 1)
        made = signing.sign(data, Signer.load(key))
        out.write_text(made.note, encoding="utf-8")
        approval = made.fields.get("approval")
        row = {"approval": approval, "kind": made.kind, "signed_by": ", ".join(made.names), "file": str(out)}
        show(row, as_json=as_json, title="signed", rows=[row])


@app.command()
def terms(
    model: Annotated[str, typer.Argument(help="An installed model's name.")],
    config: ConfigFile = None,
) -> None:
    """The model's identity as the approval must name it, for the reviewer's terms file."""
    with told():
        typer.echo(json.dumps(_named(_library(config).find(model)), indent=2))


@app.command()
def index(folder: Folder, model: ModelName, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Write the folder's dossier.json: the model, and the digest of every paper that lies there."""
    with told():
        ref = _library(config).find(model)
        data = submission.collect(folder, ref)
        durable.replace(folder / submission.DOSSIER_NAME, data)
        _, documents = submission.read_dossier(data)
        rows = [{"document": one.name, "file": one.file, "digest": one.digest} for one in documents]
        show({"model": _named(ref), "documents": rows}, as_json=as_json, title="dossier", rows=rows)


@app.command()
def check(folder: Folder, n_min: Fewest = N_MIN, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """What a dossier has and lacks, control by control. Exit status 0 only if it can be submitted."""
    with told():
        today = wire.now().astimezone(CIVIL_TIME).date()
        found = submission.check(folder, today, _installed(folder, _library(config)), n_min=n_min)
        rows = [handing_over.described(one) for one in found]
        show(rows, as_json=as_json, title="dossier", rows=rows)
        if any(one.blocks for one in found):
            raise typer.Exit(1)


@app.command()
def submit(
    folder: Folder,
    model: ModelName,
    out: Annotated[Path, typer.Option(help="The file for the reviewer; a new one.")],
    n_min: Fewest = N_MIN,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Freeze a dossier and write the one file that goes to the reviewer. Refused while a control goes unanswered."""
    with told():
        if out.exists():
            raise CommandRefused(f"{out} exists")
        library = _library(config)
        verified = library.open(library.find(model))
        today = wire.now().astimezone(CIVIL_TIME).date()
        frozen = submission.freeze(folder, today, verified.ref, n_min=n_min)
        words = {name: (verified.path / name).read_bytes() for name in (LISTING_NAME, MANIFEST_NAME)}
        durable.create(out, handing_over.pack(frozen, words))
        value: dict[str, Any] = {
            "file": str(out),
            "submission": frozen.root,
            "model": _named(frozen.model),
            "documents": {one.name: one.digest for one in frozen.documents},
            "interested": sorted(frozen.interested),
            "shadow_only": frozen.shadow_only,
        }
        row = {"file": str(out), "submission": frozen.root, "shadow only": frozen.shadow_only}
        show(value, as_json=as_json, title="submission", rows=[row])


@app.command()
def controls(
    markdown: Annotated[bool, typer.Option("--markdown", help="As docs/controls.md.")] = False,
    as_json: AsJson = False,
) -> None:
    """The 60 controls: what enforces each, what proves it, or why it is not covered."""
    found = catalogue.catalogue()
    if markdown:
        typer.echo(catalogue.page(found), nl=False)
        return
    rows = [
        {"id": one.id, "covered": one.covered.value, "demand": one.demand, "code": " ".join(one.code), "why": one.why}
        for one in found
    ]
    show([one.described() for one in found], as_json=as_json, title="controls", rows=rows)


def _library(config: Path | None) -> Library:
    return Library(wire.settings(config).data.folder / "models")


def _installed(folder: Path, library: Library) -> ModelRef | None:
    """The installed model of the name and version that the dossier is about, if there is one."""
    wanted = submission.model_of(folder)
    try:
        return library.find(wanted.name, wanted.version)
    except ModelNotFound:
        return None


def _named(ref: ModelRef) -> dict[str, str]:
    return {"name": ref.name, "version": ref.version, "digest": ref.digest}
