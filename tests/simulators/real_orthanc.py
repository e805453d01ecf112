"""Orthanc as a hospital runs it: with rules of its own, storage commitment, and a STOW-RS address for us."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from service.demo.pacs import PACS_AE, Node, Orthanc
from service.demo.servers import Servers
from tests.simulators.waiting import until

ANSWER_S = 60.0
US = "zhiying"
"""Our name in Orthanc's configuration."""


@dataclass(frozen=True, slots=True)
class RealOrthanc(Orthanc):
    """As the demo's, with further keys of its configuration file."""

    more: Mapping[str, object] = field(default_factory=dict)

    def configuration(self) -> dict[str, object]:
        """See Orthanc."""
        return Orthanc.configuration(self) | self.more

    # ---- what its administrator does over its REST API -----------------------------------------------------------

    def ask(self, method: str, path: str, body: object = None, content: bytes | None = None) -> Any:
        """One request; an answer other than 2xx is an error."""
        with httpx.Client(base_url=self.url, timeout=ANSWER_S, trust_env=False) as client:
            answer = client.request(method, path, json=body) if content is None else client.post(path, content=content)
        assert answer.is_success, (path, answer.status_code, answer.text[:500])
        return answer.json() if answer.content[:1] in b"{[" and answer.content else answer.text

    def put(self, files: Sequence[Path]) -> None:
        """Import files, as from a disc: no DICOM association is made."""
        for path in files:
            self.ask("POST", "/instances", content=path.read_bytes())

    def study(self, study_uid: str) -> str:
        """Orthanc's own identifier of a study."""
        (found,) = self.ask("POST", "/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": study_uid}})
        return str(found)

    def instances(self, study_uid: str) -> dict[str, str]:
        """Orthanc's own identifiers of all instances of a study, by SOP Instance UID; none for an unknown study."""
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study_uid}, "Expand": True}
        found = self.ask("POST", "/tools/find", query)
        return {one["MainDicomTags"]["SOPInstanceUID"]: one["ID"] for one in found}

    def store(self, study_uid: str, **more: object) -> dict[str, Any]:
        """Send a study to us by C-STORE, and wait for the job's end; `more` goes into the request."""
        request = {"Resources": [self.study(study_uid)], "Asynchronous": True} | more
        return self.job(self.ask("POST", f"/modalities/{US}/store", request)["ID"])

    def job(self, identifier: str) -> dict[str, Any]:
        """Wait for the end of a job."""

        def ended() -> dict[str, Any] | None:
            said: dict[str, Any] = self.ask("GET", f"/jobs/{identifier}")
            return said if said["State"] in ("Success", "Failure") else None

        found: dict[str, Any] = until(ended, ANSWER_S, "Orthanc's job ends")
        return found

    def commitment(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Ask us whether we hold these (SOP class, SOP instance); Orthanc's view of our report."""
        request = {"DicomInstances": [{"SOPClassUID": kind, "SOPInstanceUID": uid} for kind, uid in pairs]}
        return self.verdict(self.ask("POST", f"/modalities/{US}/storage-commitment", request)["ID"])

    def verdict(self, transaction: str) -> dict[str, Any]:
        """Wait until Orthanc has our report of this transaction."""

        def told() -> dict[str, Any] | None:
            said: dict[str, Any] = self.ask("GET", f"/storage-commitment/{transaction}")
            return said if said["Status"] != "Pending" else None

        found: dict[str, Any] = until(told, ANSWER_S, "our report reaches Orthanc")
        return found


def orthanc_for(
    root: Path,
    port: int,
    *,
    ports: tuple[int, int],
    known: tuple[Node, ...] = (),
    scripts: Mapping[str, str] | None = None,
) -> RealOrthanc:
    """One with these HTTP and DICOM `ports`, which knows us under `port`; not started. `scripts`: Lua rules by name."""
    root.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in (scripts or {}).items():
        files.append(str(root / f"{name}.lua"))
        (root / f"{name}.lua").write_text(text, encoding="utf-8")
    us = Node(US, "ZHIYING", port)
    return RealOrthanc(root, *ports, None, (*known, us), PACS_AE, {"LuaScripts": files})


@contextmanager
def running(orthanc: RealOrthanc) -> Iterator[RealOrthanc]:
    """Started, telling what it does, and stopped at the end."""
    with Servers(orthanc.root / "servers.json") as servers:
        orthanc.start(servers)
        with httpx.Client(base_url=orthanc.url, timeout=ANSWER_S, trust_env=False) as client:
            client.put("/tools/log-level", content=b"verbose").raise_for_status()
        yield orthanc
