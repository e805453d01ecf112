"""The log's entries as DICOM audit messages, live to the site's repository: the parts of it, made and run together."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from audit import durable
from audit.log import AuditLog
from dicom_bridge import tls
from dicom_bridge.audit_event import Node, Reporter
from dicom_bridge.peers import Peer
from service import wire
from service.audit_feed import AuditFeed
from service.caretaker import Caretaker
from service.config import Config
from service.sections import Syslog
from service.syslog import Header, Repository, SyslogSender, SyslogState
from service.syslog_spool import Spool

SYSTEM = "zhiying"


def reporter_of(config: Config, peers: Mapping[str, Peer], host: str) -> Reporter:
    """Who we are in audit messages. Raises ReporterInvalid."""
    return Reporter(
        site=config.site.id,
        system=SYSTEM,
        origin=wire.origin(config),
        node=Node(config.dicom.ae_title, host),
        peers={name: Node(peer.ae_title, peer.host) for name, peer in peers.items()},
    )


class AuditMessages:
    """Follows the log until stopped. Raises TlsUnusable, SpoolUnavailable, SyslogInvalid, ReporterInvalid."""

    def __init__(self, config: Config, site: Syslog, log: AuditLog, peers: Mapping[str, Peer]) -> None:
        files = site.files
        # A file that is wrong is told now, in words, and not by connections that fail.
        tls.check(files, wire.now())
        folder: Path = config.data.folder / "syslog"
        durable.make_dirs(folder)
        host = socket.getfqdn()
        reporter = reporter_of(config, peers, host)
        header = Header(host=host, process=str(os.getpid()), msgid=site.msgid)
        self._spool = Spool(folder / "spool.sqlite", bytes_max=site.spool_bytes_max)
        self._sender = SyslogSender(self._spool, Repository(site.host, files, site.port, site.fingerprint))
        feed = AuditFeed(log, self._sender, reporter, header)

        def pump() -> None:
            feed.pump()

        self._feeding = Caretaker(pump)

    def start(self) -> None:
        """Begin where the last run has stopped."""
        self._sender.start()
        self._feeding.start()

    def stop(self) -> None:
        """End; what was not sent waits in the spool, what is not in the spool waits in the log."""
        self._feeding.stop()
        self._sender.stop()
        self._spool.close()

    @property
    def running(self) -> bool:
        """For /health: whether it tries; a repository that is away is no fault of ours."""
        return self._feeding.running and self._sender.running

    @property
    def state(self) -> SyslogState:
        """What waits, and why."""
        return self._sender.state
