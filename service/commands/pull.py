"""zhiying pull: have the running service fetch a study from a peer, and see it arrive."""

import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service import wire
from service.commands.output import AsJson, ConfigFile, show, told
from service.commands.token import TokenFile, headers
from service.errors import ServiceError
from service.sections import Http

POLL_S = 0.1
ANSWER_S = 10.0  # the service answers at once, or is in trouble

Study = Annotated[str, typer.Option("--study", help="StudyInstanceUID")]
From = Annotated[str, typer.Option("--from", help="The peer's name in the configuration.")]


class ServiceNotRunning(ServiceError):
    """Nobody answers at the configured address."""

    code = "SERVICE_NOT_RUNNING"


class NotTaken(ServiceError):
    """The service refused; `code` is its own."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def pull(
    study: Study, from_: From, token_file: TokenFile = None, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Fetch a study from a peer. Exit status 0 only if everything that the peer has of it was stored."""
    with told():
        job = follow(config, study, from_, headers(token_file), shows=not as_json)
        row = {name: job[name] for name in ("study", "from", "state", "expected", "stored", "code")}
        failed = ", ".join(f"{code} {number}" for code, number in job["failed"].items())
        show(job, as_json=as_json, title="pull", rows=[row | {"failed": failed, "why": job["detail"]}])
        if job["state"] != "DONE":
            raise typer.Exit(1)


def follow(config: Path | None, study: str, peer: str, token: Mapping[str, str], *, shows: bool) -> dict[str, Any]:
    """Order a pull of the running service and wait for its end; gives the job as the API shows it.

    `token`: the header that says who asks, or nothing.

    Raises ServiceNotRunning, NotTaken.
    """
    address = base_url(wire.settings(config).http)
    asking = httpx.Client(base_url=address, timeout=ANSWER_S, trust_env=False, headers=token)
    with asking as client, _progress(shows) as advance:
        job = _answer(client, "POST", "/pulls", {"study": study, "from": peer})
        while job["state"] in ("WAITING", "RUNNING"):
            advance(job)
            time.sleep(POLL_S)
            job = _answer(client, "GET", f"/pulls/{job['id']}")
        advance(job)
        return job


def base_url(http: Http) -> str:
    """Where the service of this configuration answers on this machine."""
    host = http.host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{http.port}"
    if address.is_unspecified:
        # It listens on every address; one of them is this machine's own.
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://{address}:{http.port}" if address.version == 4 else f"http://[{address}]:{http.port}"


def _answer(client: httpx.Client, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
    try:
        response = client.request(method, path, json=body)
        answer = response.json()
    except (httpx.RequestError, httpx.InvalidURL):
        message = f"no answer at {client.base_url}; start it with `zhiying serve`, or see [http] of the configuration"
        raise ServiceNotRunning(message) from None
    except ValueError:
        raise ServiceNotRunning(f"something else than this service answers at {client.base_url}") from None
    error = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(error, dict):
        raise NotTaken(str(error.get("code")), str(error.get("message")))
    if not response.is_success or not isinstance(answer, dict) or "state" not in answer:
        raise ServiceNotRunning(f"something else than this service answers at {client.base_url}")
    return answer


@contextmanager
def _progress(shows: bool) -> Iterator[Callable[[dict[str, Any]], None]]:  # noqa: FBT001 - private
    """A bar on standard error, where somebody looks at it: elsewhere it would leave an empty line before an error."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (shows and console.is_terminal), transient=True) as bar:
        task = bar.add_task("waiting", total=None)

        def advance(job: dict[str, Any]) -> None:
            bar.update(task, description=job["state"].lower(), total=job["expected"] or None, completed=job["stored"])

        yield advance
