"""Whether the peer that gets results accepts what will be sent: asked once after the start, in the background.

Nothing waits for it. A peer that is away is asked again later; once it has answered, each thing that it does not accept
is a line in the log, and it is asked no more: `zhiying doctor --peer NAME` asks at any time.
"""

import threading
from collections.abc import Callable, Sequence

import structlog

from dicom_bridge.errors import BridgeError
from dicom_bridge.peers import Peer
from dicom_bridge.profile import NOT_ACCEPTED, Need, needs, refused
from service.config import Config

AGAIN_S = 300.0
"""A PACS that is down for maintenance is back in minutes, and results wait for it anyway."""

_log = structlog.get_logger()

Ask = Callable[[Peer, Sequence[Need]], Sequence[Need]]
"""Gives what the peer does not accept; raises BridgeError where it cannot be asked."""


class ProfileCheck:
    """Asks `peer`; without one there is nothing to ask."""

    def __init__(self, peer: Peer | None, wanted: Sequence[Need], ask: Ask, pause_s: float = AGAIN_S) -> None:
        self._peer, self._wanted, self._ask, self._pause_s = peer, wanted, ask, pause_s
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin, and do not wait."""
        if self._peer is not None and self._wanted:
            threading.Thread(target=self._run, args=(self._peer,), name="profile-check", daemon=True).start()

    def stop(self) -> None:
        """Ask no more; an association under way ends by its own limits, and is nobody's."""
        self._stop.set()

    def _run(self, peer: Peer) -> None:
        while not self._stop.is_set() and not self._asked(peer):
            self._stop.wait(self._pause_s)

    def _asked(self, peer: Peer) -> bool:
        try:
            lacking = self._ask(peer, self._wanted)
        except (BridgeError, OSError) as error:
            _log.info("peer_not_asked", peer=peer.name, code=getattr(error, "code", type(error).__name__))
            return False
        for need in lacking:
            _log.warning("peer_does_not_accept", peer=peer.name, kind=need.kind, code=NOT_ACCEPTED)
        return True


def profile_check(config: Config) -> ProfileCheck:
    """For the peer to which results go."""
    peer = next((config.peer(one) for one in config.peers if one.name == config.results.to), None)
    said = config.results
    wanted = () if peer is None else needs(peer, key_images=said.key_images, rejection_notes=said.rejection_notes)

    def ask(peer: Peer, wanted: Sequence[Need]) -> Sequence[Need]:
        return refused(peer, config.dicom.ae_title, wanted)

    return ProfileCheck(peer, wanted, ask)
