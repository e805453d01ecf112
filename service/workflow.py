"""The workflow engine: DBOS, which remembers finished steps in a database and resumes the rest after a crash.

Only this module knows DBOS. What it stores is JSON, never pickles, and nothing of it calls out: no admin server, no
conductor, no telemetry.
"""

import json
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID
from dbos._serialization import Serializer

from service.pipeline import Facts, Pipeline, Step

STEPS_VERSION = "1"  # of the steps' names and order: DBOS resumes only what was begun under the same one
AT_ONCE = 2  # one study loads while another is on the device; further ones wait in line
STOP_WAIT_S = 20  # for steps under way, when the service stops


class JsonSerializer(Serializer):
    """Steps hand over plain JSON; an error is stored as the name of its type, never as an object."""

    def serialize(self, data: Any) -> str:
        """Text for the database."""
        return json.dumps(data, default=lambda value: {"error": type(value).__name__})

    def deserialize(self, serialized_data: str) -> Any:
        """The value back."""
        return json.loads(serialized_data)

    def name(self) -> str:
        """Recorded beside each value."""
        return "zhiying-json"


class Workflows:
    """Starts runs and resumes what a crash interrupted. One per process."""

    def __init__(self, pipeline: Pipeline, database_url: str) -> None:
        self._pipeline = pipeline
        config: DBOSConfig = {
            "name": "zhiying",
            "system_database_url": database_url,
            "application_version": STEPS_VERSION,
            "executor_id": "local",
            "serializer": JsonSerializer(),
            "log_level": "ERROR",
            # The bound on runs at once. A DBOS queue would do it too, but it polls: 7 % of a core, or a slow start.
            "max_executor_threads": AT_ONCE,
        }
        self._dbos = DBOS(config=config)

        @DBOS.workflow(name="read_study")
        def read_study(run_id: str) -> str:  # DBOS marks the function that it is given: a method cannot be marked
            return self._story(run_id)

        self._read_study = read_study

    def start(self) -> None:
        """Open the database, resume what was in flight, take new work."""
        DBOS.launch()

    def submit(self, run_id: str) -> None:
        """Run the story for `run_id`; submitting the same id again does nothing. Durable when it returns."""
        with SetWorkflowID(run_id):
            DBOS.start_workflow(self._read_study, run_id)

    def stop(self) -> None:
        """Let steps finish for a while; what is not finished is resumed at the next start."""
        DBOS.destroy(workflow_completion_timeout_sec=STOP_WAIT_S)

    def _story(self, run_id: str) -> str:
        facts: Facts = {}
        for step, _ in self._pipeline.story:
            facts = DBOS.run_step({"name": step.value}, self._act, step.value, run_id, facts)
            if "ended" in facts:
                return str(facts["ended"])
        return "WRITTEN"

    def _act(self, step: str, run_id: str, facts: Facts) -> Facts:
        return self._pipeline.act(Step(step), run_id, facts)
