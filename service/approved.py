"""What an approval asks for beyond its conditions, as the evaluation and the safety report need it."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

from audit.entry import JsonValue
from ethics_review.dossier import Approval

DECISION_H: Final = 24
"""Hours to a human decision where the approval names none."""


@runtime_checkable
class Bounded(Protocol):
    """An approval with thresholds: zhiying-approval/2."""

    @property
    def acceptance(self) -> Sequence[Mapping[str, JsonValue]]: ...  # noqa: D102
    @property
    def monitor(self) -> Mapping[str, JsonValue]: ...  # noqa: D102


def bounds_of(approval: Approval) -> tuple[Mapping[str, JsonValue], ...]:
    """What a local acceptance has to show before the model may be LIVE, as `metrics.unmet` takes it."""
    given: object = approval
    return tuple(given.acceptance) if isinstance(given, Bounded) else ()


def decision_h_of(approval: Approval) -> int:
    """Within how many hours a physician decides on a result."""
    given: object = approval
    hours = given.monitor.get("human_decision_h") if isinstance(given, Bounded) else None
    return int(str(hours)) if hours is not None else DECISION_H
