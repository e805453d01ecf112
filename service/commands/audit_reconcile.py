"""zhiying audit reconcile: the PACS's list of our objects against the log."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from audit import durable
from audit.entry import Entry, Kind
from audit.errors import AuditError
from audit.log import AuditLog
from dicom_bridge.catalogue import Window
from dicom_bridge.patience import Patience
from dicom_bridge.sources import source
from dicom_bridge.uids import own
from service import wire
from service.audit_reconcile import FORMAT, Asked, Report, pictures, reconcile
from service.commands.output import AsJson, ConfigFile, show, told
from service.config import Config
from service.errors import CommandRefused, NothingSuch
from service.holding import Holding, of_list, of_objects, of_peer
from service.store import Store, connect

DAYS = 7  # asked for where no day is named: a weekly round, as the release of a result may take


def reconcile_pacs(
    listed: Annotated[
        Path | None, typer.Option("--list", help="The PACS administrator's list: one UID a line, or CSV.")
    ] = None,
    peer: Annotated[str | None, typer.Option(help="The peer to ask; without it, the one that results go to.")] = None,
    objects: Annotated[
        Path | None, typer.Option(help="A folder of our reports taken out of the PACS: their receipts are checked.")
    ] = None,
    begin: Annotated[
        datetime | None, typer.Option("--from", help="UTC; releases, and studies, from this time.")
    ] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="UTC; releases before this time.")] = None,
    grace_h: Annotated[float, typer.Option(help="Hours that a result may wait for its release.", min=0)] = 24.0,
    out: Annotated[Path | None, typer.Option(help="Write it down for `zhiying audit export --reconciliation`.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare what the PACS holds of ours with the log. Exit status 0 only if neither has what the other lacks.

    The log keeps what was found. For a result that it does not know, models are suspended.
    """
    with told():
        if listed is not None and peer is not None:
            raise CommandRefused("--list or --peer, not both")
        if out is not None and out.exists():
            raise CommandRefused(f"{out} exists")
        settings = wire.existing_log(config)
        files = [] if objects is None else [path.read_bytes() for path in sorted(objects.iterdir()) if path.is_file()]
        with wire.offline_of(settings) as site:
            now = site.now()
            since, until = _utc(begin), _utc(end)
            name = None if listed is not None else peer or settings.results.to
            if listed is not None:
                holding = of_list(listed)
            elif objects is not None and peer is None:
                holding, name = of_objects(files), None
            else:
                since = since or now - timedelta(days=DAYS)
                holding = _asked(settings, site.log, name, since, until or now)
            asked = Asked(now, timedelta(hours=grace_h), since, until, name, delivers=settings.results.to is not None)
            before = _before(settings, site.log)
            report = reconcile(site.log, wire.log_verifier(settings), holding, asked, files, before)
            entry = site.log.append(report.draft())
        if out is not None:
            durable.create(out, report.to_bytes())
        show({**report.as_dict(), "entry": entry.index}, as_json=as_json, title="findings", rows=_rows(report))
        if not report.ok:
            raise typer.Exit(1)


def reconciliation_of(path: Path) -> bytes:
    """A file that `reconcile` wrote, for the package. Raises CommandRefused: nothing else may go into one."""
    data = path.read_bytes()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.get("format") != FORMAT or not all(map(_is_own, value.get("held", [""]))):
        raise CommandRefused(f"{path} is not what `zhiying audit reconcile --out` writes")
    return data


def _before(settings: Config, log: AuditLog) -> list[Entry]:
    """What is left of the logs before this one: of a damaged one nothing, and what it held then counts as unlogged."""
    found = []
    try:
        for entry in wire.earlier(settings, log):
            found.append(entry)
    except (AuditError, OSError) as damaged:
        typer.echo(f"warning: a log before this one is not read: {damaged}", err=True)
    return found


def _asked(settings: Config, log: AuditLog, name: str | None, since: datetime, until: datetime) -> Holding:
    peers = wire.peers(settings)
    if name is None or name not in peers:
        raise NothingSuch("no such peer in [[peers]]; name one with --peer, or give --list")
    # Naive, as a study's own date and time are.
    window = Window(since.replace(tzinfo=None), until.replace(tzinfo=None))
    with source(peers[name], settings.dicom.ae_title, Patience()) as asked:
        return of_peer(asked, name, window, set(_studies(settings, log, since, until)), pictures(log.entries()))


def _studies(settings: Config, log: AuditLog, since: datetime, until: datetime) -> Iterator[str]:
    """The studies whose results were released then: they may be much older than that themselves."""
    asked = Asked(until, timedelta(0), since, None)
    with closing(Store(connect(wire.database_url(settings, "runs")))) as store:
        for entry in log.entries():
            if entry.kind is Kind.RELEASED and entry.call is not None and asked.holds(entry.time):
                for run in store.of_call(entry.call):
                    yield run.study_uid


def _rows(report: Report) -> list[dict[str, Any]]:
    found = [{"problem": one.problem.value, "uid": one.uid, "entry": one.index} for one in report.findings]
    if report.holding.strict and report.holding.others:
        found.append({"problem": "OTHERS", "uid": f"{report.holding.others} not of our form", "entry": None})
    counts = {"held": len(report.holding.uids), "agreed": report.agreed, "pending": report.pending}
    return found or [{**counts, "others": report.holding.others, "receipts": report.receipts}]


def _is_own(uid: object) -> bool:
    return isinstance(uid, str) and own(uid)


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
