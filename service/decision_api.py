"""The HTTP API of human decisions: POST /calls/{call}/decision, and GET /calls/{call} for whoever is to decide.

Each request carries a reader's bearer token (RFC 6750). Errors have the shape of all others (see app), and repeat
nothing of what was sent.
"""

import re
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from audit.entry import Entry
from service.bodies import BODY_WAIT_S, BodyRefused, whole_body
from service.decisions import DecisionRefused, Desk, Known, Reader, parse_decision
from service.looks import Looks

STATUS: Final = {
    "NOT_FOUND": 404,
    "CALL_NOT_RELEASED": 409,
    "CALL_WITHDRAWN": 409,
    "DECISIONS_TOO_MANY": 409,
    "DECISION_INVALID": 422,
}
"""HTTP status of what is not taken, by its code."""
_CALL: Final = re.compile(r"[0-9a-f]{32}")


def decision_router(desk: Desk, looks: Looks, *, wait_s: float = BODY_WAIT_S) -> APIRouter:
    """The two routes."""
    router = APIRouter(prefix="/calls")

    @router.get("/{call}")
    def get_call(call: str, request: Request) -> Response:
        reader = _reader(desk, request)
        if reader is None:
            return _unknown()
        try:
            known = desk.look(checked(call))
            looks.at_call(reader, known)
            return JSONResponse(_shown(known))
        except DecisionRefused as refused:
            return _error(STATUS[refused.code], refused.code, str(refused))

    @router.post("/{call}/decision")
    async def post_decision(call: str, request: Request) -> Response:
        reader = _reader(desk, request)
        if reader is None:
            return _unknown()
        try:
            data = await whole_body(request, wait_s)
        except BodyRefused as refused:
            return _error(refused.status, refused.code, str(refused))
        return await run_in_threadpool(_taken, desk, call, reader, data)

    return router


def _taken(desk: Desk, call: str, reader: Reader, data: bytes) -> Response:
    try:
        entry, new = desk.decide(checked(call), reader, parse_decision(data))
    except DecisionRefused as refused:
        return _error(STATUS[refused.code], refused.code, str(refused))
    return JSONResponse(_decided(entry), 201 if new else 200)


def _reader(desk: Desk, request: Request) -> Reader | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return desk.reader(token.strip()) if scheme.lower() == "bearer" else None


def checked(call: str) -> str:
    """The name of a call, if it has the form of one. Raises DecisionRefused (NOT_FOUND)."""
    if not _CALL.fullmatch(call):
        raise DecisionRefused("NOT_FOUND", "no such call")
    return call


def _shown(known: Known) -> dict[str, Any]:
    call = known.call
    result = call.body("CALL_RESULT")
    return {
        "call": call.id,
        "state": call.state,
        "shadow": known.shadow,
        "open": known.open,
        "model": dict(call.body("CALL_INTENT").get("model", {})),
        "outputs": [{"kind": one["kind"], "uid": one["uid"]} for one in result.get("outputs", ())],
        "measurements": [dict(one) for one in result.get("measurements", ())],
        "entries": [{"kind": one.kind, "index": one.index, "time": one.time} for one in call.entries.values()],
        "decisions": [_decided(one) for one in known.decisions],
    }


def _decided(entry: Entry) -> dict[str, Any]:
    body = entry.body
    return {"decision": body["decision"], "role": body["role"], "index": entry.index, "time": entry.time}


def _unknown() -> JSONResponse:
    answer = _error(401, "UNAUTHENTICATED", "a reader's token is wanted: Authorization: Bearer ...")
    answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status)
