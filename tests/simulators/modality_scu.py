"""A sender on stock pynetdicom: plays a modality or a PACS that stores to us, good or bad."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.dimse_primitives import C_STORE

from dicom_bridge.calling import hold, keep_answers
from dicom_bridge.network import new_entity, no_delay


@contextmanager
def association(
    port: int,
    contexts: Sequence[tuple[str, Sequence[str]]],
    *,
    called: str = "ZHIYING",
    calling: str = "TESTMODALITY",
) -> Iterator[Any]:
    """Open an association on loopback with these (abstract syntax, transfer syntaxes); released at the end."""
    entity = new_entity(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    for sop_class, syntaxes in contexts:
        entity.add_requested_context(sop_class, list(syntaxes))
    made = entity.associate("127.0.0.1", port, ae_title=called, evt_handlers=[(evt.EVT_CONN_OPEN, no_delay)])
    keep_answers(made)
    try:
        yield made
    finally:
        if made.is_established:
            made.release()
        # A connection that was refused has no thread.
        if made.ident is not None:
            made.join(5)
        entity.close_socket()


def store_raw(made: Any, sop_class: str, sop_uid: str, encoded: bytes) -> Any:
    """Send one C-STORE request with exactly these bytes in the first accepted context, and return the answer."""
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, sop_uid
    request.Priority = 2
    request.DataSet = BytesIO(encoded)
    # The association's own loop would take the answer for a request: hold it, as send_c_store does.
    hold(made)
    made.dimse.send_msg(request, made.accepted_contexts[0].context_id)
    _, answer = made.dimse.get_msg(block=True)
    made._reactor_checkpoint.set()
    return answer


def send_all(
    port: int, instances: Sequence[Dataset], acknowledged: Callable[[str], None], syntax: str = ExplicitVRLittleEndian
) -> list[int | None]:
    """C-STORE all in one association; `acknowledged` gets each SOP Instance UID that was answered with 0x0000.

    Returns the statuses, None where no answer came; stops at the first of those.
    """
    statuses: list[int | None] = []
    classes = sorted({str(ds.SOPClassUID) for ds in instances})
    with association(port, [(sop_class, [syntax]) for sop_class in classes]) as made:
        for ds in instances:
            if not made.is_established:
                break
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = syntax
            answer = made.send_c_store(ds)
            statuses.append(int(answer.Status) if "Status" in answer else None)
            if statuses[-1] is None:
                break
            if statuses[-1] == 0:
                acknowledged(str(ds.SOPInstanceUID))
    return statuses
