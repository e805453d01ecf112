"""Permit: the only key to inference, for one model on one exact input, for minutes. Only gate.py can make one.

The constructor wants a capability object that this module keeps to itself and gate.py takes from it at import; a house
test refuses any other use of that name. Permits are never copied, pickled or sent: each run asks the gate.
"""

from dataclasses import InitVar, dataclass
from datetime import datetime
from typing import Final, NoReturn

from ethics_review.errors import PermitForged
from ethics_review.states import State
from models.ref import ModelRef


class _Capability:
    """What a caller must hold to make a permit."""

    __slots__ = ()


_GATE_CAPABILITY: Final = _Capability()


@dataclass(frozen=True, slots=True)
class Check:
    """One condition as it was evaluated: CODE of the condition, CODE of the outcome, class of what was observed.

    `observed` is a class (an age band, a closed list's word), never a patient's own datum.
    """

    condition: str
    outcome: str
    observed: str


@dataclass(frozen=True, slots=True, eq=False)
class Permit:
    """That `model` may run on the input of `input_digest`, at `autonomy`, from issued_at until before expires_at.

    Attributes:
        call: 32 lower-case hexadecimal digits, names the run.
        input_digest: "sha256:..." of the exact input.
        approval: id of the approval that was satisfied.
        policy: "sha256:..." of that approval's validity and conditions.
        state: of the model's dossier: SHADOW or LIVE.
        checks: model, validity, state, stop, then every condition in the order of the vocabulary, each once.

    Raises PermitForged unless made by the gate.
    """

    call: str
    model: ModelRef
    input_digest: str
    approval: str
    policy: str
    autonomy: str
    state: str
    issued_at: datetime
    expires_at: datetime
    checks: tuple[Check, ...]
    capability: InitVar[object]

    def __post_init__(self, capability: object) -> None:
        if capability is not _GATE_CAPABILITY:
            raise PermitForged("a permit is made by the gate alone")

    @property
    def released(self) -> bool:
        """Whether readers may see what comes of it; if not, it is logged and kept, and goes nowhere."""
        return self.state == State.LIVE

    def valid_at(self, now: datetime) -> bool:
        """Whether issued_at <= now < expires_at. A clock set back makes a permit invalid, not longer."""
        return self.issued_at <= now < self.expires_at

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise PermitForged("a permit is not copied or sent; ask the gate again")
