"""Several models of one study: each that fits gets a run of its own, with its own permit, result and end.

The first run of an attempt finds the models. It goes on with the first of them, and makes a run for each other: in the
store, then in line, before it says which model is its own. A crash in between repeats it under the same ids.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from ethics_review.standing import Standing
from ethics_review.states import IN_USE
from service.errors import AllRead
from service.keys import Pseudonyms
from service.reading import Chosen
from service.store import RETRYABLE, Run, State

MODEL_HEX = 12
"""Digits of a model's digest in the name of its run."""


class Runs(Protocol):
    """service.store.Store. Raises SQLAlchemyError."""

    def add(self, run: Run) -> None:
        """Remember a new run; one with the same id is left as it is."""

    def of_study(self, study_uid: str) -> tuple[Run, ...]:
        """All runs of a study, oldest first."""


class Review(Protocol):
    """Where dossiers stand; ethics_review.register.Register."""

    def standing(self, digest: str, now: datetime | None = None) -> Standing | None:
        """The dossier of the model of this digest; None where there is none."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """`submit`: into the line of what is to be run. `names`: the site's keyed names."""

    runs: Runs
    submit: Callable[[Run], object]
    review: Review
    names: Pseudonyms
    now: Callable[[], datetime]

    def own(self, run: Run, found: Sequence[Chosen]) -> Chosen:
        """What `run` itself reads, of what fits; the other models' runs are durable and in line when it returns.

        A model that is installed and was never let in use is passed over where another is in use: its refusal on each
        study would tell nobody anything. What an earlier attempt has read, or is reading, is not read again. Raises
        AllRead where that leaves nothing, SQLAlchemyError.
        """
        if run.for_model is not None:
            return found[0]
        wanted = [one for one in found if self._in_use(one.ref.digest)] or list(found[:1])
        same = [one for one in self.runs.of_study(run.study_uid) if one.input_digest == run.input_digest]
        earlier = [one for one in same if one.attempt != run.attempt and one.state not in RETRYABLE]
        # One that waits has no call yet: it is known by its model.
        read = {one.call or one.for_model for one in earlier}
        left = [one for one in wanted if read.isdisjoint((self.call_of(run, one), one.ref.digest))]
        given = {one.for_model for one in same if one.attempt == run.attempt}
        mine = next((one for one in left if one.ref.digest not in given), None)
        if mine is None:
            raise AllRead("each model that fits has read these very images; nothing is repeated")
        for one in left:
            if one is not mine:
                self._begin(run, one.ref.digest)
        return mine

    def call_of(self, run: Run, choice: Chosen) -> str:
        """The name of the call that the run makes of a choice: the same for the same images and model."""
        # Another volume of the series is another call: after a rule was changed, the first one's result is no answer.
        part = [choice.part] if choice.part else []
        return self.names.of("call", run.study_uid, run.input_digest, choice.ref.digest, *part)

    def _in_use(self, digest: str) -> bool:
        stands = self.review.standing(digest, self.now())
        return stands is not None and stands.state in IN_USE

    def _begin(self, run: Run, digest: str) -> None:
        name = f"{run.run_id}.{digest.removeprefix('sha256:')[:MODEL_HEX]}"
        new = Run(
            run_id=name,
            study_uid=run.study_uid,
            input_digest=run.input_digest,
            attempt=run.attempt,
            state=State.ASSEMBLED,
            trigger=run.trigger,
            created_at=run.created_at,  # by which the log names the study: all runs of an attempt name it alike
            updated_at=self.now(),
            urgent=run.urgent,
            for_model=digest,
        )
        self.runs.add(new)
        self.submit(new)
