"""What can go wrong in the demo; each is one line for a person, with a code.

DemoError (a ServiceError)
    ToolMissing        TOOL_MISSING        a program of the Debian packages is not installed
    ServerNotStarted   SERVER_NOT_STARTED  a server ended, or did not answer, while the demo waited for it
    StepFailed         STEP_FAILED         a command of the story did not do what was asked
    NotInTime          NOT_IN_TIME         something that had to happen did not, within its limit
    NotHeld            NOT_HELD            the end of the story is not what it must be
"""

from service.errors import ServiceError


class DemoError(ServiceError):
    """Base of the demo's errors."""

    code = "DEMO_FAILED"


class ToolMissing(DemoError):
    """A program is not there; the message says which package brings it."""

    code = "TOOL_MISSING"


class ServerNotStarted(DemoError):
    """Orthanc or `zhiying serve` did not come up; the message ends with the last line of its log."""

    code = "SERVER_NOT_STARTED"


class StepFailed(DemoError):
    """A command that the story runs has refused; the message carries its own last line."""

    code = "STEP_FAILED"


class NotInTime(DemoError):
    """Waited for a state of the study until the limit; the message says what was seen instead."""

    code = "NOT_IN_TIME"


class NotHeld(DemoError):
    """A promise of the demo does not hold (two reports, no refusal in the log, ...)."""

    code = "NOT_HELD"
