"""Asking a PACS to take our results into its care (PS3.4 annex J, as SCU), and hearing what it reports.

The report comes on the association of the request, or on a new one that the PACS opens to us: the listener's (see
`commitment`). Both end in `heard`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import evt

from dicom_bridge.calling import CallLimits, called, hold
from dicom_bridge.commitment_messages import (
    ACTION,
    ALL_COMMITTED,
    NO_SUCH_EVENT,
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    SOME_FAILED,
    TRANSFER_SYNTAXES,
    MessageInvalid,
    Report,
    Request,
    read_report,
    write_request,
)
from dicom_bridge.errors import PeerFailed
from dicom_bridge.peers import Peer

LIMITS: Final = CallLimits(connect_s=10, acse_s=30, dimse_s=30)
"""Answering an N-ACTION is writing down a request: it takes no longer than a question does."""

Heard = Callable[[Report], int]
"""Takes a report and gives the DIMSE status to answer it with."""


def request(
    wanted: Request, peer: Peer, calling_ae: str, heard: Heard, wait: Callable[[], None], limits: CallLimits = LIMITS
) -> int:
    """Send one N-ACTION and return its status; a report that comes while `wait` lasts is given to `heard`.

    `wait` is called when the request was accepted, before the association is released.
    Raises PeerFailed (also when the association ends before the answer) and TlsUnusable.
    """

    def reported(event: Any) -> tuple[int, None]:
        return answer_report(event, heard), None

    handlers = [(evt.EVT_N_EVENT_REPORT, reported)]
    with called(peer, calling_ae, [(PUSH_MODEL, TRANSFER_SYNTAXES)], limits, handlers=handlers) as association:
        status = _act(association, write_request(wanted))
        if status == 0:
            wait()
    return status


def answer_report(event: Any, heard: Heard) -> int:
    """Handle EVT_N_EVENT_REPORT of either kind of association; gives the status of the answer."""
    if event.event_type not in (ALL_COMMITTED, SOME_FAILED):
        return NO_SUCH_EVENT
    try:
        report = read_report(event.event_information)
    except MessageInvalid as invalid:
        return invalid.status
    return heard(report)


def _act(association: Any, information: Dataset) -> int:
    hold(association)
    try:
        answer, _ = association.send_n_action(information, ACTION, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    except (RuntimeError, ValueError):
        # The association ended between its start and the request.
        answer = Dataset()
    if "Status" not in answer:
        raise PeerFailed("PEER_NO_ANSWER", "the association ended, or no answer came in time")
    return int(answer.Status)
