"""C-MOVE and C-GET in the study root model (PS3.4 sections C.4.2 and C.4.3): the peer sends what is missing.

C-MOVE: to our own AE title, so the images come to our listener as any others do. C-GET: on this very association.
What counts in the end is not what the peer says of its sub-operations, but what is held; see `retrieve`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_bridge.calling import CONTEXTS_MAX, Context
from dicom_bridge.catalogue import Part, Wanted
from dicom_bridge.errors import InstanceRefused, PeerFailed
from dicom_bridge.keeping import Keeper
from dicom_bridge.offers import STORAGE_CLASSES, TRANSFER_SYNTAXES
from dicom_bridge.patience import Patience, RetrieveFailed
from dicom_bridge.peers import Peer
from dicom_bridge.requesting import PENDING, SUCCESS, Requested, requested

_MOVE: Final = str(StudyRootQueryRetrieveInformationModelMove)
_GET: Final = str(StudyRootQueryRetrieveInformationModelGet)
_DESTINATION_UNKNOWN: Final = 0xA801
_UIDS_MAX: Final = 100
"""Instances asked for by name in one request: 6500 characters; some peers keep the list in a fixed buffer of 8 KiB."""
_ANSWERS_SPARE: Final = 1000
_LIFE_BYTES: Final = 1 << 20
"""An instance that still grows by this much is a sign of life; the small answers in between are not."""

_PLAIN: Final = tuple(syntax for syntax in TRANSFER_SYNTAXES if not UID(syntax).is_encapsulated)
_CODED: Final = tuple(syntax for syntax in TRANSFER_SYNTAXES if UID(syntax).is_encapsulated)

_CT: Final = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
_MR: Final = ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")
_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
_BY_MODALITY: Final = {"CT": (*_CT, _CAPTURE), "MR": (*_MR, _CAPTURE)}
"""For peers that do not tell the SOP class of an instance."""
_COMMON: Final = (
    *_CT,
    *_MR,
    _CAPTURE,
    "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
    "1.2.840.10008.5.1.4.1.1.1.2",  # Digital Mammography, for presentation
    "1.2.840.10008.5.1.4.1.1.13.1.3",  # Breast Tomosynthesis
    "1.2.840.10008.5.1.4.1.1.128",  # PET
    "1.2.840.10008.5.1.4.1.1.20",  # Nuclear Medicine
    "1.2.840.10008.5.1.4.1.1.6.1",  # Ultrasound
    "1.2.840.10008.5.1.4.1.1.3.1",  # Ultrasound Multi-frame
    "1.2.840.10008.5.1.4.1.1.12.1",  # X-Ray Angiographic
)


def move(peer: Peer, wanted: Wanted, our_ae: str, keeper: Keeper, patience: Patience, *, careful: bool) -> None:
    """Ask the peer to send it to us by C-MOVE; returns when it says that it is done, or has failed in part.

    `careful`: series by series. Raises PeerFailed, RetrieveFailed.
    """
    with requested(peer, our_ae, [(_MOVE, ())], patience) as call:
        for identifier in _identifiers(wanted, careful=careful):
            answers = call.association.send_c_move(identifier, our_ae, _MOVE)
            code = _until_done(call, answers, keeper, patience)
            if code == _DESTINATION_UNKNOWN:
                detail = f"{peer.name} does not know {our_ae} as a destination; have it configured there"
                raise RetrieveFailed("PULL_DESTINATION_UNKNOWN", detail)


def get(peer: Peer, wanted: Wanted, our_ae: str, keeper: Keeper, patience: Patience, *, careful: bool) -> None:
    """Fetch it by C-GET; each instance is durable before the peer gets its answer. Else as `move`.

    `careful`: an association for each series, so that each of its classes has a context for every transfer syntax.
    """
    if not careful:
        _get(peer, wanted, our_ae, keeper, patience)
        return
    for series_uid, part in wanted.parts.items():
        _get(peer, Wanted(wanted.study_uid, {series_uid: part}, whole=False), our_ae, keeper, patience)


def _get(peer: Peer, wanted: Wanted, our_ae: str, keeper: Keeper, patience: Patience) -> None:
    classes = sorted({name for part in wanted.parts.values() for name in classes_of(part)})
    growth = _Growth(patience, keeper.instance_bytes_max)

    def on_store(event: Any) -> Dataset:
        growth.reset()
        return keeper.on_store(event)

    contexts = [(_GET, ()), *storage_contexts(classes)]
    handlers = [(evt.EVT_C_STORE, on_store), (evt.EVT_DATA_RECV, growth.came)]
    with requested(peer, our_ae, contexts, patience, as_scp=classes, handlers=handlers) as call:
        accepted = call.association.accepted_contexts
        can_ask = any(str(one.abstract_syntax) == _GET for one in accepted)
        if not can_ask or not any(one.as_scp and str(one.abstract_syntax) != _GET for one in accepted):
            raise PeerFailed("PEER_NO_CONTEXT", f"{peer.name} offers no C-GET, or no role to receive in")
        for identifier in _identifiers(wanted, careful=False):
            _until_done(call, call.association.send_c_get(identifier, _GET), keeper, patience)


def storage_contexts(classes: list[str]) -> list[Context]:
    """Return the contexts for C-GET: one for the plain syntaxes of a class, and one for each other syntax.

    From a context of several the peer picks one, and it may not be the one that its file is in. Where there are too
    many classes for that (PS3.8: 128 contexts), they get two contexts each, or one.
    """
    room = CONTEXTS_MAX - 1
    if len(classes) * (1 + len(_CODED)) <= room:
        return [(name, syntaxes) for name in classes for syntaxes in (_PLAIN, *((one,) for one in _CODED))]
    if len(classes) * 2 <= room:
        return [(name, syntaxes) for name in classes for syntaxes in (_PLAIN, _CODED)]
    return [(name, TRANSFER_SYNTAXES) for name in classes[:room]]


def classes_of(part: Part) -> tuple[str, ...]:
    """Return the storage classes to propose for a series: those that the peer named, or what its modality makes."""
    named = part.classes & frozenset(STORAGE_CLASSES)
    return tuple(sorted(named)) or _BY_MODALITY.get(part.modality, _COMMON)


def _identifiers(wanted: Wanted, *, careful: bool) -> Iterator[Dataset]:
    if wanted.whole and not careful:
        yield _identifier("STUDY", wanted.study_uid)
        return
    for series_uid, part in wanted.parts.items():
        if part.whole:
            yield _identifier("SERIES", wanted.study_uid, series_uid)
            continue
        for at in range(0, len(part.uids), _UIDS_MAX):
            yield _identifier("IMAGE", wanted.study_uid, series_uid, part.uids[at : at + _UIDS_MAX])


def _identifier(level: str, study_uid: str, series_uid: str = "", instances: tuple[str, ...] = ()) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    identifier.StudyInstanceUID = study_uid
    if series_uid:
        identifier.SeriesInstanceUID = series_uid
    if instances:
        identifier.SOPInstanceUID = list(instances)
    return identifier


def _until_done(call: Requested, answers: Iterator[tuple[Dataset, Any]], keeper: Keeper, patience: Patience) -> int:
    """Read the answers to one request to the last; what failed of it is counted. Returns the last one's status."""
    done_before, most = -1, keeper.expected + _ANSWERS_SPARE
    for number, (status, _) in enumerate(answers):
        code = call.status(status)
        if code in PENDING:
            done = _suboperations(status, "Completed") + _suboperations(status, "Warning")
            if done > done_before:
                done_before = done
                patience.alive()
            if number > 2 * most:
                raise RetrieveFailed("PULL_ENDLESS", "far more answers than instances")
            continue
        if code != SUCCESS:
            keeper.count_failed(f"0x{code:04X}", max(1, _suboperations(status, "Failed")))
        elif _suboperations(status, "Failed"):
            keeper.count_failed("SUBOPERATION_FAILED", _suboperations(status, "Failed"))
        patience.check()
        return code
    raise call.failure()


def _suboperations(status: Dataset, which: str) -> int:
    """(0000,1020) to (0000,1023): PS3.7 sections 9.1.3 and 9.1.4."""
    value = status.get(f"NumberOf{which}Suboperations", None)
    return int(value) if isinstance(value, int) else 0


class _Growth:
    """Watches the bytes of the instance that is on its way: pynetdicom keeps it in memory to its end."""

    def __init__(self, patience: Patience, most: int) -> None:
        self._patience, self._most = patience, most
        self._bytes = self._seen = 0

    def reset(self) -> None:
        self._bytes = self._seen = 0

    def came(self, event: Any) -> None:
        """Handle EVT_DATA_RECV."""
        self._bytes += len(event.data)
        if self._bytes > self._most:
            self._patience.fail(InstanceRefused("INSTANCE_TOO_LARGE", "larger than this service takes"))
        if self._bytes - self._seen > _LIFE_BYTES:
            self._seen = self._bytes
            self._patience.alive()
