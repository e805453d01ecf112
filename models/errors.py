"""What can go wrong with a model, and whose fault it is. Every error has a `code` from a closed set.

    ModelError
    +-- RefInvalid          REF_INVALID               a name, version or digest is not well formed (caller)
    +-- CodeInvalid         CODE_INVALID              a coded concept is not well formed (author of the card)
    +-- ManifestError       MANIFEST_INVALID          manifest.json is not exactly what we know (author of the card)
    +-- CardError           CARD_INVALID              source.json is not exactly what we know (author of the card)
    +-- ModelNotFound       MODEL_NOT_FOUND           nothing of that name and version is installed (site)
    +-- ModelAmbiguous      MODEL_AMBIGUOUS           several versions are installed, and none was named (site)
    +-- ModelExists         MODEL_EXISTS              same name and version, other bytes, is installed (site)
    +-- ModelChanged        MODEL_FILE_CHANGED        an installed file differs from what was installed (site)
    +-- ModelUnfit          MODEL_UNFIT               links, too many files, too large (source)
    +-- LibraryUnavailable  LIBRARY_UNAVAILABLE       the disk says no (site)
    +-- SourceError                                   the place that a model is taken from (source)
        +-- SourceUnreachable     SOURCE_UNREACHABLE
        +-- SourceHashMismatch    SOURCE_HASH_MISMATCH
        +-- SourceUnsafe          SOURCE_UNSAFE       a member's name leaves the folder, or is no plain file
        +-- SourceTooLarge        SOURCE_TOO_LARGE
        +-- SourceIncomplete      SOURCE_INCOMPLETE

A model that is refused is not repaired, downloaded again or replaced by another version.
"""

from typing import ClassVar


class ModelError(Exception):
    """Base of all errors of this folder."""

    code: ClassVar[str] = "MODEL_ERROR"


class RefInvalid(ModelError):
    """A model's name, version or digest is not well formed."""

    code = "REF_INVALID"


class CodeInvalid(ModelError):
    """A coded concept or a range of numbers is not well formed."""

    code = "CODE_INVALID"


class _Malformed(ModelError):
    """A document of ours is not exactly what we know; `where` is the path of the key at fault."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what


class ManifestError(_Malformed):
    """manifest.json is not exactly what this version knows; `where` names the key."""

    code = "MANIFEST_INVALID"


class CardError(_Malformed):
    """source.json, or the card around it, is not exactly what this version knows; `where` names the key."""

    code = "CARD_INVALID"


class ModelNotFound(ModelError):
    """No model of that name and version is installed."""

    code = "MODEL_NOT_FOUND"


class ModelAmbiguous(ModelError):
    """Several versions are installed and the caller named none; the newest is not chosen by guess."""

    code = "MODEL_AMBIGUOUS"


class ModelExists(ModelError):
    """Other bytes are already installed under this name and version: a change needs a new version."""

    code = "MODEL_EXISTS"


class ModelChanged(ModelError):
    """An installed model is not what was installed; `file` names what differs, `how` is changed, missing or extra."""

    code = "MODEL_FILE_CHANGED"

    def __init__(self, file: str, how: str) -> None:
        super().__init__(f"{file}: {how} since the model was installed; the model is refused")
        self.file = file
        self.how = how


class ModelUnfit(ModelError):
    """A set of files may not become a model: links, special files, too many or too large."""

    code = "MODEL_UNFIT"


class LibraryUnavailable(ModelError):
    """The disk that holds the models refused to read or to write."""

    code = "LIBRARY_UNAVAILABLE"


class SourceError(ModelError):
    """The place that a model is taken from is at fault."""

    code = "SOURCE_ERROR"


class SourceUnreachable(SourceError):
    """The source could not be read: no such file, no package index, no answer in time."""

    code = "SOURCE_UNREACHABLE"


class SourceHashMismatch(SourceError):
    """What the source holds is not what the card pins."""

    code = "SOURCE_HASH_MISMATCH"


class SourceUnsafe(SourceError):
    """A member's name would leave the folder, or the member is no plain file."""

    code = "SOURCE_UNSAFE"


class SourceTooLarge(SourceError):
    """A member or the whole is larger than the limits allow."""

    code = "SOURCE_TOO_LARGE"


class SourceIncomplete(SourceError):
    """The source lacks a file that the card names."""

    code = "SOURCE_INCOMPLETE"
