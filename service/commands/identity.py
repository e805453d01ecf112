"""zhiying audit identify and erase: whom a pseudonym names, and the end of anybody's knowing it."""

import secrets
from typing import Annotated

import typer

from audit.entry import Draft, Kind
from service import wire
from service.commands.output import AsJson, ConfigFile, show, told
from service.config import Config
from service.errors import CommandRefused, NothingSuch
from service.identity import IdentityMap
from service.keys import PERIOD


def identify(
    pseudonym: Annotated[str, typer.Argument(help="Of a study or a patient, as entries name it: 32 hex digits.")],
    person: Annotated[str, typer.Option(help="Short name of who wants to know; no personal number; this is logged.")],
    purpose: Annotated[str, typer.Option(help="Why, in capitals, such as PATIENT_REQUEST; this is logged.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say whom a pseudonym names. The log says first who asked, and why; also where nothing is found."""
    with told():
        settings = wire.existing_log(config)
        with wire.offline_of(settings) as site:
            body = {"person": person, "purpose": purpose, "pseudonym": pseudonym}
            site.log.append(Draft(Kind.LOG_READ, f"log-read:{secrets.token_hex(16)}", dict(body)))
        rows = IdentityMap.of(settings.data.folder).find(pseudonym)
        if not rows:
            raise NothingSuch("no month that is left knows this name; its month may have been erased")
        values = [
            {"patient_id": row.patient_id, "issuer": row.issuer, "study_uid": row.study_uid, "study": row.study}
            for row in rows
        ]
        show(values, as_json=as_json, title="identity", rows=values)


def erase(
    period: Annotated[str, typer.Argument(help="A month that is over, YYYY-MM.")],
    yes: Annotated[bool, typer.Option("--yes", help="It cannot be undone: this says that it is meant.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Destroy the key of a month's identities. The log stays whole; whom its entries of then name is lost for ever."""
    with told():
        if not PERIOD.fullmatch(period):
            raise CommandRefused("a period is a month, YYYY-MM")
        settings = wire.existing_log(config)
        if not yes:
            raise CommandRefused(f"{period} can never be read again after this; repeat with --yes")
        with wire.offline_of(settings) as site:
            rows = IdentityMap.of(settings.data.folder).erase(period, now=site.now())
            # After the deed: the log must not tell of an erasure that a crash prevented. Repeating it logs it once.
            site.log.append(Draft(Kind.ERASURE, f"erasure:{period}", {"period": period, "rows": rows}))
        value = {"period": period, "rows": rows, "erased": True}
        show(value, as_json=as_json, title="erased", rows=[value])


def names_of(settings: Config, study_uid: str) -> str:
    """The pseudonyms under which the log knows a study, with commas between; one that it does not, where none is."""
    site_wide = wire.pseudonyms(settings).of("study", study_uid)  # of entries older than the months' keys
    candidates = IdentityMap.of(settings.data.folder).candidates(study_uid) | {site_wide}
    with wire.offline_of(settings) as site:
        known = {str(entry.body["study"]) for entry in site.log.entries() if "study" in entry.body}
    return ",".join(sorted(candidates & known)) or site_wide
