"""zhiying audit: check the log, show its head and its public key; what else there is, is in modules of its own."""

from types import MappingProxyType
from typing import Any

import typer

from audit import fsck
from service import wire
from service.commands.deferred import Deferred
from service.commands.output import AsJson, ConfigFile, show, told


class _Further(Deferred):
    """What needs more than the log."""

    modules = MappingProxyType(
        {
            "export": "audit_export:export",
            "reconcile": "audit_reconcile:reconcile_pacs",
            "identify": "identity:identify",
            "erase": "identity:erase",
            "stamp": "stamp",
            "succeed": "succession",
        }
    )


app = typer.Typer(cls=_Further, no_args_is_help=True, help="The log of every call.")


@app.command()
def verify(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Derive the whole log again from its entries. Exit status 0 only if nothing differs."""
    with told():
        settings = wire.existing_log(config)
        report = fsck.check(wire.audit_root(settings), wire.log_verifier(settings))
        value: dict[str, Any] = {
            "ok": report.ok,
            "size": report.size,
            "root": report.root_hash,
            "problems": [{"where": p.where, "what": p.what} for p in report.problems],
        }
        if as_json or report.ok:
            show(
                value,
                as_json=as_json,
                title="audit log",
                rows=[{"ok": "yes", "entries": report.size, "root": report.root_hash}],
            )
        if not report.ok:
            for problem in report.problems:
                typer.echo(f"error AUDIT_CORRUPT: {problem.where}: {problem.what}", err=True)
            raise typer.Exit(1)


@app.command()
def head(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """The newest signed checkpoint: what a witness should be given."""
    with told(), wire.offline_of(wire.existing_log(config)) as site:
        checkpoint = site.log.head()
        value = {
            "origin": checkpoint.origin,
            "size": checkpoint.size,
            "root": checkpoint.root.hex(),
            "note": checkpoint.note,
        }
        show(value, as_json=as_json, title="head", rows=[{k: value[k] for k in ("origin", "size", "root")}])


@app.command()
def key(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """The log's public key: for reviewers and witnesses, by a way that they trust."""
    with told():
        site = wire.existing_log(config)
        value = {"origin": wire.origin(site), "vkey": wire.log_vkey(site)}
        show(value, as_json=as_json, title="the log's key", rows=[value])
