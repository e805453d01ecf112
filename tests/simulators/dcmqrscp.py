"""DCMTK's dcmqrscp as a small PACS in a folder (apt `dcmtk`): C-STORE, C-FIND, C-MOVE and C-GET of its own making."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dicom_bridge.peers import Peer, Retrieve
from service.demo.pacs import LOOPBACK, Node, quick_network
from service.demo.servers import Servers, answers, find_tool, free_port

TITLE = "QRSCP"
_CONFIG = """\
NetworkTCPPort  = {port}
MaxPDUSize      = 131072
MaxAssociations = 16
HostTable BEGIN
{hosts}
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
{title} {storage} RW (200, 1024mb) ANY
AETable END
"""


@dataclass(frozen=True, slots=True)
class Dcmqrscp:
    """One that runs: `port` and its folder; `log` is what it said."""

    root: Path
    port: int
    servers: Servers
    pid: int

    @property
    def log(self) -> Path:
        """Everything it says."""
        return self.root / "dcmqrscp.log"

    def peer(self, retrieve: Retrieve = Retrieve.C_MOVE) -> Peer:
        """How a configuration names it."""
        return Peer("qrscp", TITLE, LOOPBACK, self.port, counts=True, retrieve=retrieve)

    def fill(self, files: list[Path]) -> None:
        """Store these files in it, by DCMTK's own sender."""
        command = ["dcmsend", "-aec", TITLE, "-aet", "TESTSCANNER", LOOPBACK, str(self.port), *map(str, files)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=False, env=quick_network(os.environ)
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def die(self) -> None:
        """End at once."""
        self.servers.stop()


@contextmanager
def running_dcmqrscp(root: Path, known: tuple[Node, ...]) -> Iterator[Dcmqrscp]:
    """One on a free port; `known` are the nodes to which it may move."""
    storage = root / "storage"
    storage.mkdir(parents=True)
    port = free_port()
    hosts = "\n".join(f"{node.name} = ({node.ae_title}, {LOOPBACK}, {node.port})" for node in known)
    config = root / "dcmqrscp.cfg"
    config.write_text(_CONFIG.format(port=port, hosts=hosts, title=TITLE, storage=storage), encoding="ascii")
    with Servers(root / "servers.json") as servers:
        # It takes and gives one coded transfer syntax at most: JPEG 2000 lossless, which it cannot decode itself.
        command = [find_tool("dcmqrscp", "dcmtk"), "-v", "+xv", "-xv", "-c", str(config)]
        pid = servers.start("dcmqrscp", command, log=root / "dcmqrscp.log", environment=quick_network(os.environ))
        servers.wait_until(pid, lambda: answers(port), log=root / "dcmqrscp.log")
        yield Dcmqrscp(root, port, servers, pid)
