"""zhiying review recompute: the reviewer runs the monitor again over an exported package."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from audit.note import Verifier
from ethics_review.parties import parse_trust
from service.commands.output import AsJson, show, told
from service.errors import CommandRefused
from service.recomputing import SHOWN_MAX, entries_of
from service.recomputing import recompute as run_again


def recompute(
    package: Annotated[Path, typer.Argument(help="A whole package of zhiying audit export, which verifier.py passed.")],
    trust: Annotated[Path, typer.Option(help="The trust policy, from the parties themselves.")],
    log_key: Annotated[str, typer.Option(help="The log's public key (zhiying audit key), from the hospital itself.")],
    as_json: AsJson = False,
) -> None:
    """Run the monitor again over a package. Exit status 0 only if every evaluation comes out, and none is missing."""
    with told():
        entries = entries_of(package)
        policy = parse_trust(trust.read_text(encoding="utf-8"))
        again = run_again(entries, policy, Verifier.parse(log_key))
        rows = [
            {"what": "evaluations", "count": again.evaluations, "where": ""},
            {"what": "come out to the letter", "count": again.agree, "where": ""},
            {"what": "differ", "count": len(again.differ), "where": _some(again.differ)},
            {"what": "made by another version", "count": len(again.other_code), "where": _some(again.other_code)},
            {"what": "missing", "count": len(again.missing), "where": _some(again.missing)},
            {"what": "notes that do not count", "count": len(again.set_aside), "where": _some(again.set_aside)},
        ]
        show(asdict(again) | {"good": again.good}, as_json=as_json, title=f"{package.name}", rows=rows)
        if not again.good:
            raise CommandRefused("not every evaluation comes out as it stands")


def _some(found: tuple[object, ...]) -> str:
    return ", ".join(map(str, found[:SHOWN_MAX])) + (", ..." if len(found) > SHOWN_MAX else "")
