"""The HTTP API: health, studies, models, the log's head, metrics; and the routers that others bring.

One error shape for all of it: {"error": {"code", "message"}}.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Final, Protocol

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from audit.errors import AuditError
from audit.log import AuditLog
from models.errors import ModelError
from models.library import Broken, Library
from service import views
from service.log_in import Guarded, LogIn
from service.store import Store
from service.study_page import StudyPage, wants_page

CODES: Final = {401: "UNAUTHENTICATED", 404: "NOT_FOUND"}


class Health(Protocol):
    """Asked on each /health; each item is a real check, not a constant."""

    def checks(self) -> dict[str, str]:
        """Name of a part -> 'ok' or what is wrong with it."""


def build_app(
    *,
    health: Health,
    store: Store,
    inbox: views.Held,
    library: Library,
    log: AuditLog,
    metrics: CollectorRegistry,
    page: StudyPage | None = None,
    log_in: LogIn | None = None,
    routers: Sequence[APIRouter] = (),
) -> FastAPI:
    """The application; every dependency is handed in. `page`: a study for a browser, and who decided what.

    `log_in`: who may come in; None: whoever reaches the port. `routers`: what else is served, beside looking.
    """
    app = FastAPI(title="Zhiying", openapi_url=None, docs_url=None, redoc_url=None)
    _errors(app)
    if log_in is not None:
        app.add_middleware(Guarded, log_in=log_in)
    for router in routers:
        app.include_router(router)

    @app.get("/health")
    def get_health(request: Request) -> JSONResponse:
        checks = health.checks()
        well = all(value == "ok" for value in checks.values())
        # What watches whether we live needs no token; what is wrong with us is not for strangers.
        told = {"checks": checks} if log_in is None or log_in.knows(request) else {}
        return JSONResponse({"status": "ok" if well else "degraded", **told}, 200 if well else 503)

    @app.get("/studies")
    def get_studies() -> list[dict[str, Any]]:
        return views.studies(store, inbox)

    @app.get("/studies/{study_uid}")
    def get_study(study_uid: str, request: Request) -> Response:
        if page is not None and wants_page(request):
            return page.shown(request, study_uid)
        found = views.study(store, inbox, study_uid, None if page is None else page.decided)
        if found is None:
            raise HTTPException(404, "no such study was received")
        if page is not None:
            page.looked(request, study_uid)
        return JSONResponse(found, headers={"Vary": "Accept"})

    @app.get("/models")
    def get_models() -> list[dict[str, Any]]:
        return [_model(item) for item in library.list()]

    @app.get("/audit/head")
    def get_head() -> dict[str, Any]:
        head = log.head()
        return {"origin": head.origin, "size": head.size, "root": head.root.hex(), "note": head.note}

    @app.get("/metrics")
    def get_metrics() -> Response:
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

    return app


def _model(item: Any) -> dict[str, Any]:
    if isinstance(item, Broken):
        return {"name": item.name, "version": item.version, "state": "REFUSED", "why": item.why}
    ref = item.ref
    return {
        "name": ref.name,
        "version": ref.version,
        "state": "INSTALLED",
        "digest": ref.digest,
        "title": dict(item.manifest.title),
    }


def _errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    def http_error(_request: Request, error: HTTPException) -> JSONResponse:
        code = CODES.get(error.status_code, f"HTTP_{error.status_code}")
        return JSONResponse({"error": {"code": code, "message": str(error.detail)}}, error.status_code)

    @app.exception_handler(RequestValidationError)
    def bad_request(_request: Request, _error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": {"code": "BAD_REQUEST", "message": "the request is not well formed"}}, 422)

    @app.exception_handler(SQLAlchemyError)
    @app.exception_handler(sqlite3.Error)
    def no_table(_request: Request, _error: Exception) -> JSONResponse:
        # Their text quotes the query, and with it a study; answered here, it reaches no log either.
        code = "DATABASE_UNAVAILABLE"
        return JSONResponse({"error": {"code": code, "message": "the table of runs cannot be read"}}, 503)

    @app.exception_handler(ModelError)
    def no_models(_request: Request, error: ModelError) -> JSONResponse:
        return JSONResponse({"error": {"code": error.code, "message": "the models cannot be read"}}, 503)

    @app.exception_handler(AuditError)
    def no_log(_request: Request, error: AuditError) -> JSONResponse:
        return JSONResponse({"error": {"code": error.code, "message": "the audit log cannot be read or written"}}, 503)
