"""The token with which a command asks the running service: from a file or the environment.

Never from the command line itself, which everybody on the machine can read while the command runs.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from service.errors import ServiceError

VARIABLE: Final = "ZHIYING_TOKEN"
TOKEN_BYTES_MAX: Final = 4096
_TOKEN: Final = re.compile(
    rb"[!-~]+"
)  # what a header may hold, and no space: two tokens, or a line of a letter, are none

TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help=f"File with our token, where the service wants one; else ${VARIABLE}."),
]


class TokenInvalid(ServiceError):
    """What was given is no token; nothing of it is repeated."""

    code = "TOKEN_INVALID"


def headers(file: Path | None, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a request carries; nothing where no token is given. Raises TokenInvalid, OSError."""
    if file is None:
        given, where = os.fsencode(environment.get(VARIABLE, "")), f"${VARIABLE}"
        if not given:
            return {}
    else:
        where = str(file)
        with file.open("rb") as opened:
            given = opened.read(TOKEN_BYTES_MAX)
    token = given.strip()
    if not _TOKEN.fullmatch(token):
        raise TokenInvalid(f"{where} holds no token: one line of ASCII without a space")
    return {"Authorization": f"Bearer {token.decode('ascii')}"}
