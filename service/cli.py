"""zhiying: the command line."""

import os
import signal
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer

from service.commands.deferred import Deferred
from service.commands.output import AsJson, ConfigFile, show, told
from service.errors import CommandRefused
from service.stop_signal import StopSignals

PRIVATE_UMASK = 0o077  # whatever the service writes, only its own user may read


class _Commands(Deferred):
    """Each command's own module is loaded when it is called."""

    modules = MappingProxyType(
        {
            "studies": "studies",
            "models": "models",
            "review": "review_papers",
            "audit": "audit",
            "route": "route",
            "outbox": "outbox",
            "reports": "reports",
            "results": "results",
            "spool": "spool",
            "witness": "witness",
            "pull": "pull:pull",
            "evaluate": "evaluate:evaluate",
        }
    )


app = typer.Typer(
    cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Zhiying 智影"
)


@app.command()
def serve(config: ConfigFile = None) -> None:
    """Receive, infer, report: runs until it is told to stop."""
    with StopSignals(signal.SIGTERM, signal.SIGINT) as stop, told():
        from service import wire  # deferred, as in each of these: the other commands need none of it
        from service.serving import build

        service = build(wire.settings(config))
        service.start()
        typer.echo(f"zhiying: DICOM {service.dicom_address}, HTTP {service.http_address}", err=True)
        if service.frozen is not None:
            typer.echo(f"error {service.frozen.code}: images only: {service.frozen}", err=True)
        stop.wait()
        service.stop()
    # Steps that wait for a disk or a device are safe to cut off, and must not keep the process alive.
    os._exit(0)


@app.command()
def doctor(
    peer: Annotated[str | None, typer.Option(help="Only this peer: does it accept what results need?")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Check this installation. Exit status 0 only if nothing stands in the way."""
    with told():
        from service import wire
        from service.doctor import examine, examine_peer

        settings = wire.settings(config)
        findings = examine(settings) if peer is None else examine_peer(settings, peer)
        rows = [{"check": f.check, "result": f.result, "what": f.what} for f in findings]
        show(rows, as_json=as_json, title="doctor", rows=rows)
        if any(f.result == "FAIL" for f in findings):
            raise typer.Exit(1)


@app.command()
def send(
    folder: Annotated[Path, typer.Argument(help="A file, or a folder that is searched through.")],
    to: Annotated[str, typer.Option(help="AET@host:port")],
    calling: Annotated[str, typer.Option(help="Our AE title")] = "ZHIYING",
    as_json: AsJson = False,
) -> None:
    """Send DICOM files by C-STORE. Exit status 0 only if all were stored."""
    with told():
        from dicom_bridge.peers import parse_peer
        from dicom_bridge.status import Fate, fate
        from dicom_bridge.store_scu import send as send_files

        peer = parse_peer(to)
        files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
        if not files:
            raise CommandRefused(f"no files in {folder}")
        result = send_files(files, peer, calling)
        stored = sum(1 for status in result.statuses if status is not None and fate(status) is Fate.STORED)
        row = {"peer": to, "files": len(files), "stored": stored, "error": result.error}
        show(row, as_json=as_json, title="sent", rows=[row])
        if stored != len(files):
            raise typer.Exit(1)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where the results are written.")] = Path("demo-output"),
    workdir: Annotated[Path, typer.Option(help="Where the demo keeps its PACS and data.")] = Path(".demo"),
    keep: Annotated[bool, typer.Option(help="Leave the servers running.")] = False,
    viewer: Annotated[Path | None, typer.Option(help="With --keep: OHIF's dist folder, to be served too.")] = None,
) -> None:
    """The whole story on this machine: a PACS, a study, a reviewer, a finding."""
    from service.demo.main import run

    raise typer.Exit(run(keep=keep, output=output, workdir=workdir, viewer=viewer))


def main() -> None:
    """Entry point of the `zhiying` command."""
    os.umask(PRIVATE_UMASK)
    app()
