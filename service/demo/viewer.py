"""OHIF, the real viewer, on one origin with the PACS's DICOMweb: what a radiologist of the demo's hospital opens.

The viewer's built files come from its own npm package (scripts/viewer.sh takes the pinned, hash-checked one); nothing
of it is changed, but the configuration that every site must write. Nothing is asked of any other origin.

    python -m service.demo.viewer DIST ORTHANC_URL PORT
"""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from service.demo.pacs import LOOPBACK, Orthanc
from service.demo.servers import Servers, answers, free_port

PORT: Final = 18080
DICOMWEB: Final = "/dicom-web"
ANSWER_S: Final = 120.0
"""A series of a large CT in one answer; a viewer gives up sooner than that."""
PASSED_ON: Final = frozenset({"accept", "content-type"})
PASSED_BACK: Final = frozenset({"content-type"})
CONFIGURATION: Final[dict[str, object]] = {
    "routerBasename": None,
    "extensions": [],
    "modes": [],
    "customizationService": [{"ohif.tours": {"$set": []}}],
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "strictZSpacingForVolumeViewport": True,
    "groupEnabledModesFirst": True,
    "disableConfirmationPrompts": True,
    "showErrorDetails": "always",
    "defaultDataSourceName": "dicomweb",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "dicomweb",
            "configuration": {
                "friendlyName": "Orthanc",
                "name": "orthanc",
                "wadoUriRoot": "/wado",
                "qidoRoot": DICOMWEB,
                "wadoRoot": DICOMWEB,
                "qidoSupportsIncludeField": False,
                "supportsReject": False,
                "supportsStow": True,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "supportsFuzzyMatching": False,
                "supportsWildcard": True,
                "omitQuotationForMultipartRequest": True,
                "bulkDataURI": {"enabled": True},
            },
        }
    ],
}
"""OHIF's app-config: one DICOMweb source on this origin. Keys are OHIF's own."""


def application(dist: Path, orthanc: str, changes: dict[str, object] | None = None) -> ASGIApp:
    """The viewer's files and the PACS behind them. `changes` go into the viewer's configuration."""
    said = json.dumps(CONFIGURATION | (changes or {}), ensure_ascii=False)
    root = dist.resolve(strict=True)

    @asynccontextmanager
    async def client_open(_: Starlette) -> AsyncIterator[dict[str, object]]:
        # A connection for each request: Orthanc closes those that are kept, now and then just as one is used again.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=orthanc, timeout=ANSWER_S, trust_env=False, limits=limits) as client:
            yield {"client": client}

    async def configuration(_: Request) -> Response:
        return Response(f"window.config = {said};\n", media_type="text/javascript")

    async def dicomweb(request: Request) -> Response:
        headers = {name: value for name, value in request.headers.items() if name in PASSED_ON}
        # Orthanc makes the addresses in its answers from it: they must lead back here.
        headers["host"] = request.headers["host"]
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        body = await request.body()
        answer = await request.state.client.request(request.method, path, headers=headers, content=body)
        back = {name: value for name, value in answer.headers.items() if name in PASSED_BACK}
        return Response(answer.content, answer.status_code, back)

    async def file(request: Request) -> Response:
        wanted = (root / request.path_params["path"]).resolve()
        # Any address that is no file is a place inside the viewer, which its one page finds by itself.
        found = wanted.is_file() and wanted.is_relative_to(root)
        return FileResponse(wanted if found else root / "index.html")

    return Starlette(
        routes=[
            Route("/app-config.js", configuration),
            Route(f"{DICOMWEB}/{{path:path}}", dicomweb, methods=["GET", "POST"]),
            Route("/{path:path}", file),
        ],
        lifespan=client_open,
    )


def start_viewer(servers: Servers, dist: Path, pacs: Orthanc, workdir: Path, study_uid: str) -> str:
    """Start it beside the demo's PACS; gives the address of the study. Raises ServerNotStarted."""
    port, log = free_port(PORT), workdir / "viewer.log"
    command = [sys.executable, "-m", "service.demo.viewer", str(dist.absolute()), pacs.url, str(port)]
    pid = servers.start("OHIF", command, log=log, environment=os.environ)
    servers.wait_until(pid, lambda: answers(port), log=log)
    return f"http://{LOOPBACK}:{port}/viewer?StudyInstanceUIDs={study_uid}"


def main(words: list[str]) -> None:
    """Serve until stopped, on loopback."""
    dist, orthanc, port = words
    uvicorn.run(application(Path(dist), orthanc), host=LOOPBACK, port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1:])
