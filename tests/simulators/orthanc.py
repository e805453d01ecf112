"""A real Orthanc for tests, of the same configuration as the demo's, on free ports, stopped at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.demo.pacs import SCANNER_AE, Node, Orthanc, orthanc_at
from service.demo.servers import Servers

__all__ = ["SCANNER_AE", "Node", "Orthanc", "running_orthanc"]


@contextmanager
def running_orthanc(
    root: Path, *, forward_to: Node | None = None, known: tuple[Node, ...] = (Node("scanner", SCANNER_AE, 104),)
) -> Iterator[Orthanc]:
    """An Orthanc that keeps everything in `root`; started again on the same folder, it has what it had.

    `forward_to` gets each new MR or CT series; of others, only `known` may send.
    """
    root.mkdir(parents=True, exist_ok=True)
    orthanc = orthanc_at(root, forward_to=forward_to, known=known)
    with Servers(root / "servers.json") as servers:
        orthanc.start(servers)
        yield orthanc
