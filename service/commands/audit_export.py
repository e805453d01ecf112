"""zhiying audit export: hand a reviewer a package."""

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from audit.witnessing import Witnessed
from service import exporting, wire
from service.commands.audit_reconcile import reconciliation_of
from service.commands.identity import names_of
from service.commands.output import AsJson, ConfigFile, show, told
from service.config import Config
from service.errors import CommandRefused
from service.exporting import Asked, ForPeople, Handover
from service.witnessing import desk, published

CHOICES = ", ".join(exporting.DECISIONS)


def export(
    out: Annotated[Path, typer.Option("--out", help="The package, a new file.")],
    recipient: Annotated[str, typer.Option(help="Whom it is for, such as 'TEST Reviewer'; this is logged.")],
    purpose: Annotated[str, typer.Option(help="Why, in capitals, such as YEARLY_REVIEW; this is logged.")],
    contract: Annotated[str, typer.Option(help="Under which agreement; no personal number; this is logged.")],
    begin: Annotated[datetime | None, typer.Option("--from", help="UTC; entries from this time on.")] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="UTC; entries before this time.")] = None,
    study: Annotated[str | None, typer.Option(help="Study Instance UID: only the calls of this study.")] = None,
    model: Annotated[str | None, typer.Option(help="Only the calls of the model of this name.")] = None,
    decision: Annotated[str | None, typer.Option(help=f"Only calls that were one of {CHOICES}.")] = None,
    without_people: Annotated[
        bool, typer.Option("--without-people", help="Entries and proofs alone: a fifth of the size, and no PHI scan.")
    ] = False,
    reconciliation: Annotated[
        Path | None, typer.Option(help="A file that `zhiying audit reconcile --out` wrote, to go with it.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="Witnesses to ask first; see docs/witnesses.md.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Write one file that a reviewer can check without us. The log says that it was handed over."""
    with told():
        if decision is not None and decision not in exporting.DECISIONS:
            raise CommandRefused(f"--decision is one of {CHOICES}")
        if out.exists():
            raise CommandRefused(f"{out} exists")
        from service.stamping import opened  # deferred: only an export reads stamps

        settings = wire.existing_log(config)
        named = None if study is None else names_of(settings, study)
        compared = {} if reconciliation is None else {reconciliation.name: reconciliation_of(reconciliation)}
        asked = Asked(_utc(begin), _utc(end), named, model, decision)

        def witnessed() -> Witnessed | None:
            if policy is None:
                return None
            from service.witness_client import post  # deferred: only this needs the network

            ours, _ = desk(settings, policy)
            checkpoint, files = published(settings)
            ours.push(files, checkpoint, post)
            return ours.witnessed()

        with wire.offline_of(settings) as site:
            handover = Handover(recipient, purpose, contract, compared)
            people = None if without_people else for_people(settings)
            made = exporting.hand_over(
                *(site.log, out, asked, handover, witnessed, lambda: published(settings)[0]),
                stamps=opened(settings).all,
                people=people,
                sm3=lambda: _sm3(settings),
            )
        value = {"file": str(out), "entries": made.size, "in_scope": made.in_scope, "digest": made.digest}
        show(value, as_json=as_json, title="package", rows=[value])


def for_people(settings: Config) -> ForPeople:
    """What the members for people need of this site; the patients' names are read when they are asked for."""
    from dicom_bridge.identifiers import identifiers_in  # deferred: pulls in pydicom, which most commands need not
    from service.audit_messages import reporter_of

    reporter = reporter_of(settings, wire.peers(settings), socket.getfqdn())
    spool = wire.spool(settings)
    return ForPeople(reporter, identifiers_in(spool / "index.sqlite", spool / "studies", wire.charsets(settings)))


def _sm3(settings: Config) -> bytes | None:
    path = wire.audit_root(settings) / "sm3" / "checkpoint"
    return path.read_bytes() if path.exists() else None


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
