"""A reader's desktop: a real Chromium before the application that a test has made, on loopback."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Page, sync_playwright

WINDOW = {"width": 1000, "height": 1100}


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The application behind a port of its own; its origin."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@contextmanager
def browser() -> Iterator[tuple[Page, list[str]]]:
    """A new page in a Chromium of its own, and what that complains of in its console."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium is not None, "Chromium is not installed: scripts/setup.sh test"
    with sync_playwright() as play:
        running: Any = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            page = running.new_page(viewport=WINDOW)
            complaints: list[str] = []
            page.on("console", lambda said: complaints.append(said.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            yield page, complaints
        finally:
            running.close()
