"""A PACS behind HTTP: DICOMweb (QIDO-RS, WADO-RS) and enough of Orthanc's REST API, behaving or not."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydicom.dataset import Dataset

from dicom_bridge.peers import Peer, Retrieve
from tests.simulators.series import part10

WEB, REST = "/dicom-web", "/orthanc"
Answer = tuple[int, dict[str, str], Iterator[bytes]]
"""HTTP status, headers, body."""
Trick = Callable[[str, dict[str, list[str]]], Answer | None]
"""(path, query) -> an answer of its own; None: the true one."""


def said(body: bytes, kind: str = "application/dicom+json", status: int = 200) -> Answer:
    """Return a plain answer."""
    return status, {"Content-Type": kind, "Content-Length": str(len(body))}, iter([body])


class WebPacs:
    """What it has is in `instances`; `trick` may answer instead. `page_max`: answers to one QIDO question at most."""

    def __init__(self, instances: Sequence[Dataset] = ()) -> None:
        self.instances = list(instances)
        self.trick: Trick = lambda _path, _query: None
        self.page_max = 1000
        self.knows_pages = True
        self.tells_counts = True
        self.plain = False
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []

    def answer(self, path: str, query: dict[str, list[str]], body: Any) -> Answer:
        """Answer one request."""
        tricked = self.trick(path, query)
        if tricked is not None:
            return tricked
        if path.startswith(WEB):
            return self._web(path.removeprefix(WEB).strip("/").split("/"), query)
        if path.startswith(REST):
            return self._rest(path.removeprefix(REST).strip("/").split("/"), body)
        return said(b"no such thing", "text/plain", 404)

    # -- DICOMweb -----------------------------------------------------------------------------------------------------

    def _web(self, parts: list[str], query: dict[str, list[str]]) -> Answer:
        if len(parts) == 6:
            for one in self.instances:
                if (one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID) == (parts[1], parts[3], parts[5]):
                    return self._file(one)
            return said(b"", status=404)
        inside = self.instances if len(parts) == 1 else [o for o in self.instances if o.StudyInstanceUID == parts[1]]
        answers = {"studies": self._studies, "series": self._series, "instances": self._images}[parts[-1]](inside)
        offset, limit = int(query.get("offset", ["0"])[0]), int(query.get("limit", ["1000"])[0])
        if self.knows_pages:
            answers = answers[offset : offset + min(limit, self.page_max)]
        return said(json.dumps(answers).encode()) if answers else said(b"", status=204)

    def _file(self, one: Dataset) -> Answer:
        if self.plain:
            return said(part10(one), "application/dicom")
        body = b"\r\n--xyz\r\nContent-Type: application/dicom\r\n\r\n" + part10(one) + b"\r\n--xyz--\r\n"
        return said(body, 'multipart/related; type="application/dicom"; boundary=xyz')

    def _studies(self, inside: Sequence[Dataset]) -> list[Any]:
        found = []
        for uid in dict.fromkeys(one.StudyInstanceUID for one in inside):
            mine = [one for one in inside if one.StudyInstanceUID == uid]
            found.append(
                _json(
                    ("0020000D", "UI", uid),
                    ("00080020", "DA", mine[0].StudyDate),
                    ("00080061", "CS", *sorted({one.Modality for one in mine})),
                    ("00201208", "IS", len(mine)),
                )
            )
        return found

    def _series(self, inside: Sequence[Dataset]) -> list[Any]:
        found = []
        for uid in dict.fromkeys(one.SeriesInstanceUID for one in inside):
            mine = [one for one in inside if one.SeriesInstanceUID == uid]
            counts = [("00201209", "IS", len(mine))] if self.tells_counts else []
            found.append(_json(("0020000E", "UI", uid), ("00080060", "CS", mine[0].Modality), *counts))
        return found

    def _images(self, inside: Sequence[Dataset]) -> list[Any]:
        return [
            _json(
                ("0020000D", "UI", one.StudyInstanceUID),
                ("0020000E", "UI", one.SeriesInstanceUID),
                ("00080018", "UI", one.SOPInstanceUID),
                ("00080016", "UI", one.SOPClassUID),
            )
            for one in inside
        ]

    # -- Orthanc ------------------------------------------------------------------------------------------------------

    def _rest(self, parts: list[str], body: Any) -> Answer:
        if parts == ["tools", "find"]:
            level, query = body["Level"], body["Query"]
            of = {"Study": "StudyInstanceUID", "Series": "SeriesInstanceUID"}[level]
            inside = [o for o in self.instances if query.get("StudyInstanceUID") in (None, o.StudyInstanceUID)]
            return _listed([_thing(mine, of) for mine in _grouped(inside, of)])
        kind, name, what = parts
        if kind == "studies":
            (mine,) = [g for g in _grouped(self.instances, "StudyInstanceUID") if _id(g[0].StudyInstanceUID) == name]
            return _listed([_thing(one, "SeriesInstanceUID") for one in _grouped(mine, "SeriesInstanceUID")])
        if kind == "series":
            mine = [one for one in self.instances if _id(one.SeriesInstanceUID) == name]
            return _listed([_thing([one], "SOPInstanceUID") for one in mine])
        found = [one for one in self.instances if _id(one.SOPInstanceUID) == name]
        return said(part10(found[0]), "application/dicom") if found and what == "file" else said(b"{}", status=404)


@contextmanager
def serving(pacs: WebPacs, retrieve: Retrieve = Retrieve.WADO_RS) -> Iterator[Peer]:
    """Run it on loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, asked: Any) -> None:
            parts = urlsplit(self.path)
            pacs.asked.append(self.path)
            pacs.headers.append(dict(self.headers.items()))
            status, headers, body = pacs.answer(parts.path, parse_qs(parts.query), asked)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.close_connection = True
                self.send_header("Connection", "close")
            self.end_headers()
            try:
                for piece in body:
                    self.wfile.write(piece)
                    self.wfile.flush()
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is its
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    root = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield Peer("webpacs", "WEBPACS", "127.0.0.1", 104, retrieve=retrieve, web=root + WEB, orthanc=root + REST)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _json(*elements: Any) -> dict[str, Any]:
    return {tag: {"vr": vr, "Value": list(values)} for tag, vr, *values in elements}


def _listed(things: list[Any]) -> Answer:
    return said(json.dumps(things).encode(), "application/json")


def _id(uid: str) -> str:
    digest = hashlib.sha1(uid.encode(), usedforsecurity=False).hexdigest()
    return "-".join(digest[at : at + 8] for at in range(0, 40, 8))


def _grouped(instances: Sequence[Dataset], keyword: str) -> list[list[Dataset]]:
    groups: dict[str, list[Dataset]] = {}
    for one in instances:
        groups.setdefault(str(one[keyword].value), []).append(one)
    return list(groups.values())


def _thing(mine: Sequence[Dataset], keyword: str) -> dict[str, Any]:
    first = mine[0]
    tags = {keyword: str(first[keyword].value), "Modality": first.Modality, "StudyDate": first.StudyDate}
    return {"ID": _id(str(first[keyword].value)), "MainDicomTags": tags}
