"""What every association of ours has in common, whichever side opens it: our identity, no delays, no sockets left."""

from __future__ import annotations

import socket
from typing import Any

from pynetdicom import AE

from dicom_bridge import quiet  # noqa: F401 - for its settings
from dicom_bridge.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME


class Entity(AE):  # type: ignore[misc] # pynetdicom is not typed
    """An AE that remembers the socket it made for a request.

    pynetdicom does not close the socket of a connection that failed or that the peer closed first: `shutdown` raises
    before `close` is reached. A PACS that is down and asked every second would cost a descriptor each time.
    """

    requested_socket: socket.socket | None = None

    def _create_socket(self, *arguments: Any, **named: Any) -> Any:
        made = super()._create_socket(*arguments, **named)
        self.requested_socket = made.socket
        return made

    def close_socket(self) -> None:
        """Close what is left of the last requested connection; call it when its association has ended."""
        if self.requested_socket is not None:
            self.requested_socket.close()
            self.requested_socket = None


def new_entity(ae_title: str) -> Entity:
    """Return an AE under our title, implementation class UID and version name (PS3.7 annex D.3.3.2)."""
    entity = Entity(ae_title=ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return entity


def no_delay(event: Any) -> None:
    """Handle EVT_CONN_OPEN: switch Nagle's algorithm off, which otherwise stalls every answer for 40 ms."""
    connection = event.assoc.dul.socket.socket
    # The peer may be gone again already.
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
