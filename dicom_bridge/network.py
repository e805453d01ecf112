"""What every association of ours has in common, whichever side opens it: our identity, and no delays."""

from __future__ import annotations

import socket
from typing import Any

from pynetdicom import AE, _config

from dicom_bridge.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

# pynetdicom's own log writes identifiers of queries, and formatting its records costs a tenth of the receive rate.
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
_config.LOG_HANDLER_LEVEL = "none"


def new_entity(ae_title: str) -> Any:
    """Return a pynetdicom AE under our title, implementation class UID and version name (PS3.7 annex D.3.3.2)."""
    entity = AE(ae_title=ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return entity


def no_delay(event: Any) -> None:
    """Handle EVT_CONN_OPEN: switch Nagle's algorithm off, which otherwise stalls every answer for 40 ms."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
