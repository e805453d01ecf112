"""The hospital's side of the demo: the service's configuration, and looking at a study through its HTTP API."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from service.demo.errors import NotInTime
from service.demo.pacs import LOOPBACK, PACS_AE
from service.demo.servers import answers

DICOM_PORT = 11113  # not the product's default 11112: a real Zhiying may run on this machine
HTTP_PORT = 8301
AE_TITLE = "ZHIYING"
PEER = "pacs"
QUIET_S = 5.0  # the PACS answers counts, so this is the last resort only
POLL_S = 0.2
REQUEST_LIMIT_S = 10.0
ENDS = frozenset({"RELEASED", "SHADOWED", "REFUSED", "FAILED", "UNDELIVERED"})


@dataclass(frozen=True, slots=True)
class Hospital:
    """One installation: its folder and where it listens."""

    root: Path
    dicom_port: int
    http_port: int

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self.root / "zhiying.toml"

    @property
    def log(self) -> Path:
        """What the service prints."""
        return self.root / "zhiying.log"

    @property
    def url(self) -> str:
        """Its HTTP API."""
        return f"http://{LOOPBACK}:{self.http_port}"

    def configure(self, *, site: str, pacs_port: int, trust: str, key_images: bool = False) -> None:
        """Write the configuration: one PACS, which gets the results, and the trust policy (its text).

        `key_images`: whether a picture with the finding in words goes there too.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        policy = self.root / "trust.policy"
        policy.write_text(trust, encoding="utf-8")
        text = (json.dumps(value, ensure_ascii=False) for value in (site, str(self.root / "data"), str(policy)))
        site_id, data, trusted = text
        self.config.write_text(
            f"# DEMO: written anew by each run of `zhiying demo`\n"
            f'[site]\nid = {site_id}\nlanguage = "zh-CN"\n\n'
            f"[data]\nfolder = {data}\n\n"
            f'[dicom]\nae_title = "{AE_TITLE}"\nhost = "{LOOPBACK}"\nport = {self.dicom_port}\n\n'
            f'[http]\nhost = "{LOOPBACK}"\nport = {self.http_port}\n\n'
            f'[[peers]]\nname = "{PEER}"\nae_title = "{PACS_AE}"\nhost = "{LOOPBACK}"\nport = {pacs_port}\n'
            f'counts = true\n\n[results]\nto = "{PEER}"\n'
            f"key_images = {str(key_images).lower()}\n\n"
            f'[assembly]\nquiet_s = {QUIET_S}\n\n[review]\ntrust = {trusted}\nautonomy = "A1"\n'
            'care_setting = "OP"\nreading_mode = "second_reader"\n',
            encoding="utf-8",
        )

    def ready(self) -> bool:
        """Whether it answers on both ports, and says that it is well."""
        if not (answers(self.http_port) and answers(self.dicom_port)):
            return False
        try:
            return httpx.get(f"{self.url}/health", timeout=REQUEST_LIMIT_S).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def study(self, study_uid: str) -> dict[str, Any] | None:
        """What it says of a study, or None when it knows none such."""
        found = self._get(f"/studies/{study_uid}")
        return None if found is None else dict(found)

    def busy(self, study_uid: str) -> bool:
        """Whether images of the study have come in that are not handed on yet."""
        listed = self._get("/studies") or []
        return any(one["study_uid"] == study_uid and one["state"] == "RECEIVING" for one in listed)

    def settled(self, study_uid: str, limit_s: float, tell: Callable[[str], None]) -> dict[str, Any]:
        """Wait until the study's newest run has ended and nothing of it is arriving; `tell` hears each new state.

        Raises NotInTime with the state that was seen last.
        """
        deadline = time.monotonic() + limit_s
        last = "nothing received"
        while time.monotonic() < deadline:
            arriving = self.busy(study_uid)  # asked first: what arrives after this is a new matter
            study = self.study(study_uid)
            state = "RECEIVING" if arriving else str((study or {}).get("state", last))
            if state != last:
                last = state
                tell(state)
            if study is not None and not arriving and state in ENDS:
                return study
            time.sleep(POLL_S)
        raise NotInTime(f"the study did not come to an end in {limit_s:.0f} s; last seen: {last}; see {self.log}")

    def _get(self, path: str) -> Any:
        try:
            answer = httpx.get(f"{self.url}{path}", timeout=REQUEST_LIMIT_S)
        except httpx.HTTPError as fault:
            raise NotInTime(f"the service does not answer ({type(fault).__name__}); see {self.log}") from None
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if answer.status_code != httpx.codes.OK:
            raise NotInTime(f"the service answered with HTTP status {answer.status_code}; see {self.log}")
        return answer.json()
