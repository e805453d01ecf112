"""Which of a model's outputs came to nothing, and why. Each has one name: in findings, in the log and in a report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from inference.errors import CODES, Code, VolumeInvalid

_OUTPUT: Final = re.compile(r"(segment|classification|detection|heat_map):[A-Za-z0-9._-]{1,40}")


@dataclass(frozen=True, slots=True)
class FailedOutput:
    """output: "segment:2", or the id of a "classification:", "detection:" or "heat_map:"; code: the check it failed.

    Raises VolumeInvalid (VOLUME_INVALID).
    """

    output: str
    code: Code

    def __post_init__(self) -> None:
        if _OUTPUT.fullmatch(self.output) is None or self.code not in CODES:
            raise VolumeInvalid("VOLUME_INVALID", "a failed output's name is malformed, or its code is none")
