"""The part of the API that tells of stops: whether everything is stopped, and how long the last stop took."""

from collections.abc import Mapping
from typing import Any, Protocol

from fastapi import APIRouter


class Said(Protocol):
    """What is asked; see service.stopping."""

    def said(self) -> Mapping[str, object]:
        """stopped: a code or None; last: index, at, code, ms of the last stop that took effect, or None."""


def build_router(watcher: Said) -> APIRouter:
    """GET /stops."""
    router = APIRouter()

    @router.get("/stops")
    def get_stops() -> dict[str, Any]:
        return dict(watcher.said())

    return router
