"""The DICOM side of the composition: whom we know, who may call, what listens, and what fetches."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

from dicom_bridge import tls
from dicom_bridge.access import Access
from dicom_bridge.catalogue import SeriesEntry
from dicom_bridge.fastlane import ListenerLimits
from dicom_bridge.inbox import Inbox
from dicom_bridge.listener import Denial, Fault, Listener
from dicom_bridge.patience import Patience
from dicom_bridge.peers import Peer
from dicom_bridge.retrieve import Progress, Retrieved, retrieve
from dicom_bridge.sources import Source, source
from dicom_bridge.stocklane import Extra
from service import wire
from service.config import Config
from service.puller import Puller
from service.standing import Settings


def access(config: Config, peers: Mapping[str, Peer]) -> Access:
    """Who may call us."""
    return Access(config.dicom.ae_title, tuple(peers.values()), config.dicom.known_peers_only)


def listeners(
    config: Config,
    inbox: Inbox,
    who: Access,
    extra: Extra,
    on_denied: Callable[[Denial], None],
    on_fault: Callable[[Fault], None],
) -> tuple[Listener, ...]:
    """The plain port, the TLS port, or both. Raises TlsUnusable."""
    dicom = config.dicom
    make = partial(
        Listener,
        dicom.ae_title,
        dicom.host,
        inbox=inbox,
        limits=ListenerLimits(associations_max=dicom.associations_max),
        access=who,
        extra=extra,
        on_denied=on_denied,
        on_fault=on_fault,
    )
    made = [make(port=dicom.port)] if dicom.plain else []
    if dicom.tls is not None:
        files = dicom.tls.files
        # A file that is wrong is told now, in words, and not by handshakes that fail.
        tls.check(files, wire.now())
        made.append(make(port=dicom.tls.port, tls=tls.server_context(files)))
    return tuple(made)


def puller(config: Config, inbox: Inbox, peers: Mapping[str, Peer]) -> Puller:
    """What fetches studies, by order and by standing query."""
    our_ae = config.dicom.ae_title

    def ask(peer: Peer, stop: threading.Event) -> AbstractContextManager[Source]:
        return source(peer, our_ae, Patience(None, stop))

    def fetch(
        peer: Peer,
        study_uid: str,
        *,
        wants: Callable[[str, SeriesEntry], bool] | None,
        progress: Callable[[Progress], None],
        stop: threading.Event,
    ) -> Retrieved:
        return retrieve(peer, study_uid, inbox, our_ae, wants=wants, progress=progress, stop=stop)

    standing = {
        one.peer: Settings(every_s=one.every_s, look_back_h=one.look_back_h, modalities=frozenset(one.modalities))
        for one in config.standing_queries
    }
    return Puller(
        peers=peers,
        fetch=fetch,
        source=ask,
        known=inbox.known,
        now=wire.now,
        standing=standing,
    )


def ports(made: Sequence[Listener]) -> str:
    """The ports that are listened on, for people."""
    return ", ".join(str(one.port) for one in made)
