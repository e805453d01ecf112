"""The HTTP port: uvicorn in a thread of its own."""

import threading

import uvicorn
from fastapi import FastAPI

from service.sections import Http

STOP_S = 5  # for requests under way


class HttpServer:
    """Serves one application until it is stopped."""

    def __init__(self, app: FastAPI, http: Http) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=http.host,
                port=http.port,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
            )
        )
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.run, name="http", daemon=True)

    def start(self) -> None:
        """Begin to answer; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests, and let those under way end."""
        self._server.should_exit = True
        self._thread.join(STOP_S)
