"""A real Orthanc for tests, of the same configuration as the demo's, on free ports, stopped at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.demo.pacs import SCANNER_AE, Node, Orthanc
from service.demo.servers import Servers, free_port

__all__ = ["SCANNER_AE", "Node", "Orthanc", "running_orthanc"]


@contextmanager
def running_orthanc(
    root: Path, *, forward_to: Node | None = None, known: tuple[Node, ...] = (Node("scanner", SCANNER_AE, 104),)
) -> Iterator[Orthanc]:
    """An Orthanc that keeps everything in `root`; started again on the same folder, it has what it had.

    `forward_to` gets each new MR or CT series; of others, only `known` may send.
    """
    root.mkdir(parents=True, exist_ok=True)
    # Not the demo's own ports: others of these run beside this one, and between a look and Orthanc's start is a second.
    orthanc = Orthanc(root, free_port(), free_port(), forward_to, known)
    with Servers(root / "servers.json") as servers:
        orthanc.start(servers)
        yield orthanc
