"""Orthanc as the hospital's PACS: its configuration, and the rule that forwards new images to us.

One folder holds everything of it (configuration, index, images, log), so that a second run finds the same PACS.
Orthanc 1.10 cannot bind its DICOM port to loopback; instead it takes associations only from the AE titles listed
here, and only from this machine's address (DicomCheckModalityHost).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.demo.servers import Servers, answers, find_tool, free_port

PACS_AE = "DEMOPACS"
SCANNER_AE = "DEMOSCANNER"
LOOPBACK = "127.0.0.1"
HTTP_PORT = 18042  # not Orthanc's own 8042 and 4242: the Debian package may have started its service there
DICOM_PORT = 14242
STABLE_AGE_S = 2  # a series is forwarded when quiet for this long; Orthanc's own 60 s is for real scanners
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

# What a PACS administrator would set up as a routing rule. Results (SR, SEG) are not images: they never come back.
FORWARD_RULE = """\
function OnStableSeries(seriesId, tags, metadata)
  if tags['Modality'] == 'MR' or tags['Modality'] == 'CT' then
    RestApiPost('/modalities/{name}/store', '{{"Resources":["' .. seriesId .. '"],"Asynchronous":true}}')
  end
end
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A DICOM node that the PACS knows: `name` in its configuration, AE title, and port on this machine."""

    name: str
    ae_title: str
    port: int


@dataclass(frozen=True, slots=True)
class Orthanc:
    """One Orthanc of a folder: where it keeps its data and where it listens."""

    root: Path
    http_port: int
    dicom_port: int
    forward_to: Node | None
    known: tuple[Node, ...] = ()
    ae_title: str = PACS_AE

    @property
    def url(self) -> str:
        """Root of its REST API."""
        return f"http://{LOOPBACK}:{self.http_port}"

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.root / "orthanc.log"

    def configuration(self) -> dict[str, object]:
        """The JSON of its configuration file; keys as in Orthanc's own documented default file."""
        nodes = [*self.known, *([self.forward_to] if self.forward_to else [])]
        configuration: dict[str, object] = {
            "Name": "DEMO PACS",
            "StorageDirectory": str(self.root / "storage"),
            "IndexDirectory": str(self.root / "storage"),
            "Plugins": [str(DICOMWEB_PLUGIN)] if DICOMWEB_PLUGIN.exists() else [],
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomPort": self.dicom_port,
            "DicomAet": self.ae_title,
            "DicomCheckCalledAet": True,
            "DicomCheckModalityHost": True,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomModalities": {node.name: [node.ae_title, LOOPBACK, node.port] for node in nodes},
            "DefaultEncoding": "Utf8",
            "UnknownSopClassAccepted": True,
            "OverwriteInstances": True,
            "StableAge": STABLE_AGE_S,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        if self.forward_to is not None:
            configuration["LuaScripts"] = [str(self.root / "forward.lua")]
        return configuration

    def write(self) -> Path:
        """Write its files; gives the path of the configuration."""
        (self.root / "storage").mkdir(parents=True, exist_ok=True)
        if self.forward_to is not None:
            (self.root / "forward.lua").write_text(FORWARD_RULE.format(name=self.forward_to.name), encoding="utf-8")
        path = self.root / "orthanc.json"
        path.write_text(json.dumps(self.configuration(), indent=1) + "\n", encoding="utf-8")
        return path

    def start(self, servers: Servers) -> int:
        """Start it and wait until both of its ports answer; gives its process id. ServerNotStarted, ToolMissing."""
        binary = find_tool("Orthanc", "orthanc")
        path = self.write()
        pid = servers.start("Orthanc", [binary, str(path)], log=self.log, environment=quick_network(os.environ))
        servers.wait_until(pid, lambda: answers(self.http_port) and answers(self.dicom_port), log=self.log)
        return pid


def quick_network(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for DCMTK programs and Orthanc: without TCP_NODELAY each image waits 40 ms for an ACK."""
    return {**environment, "TCP_NODELAY": "1"}


def orthanc_at(root: Path, *, forward_to: Node | None, known: tuple[Node, ...] = ()) -> Orthanc:
    """An Orthanc of `root` on the demo's ports, or on free ones where those are taken."""
    return Orthanc(root, free_port(HTTP_PORT), free_port(DICOM_PORT), forward_to, known)
