"""The HTTP API of pulls: order one, and see what became of it. Errors have the shape of all others (see app)."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from service.puller import Puller, PullRefused, shown

STATUS = {"PEER_UNKNOWN": 404, "STUDY_UID_INVALID": 422, "PULL_QUEUE_FULL": 503, "STOPPING": 503}
"""HTTP status of an order that was not taken, by its code."""
TEXT_MAX = 256  # characters of a value in an order; a UID has 64


class Order(BaseModel):
    """What to fetch, and from which peer of the configuration."""

    model_config = ConfigDict(extra="forbid")

    study: str = Field(max_length=TEXT_MAX)
    peer: str = Field(alias="from", max_length=TEXT_MAX)


def build_router(puller: Puller) -> APIRouter:
    """POST /pulls, GET /pulls and GET /pulls/{id}."""
    router = APIRouter(prefix="/pulls")

    @router.post("", status_code=202)
    def post_pull(order: Order) -> Any:
        try:
            job = puller.order(order.study, order.peer)
        except PullRefused as refused:
            return _error(STATUS[refused.code], refused.code, str(refused))
        return shown([job])[0]

    @router.get("")
    def get_pulls() -> list[dict[str, Any]]:
        return shown(puller.jobs())

    @router.get("/{job_id}")
    def get_pull(job_id: str) -> Any:
        job = puller.job(job_id)
        if job is None:
            return _error(404, "NOT_FOUND", "no such pull; it ended long ago, or the service was restarted")
        return shown([job])[0]

    return router


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status)
