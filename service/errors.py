"""Errors of the composition root; each is one line for a person, with a code.

ServiceError
    ConfigInvalid      CONFIG_INVALID      the file says something we do not understand
    AlreadyRunning     ALREADY_RUNNING     another `zhiying serve` uses this data folder
    NothingSuch        NOT_FOUND           a study, model or file that is not here
    CommandRefused     COMMAND_REFUSED     what was asked for is not so
    KeyMissing         KEY_MISSING         the log is there, its signing key is not
    PeriodErased       PERIOD_ERASED       the month's identities were erased, and their key with them
    ImagesGone         IMAGES_GONE         some of the study's images have left the spool already
    InputSuperseded    INPUT_SUPERSEDED    more images arrived; another run reads them
    Halted             STOPPED             everything is stopped, here or everywhere
                       SUSPENDED           the model is suspended; RETIRED: for good; NOT_DEPLOYED: it is not in use
    NothingFits        NO_MODEL_FITS       no series of the study is for any installed model
                       NO_RULE_MATCHES     none meets a rule of the site and its model's manifest
    AllRead            ALREADY_READ        each model that fits has read these very images
    DatasetInvalid     DATASET_INVALID     a labelled set that is not what `zhiying evaluate` reads
    PatientDataFound   EXPORT_PHI          a package would hold what looks like a patient's data
"""

from collections.abc import Sequence


class ServiceError(Exception):
    """Base: `code` is stable and documented, the message says what, where and what to do."""

    code = "SERVICE_ERROR"


class ConfigInvalid(ServiceError):
    """The configuration cannot be used."""

    code = "CONFIG_INVALID"


class AlreadyRunning(ServiceError):
    """Two services on one data folder would fight for the spool."""

    code = "ALREADY_RUNNING"


class NothingSuch(ServiceError):
    """Asked for something that is not here."""

    code = "NOT_FOUND"


class DatasetInvalid(ServiceError):
    """A labelled set is not what it should be, or changed while it was read."""

    code = "DATASET_INVALID"


class PatientDataFound(ServiceError):
    """A package that was not written; `hits` are (rule, member, offset), `count` is all of them."""

    code = "EXPORT_PHI"

    def __init__(self, hits: Sequence[tuple[str, str, int]], count: int) -> None:
        rule, member, offset = hits[0]
        more = f" and {count - 1} more" if count > 1 else ""
        super().__init__(f"{member}, byte {offset}: {rule}{more}; nothing was written")
        self.hits, self.count = tuple(hits), count


class CommandRefused(ServiceError):
    """A command whose answer is no."""

    code = "COMMAND_REFUSED"


class InputSuperseded(ServiceError):
    """A run's input is no longer what the study holds."""

    code = "INPUT_SUPERSEDED"


class NothingFits(ServiceError):
    """No series of a study fits any model; `condition` is the predicate that decided."""

    code = "NO_MODEL_FITS"

    def __init__(self, condition: str) -> None:
        super().__init__(f"no series fits any model; decided by {condition}")
        self.condition = condition


class AllRead(ServiceError):
    """A study that was sent again, for a model that is not here any more: the others have read these very images."""

    code = "ALREADY_READ"


class Halted(ServiceError):
    """A run of a model that may not be used any more; `code` says what halted it."""

    def __init__(self, code: str) -> None:
        super().__init__("it was halted while this run was under way; its result is not released")
        self.code = code


class ImagesGone(ServiceError):
    """Late images of a study whose others have left the spool: half a study must not be read as a whole one."""

    code = "IMAGES_GONE"


class KeyMissing(ServiceError):
    """The log's signing key is gone; making another one would break the log's identity silently."""

    code = "KEY_MISSING"


class PeriodErased(ServiceError):
    """Whom a month's pseudonyms name is not known any more, on purpose."""

    code = "PERIOD_ERASED"
