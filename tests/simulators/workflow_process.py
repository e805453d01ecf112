"""A process that runs the workflow engine with a story of notes: workflow_process.py FOLDER submit|resume RUN...

Each step writes what it was given into FOLDER/notes.jsonl; what the engine says of runs goes into FOLDER/told.txt. A
run called kill-at-STEP kills the process inside that step, the first time; one called end-at-STEP ends there.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
NOTES = "notes.jsonl"
TOLD = "told.txt"
LIMIT_S = 30.0


class NotedStory:
    """Stands where the pipeline does: knows the order of the steps, and notes each call."""

    def __init__(self, folder: Path) -> None:
        from service.pipeline import Step

        self._folder = folder
        self.story = tuple((step, None) for step in Step)
        self.over: set[str] = set()

    def act(self, step: str, run_id: str, facts: dict[str, Any]) -> dict[str, Any]:
        """Note the call; die or end if the run's name says so."""
        first = not (self._folder / run_id).exists()
        with (self._folder / NOTES).open("a", encoding="utf-8") as notes:
            notes.write(json.dumps({"run": run_id, "step": str(step), "facts": facts}) + "\n")
        if run_id == f"kill-at-{step}" and first:
            (self._folder / run_id).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if run_id == f"end-at-{step}":
            self.over.add(run_id)
            return {"ended": "REFUSED"}
        if str(step) == "RELEASED":
            self.over.add(run_id)
        return facts | {str(step): run_id}


def main(folder: Path, verb: str, runs: list[str]) -> None:
    """Submit the runs, or only resume; end when all are over, or when there is nothing left that could be."""
    from service.workflow import Workflows

    teller = NotedStory(folder)

    def tell(*words: object) -> None:
        with (folder / TOLD).open("a", encoding="utf-8") as told:
            told.write(" ".join(map(str, words)) + "\n")

    url = f"sqlite:///{folder / 'workflows.sqlite'}"
    workflows = Workflows(teller, url, lambda run: tell("ended", run))  # type: ignore[arg-type]
    workflows.start()
    for run in workflows.unfinished():
        tell("left", run)
    before = (folder / NOTES).read_text() if (folder / NOTES).exists() else ""
    done_before = {run for run in runs if f'"run": "{run}", "step": "RELEASED"' in before}
    if verb == "submit":
        for run in runs:
            tell("began", run, workflows.submit(run))
    ends_s = time.monotonic() + LIMIT_S
    while not set(runs) <= teller.over | done_before and time.monotonic() < ends_s:
        time.sleep(0.02)
    time.sleep(0.3)  # whatever runs a second time would show by now
    workflows.stop()
    os._exit(0 if set(runs) <= teller.over | done_before else 1)


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
