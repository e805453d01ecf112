"""How large a model may be: bounds that no honest model meets, and that a hostile archive does."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one model, in bytes and files.

    Attributes:
        member_bytes_max: one file. The largest single file of the MONAI Model Zoo is below 5 GB.
        total_bytes_max: all files. files_max: how many; a bundle has tens.
    """

    member_bytes_max: int = 8 * 2**30
    total_bytes_max: int = 16 * 2**30
    files_max: int = 2_000


LIMITS: Final = Limits()
