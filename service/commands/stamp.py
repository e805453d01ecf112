"""zhiying audit stamp: time stamps of the log's checkpoints, fetched now or by files that travel (request, take)."""

from pathlib import Path
from typing import Annotated, Any

import typer

from audit import durable
from audit.checkpoint import Checkpoint
from service import wire
from service.commands.output import AsJson, ConfigFile, show, told
from service.commands.witness import PUBLIC_MODE, desk, published
from service.config import Config
from service.errors import CommandRefused, NothingSuch

app = typer.Typer(no_args_is_help=True, help="Time stamps: an authority's word that a checkpoint existed.")
PolicyFile = Annotated[
    Path | None, typer.Option("--policy", help="Stamp the newest checkpoint that a quorum of these witnesses cosigned.")
]


@app.command()
def request(
    out: Annotated[Path, typer.Option("--out", help="The query, a new file (.tsq).")],
    policy: PolicyFile = None,
    config: ConfigFile = None,
) -> None:
    """Make a query for an authority that no network reaches. What it is over is remembered."""
    with told():
        from service import stamping  # deferred, here and below: most commands need none of it
        from service.stamps import text_of
        from service.timestamping import query

        settings = wire.existing_log(config)
        # What could not be verified when it comes back is not asked for.
        stamping.authority(stamping.section(settings))
        if out.exists():
            raise CommandRefused(f"{out} exists")
        checkpoint = _checkpoint(settings, policy)
        made = query(text_of(checkpoint))
        stamping.opened(settings).ask(checkpoint, made)
        durable.create(out, made.der, mode=PUBLIC_MODE)
        typer.echo(f"{out}: {checkpoint.size} entries")


@app.command()
def take(
    answer: Annotated[Path, typer.Argument(help="The authority's response (.tsr).")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Verify and keep a response to one of our queries. Exit status 0 only if it is good, or was kept before."""
    with told():
        from service import stamping
        from service.stamps import Held, text_of
        from service.timestamping import ANSWER_BYTES_MAX, verify

        settings = wire.existing_log(config)
        trusted, stamps = stamping.authority(stamping.section(settings)), stamping.opened(settings)
        with answer.open("rb") as file:
            response = file.read(ANSWER_BYTES_MAX + 1)
        about = stamps.asked_about(response)
        if isinstance(about, Held):
            held = about
        else:
            held = Held(about.checkpoint, verify(text_of(about.checkpoint), response, trusted, about.nonce))
            stamps.keep(held.checkpoint, held.stamp)
            stamps.answered(about)
        _show(held, as_json=as_json)


@app.command()
def now(policy: PolicyFile = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Ask the authority at [audit.timestamps] url for a stamp, verify it, keep it."""
    with told():
        from service import stamping

        settings = wire.existing_log(config)
        site = stamping.section(settings)
        if site.url is None:
            raise CommandRefused("[audit.timestamps] has no url; see zhiying audit stamp request")
        held = stamping.fetch(site.url, stamping.authority(site), _checkpoint(settings, policy))
        stamping.opened(settings).keep(held.checkpoint, held.stamp)
        _show(held, as_json=as_json)


@app.command("list")
def show_all(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """What is kept, and the queries that wait for their answer."""
    with told():
        from service import stamping

        stamps = stamping.opened(wire.existing_log(config))
        rows: list[dict[str, Any]] = [
            {"size": held.checkpoint.size, "time": held.stamp.at.isoformat(), "state": "kept"} for held in stamps.all()
        ]
        rows += [{"size": one.checkpoint.size, "time": None, "state": "asked"} for one in stamps.asked()]
        show(rows, as_json=as_json, title="time stamps", rows=rows)


def _checkpoint(settings: Config, policy: Path | None) -> Checkpoint:
    if policy is None:
        return published(settings)[0]
    witnessed = desk(settings, policy)[0].witnessed()
    if witnessed is None:
        raise NothingSuch("no checkpoint has reached a quorum yet")
    return witnessed.checkpoint


def _show(held: Any, *, as_json: bool) -> None:
    value = {"size": held.checkpoint.size, "time": held.stamp.at.isoformat()}
    show(value, as_json=as_json, title="time stamp", rows=[value])
