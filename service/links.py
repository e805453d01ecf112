"""Links into the pages that people open from elsewhere, such as a report in the PACS."""

import re
from typing import Final

BASE: Final = r"^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*/?$"
"""Form of `[results] decide_at`: scheme, host (a name or IPv4), port and path; no user, query or fragment."""
_CALL: Final = re.compile(r"[0-9a-f]{32}")


def decide_link(base: str, call: str) -> str:
    """Where a reader decides on a call. `base`: of the form BASE; `call`: its 32 hexadecimal digits.

    Raises ValueError for anything else, and repeats nothing of it.
    """
    if not re.fullmatch(BASE, base):
        raise ValueError("the base is no http or https address")
    if not _CALL.fullmatch(call):
        raise ValueError("this is no name of a call")
    return f"{base.rstrip('/')}/decide/{call}"
