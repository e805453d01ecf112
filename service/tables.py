"""The log as tables for a spreadsheet: RFC 4180, UTF-8 with a mark that Excel needs for Chinese, and no formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from audit.entry import Kind
from service.call_book import Call, CallBook, Told
from service.tally import Approved, Tally, signers_of

BOM: Final = b"\xef\xbb\xbf"
PIECE_CHARS: Final = 1 << 16
"""Rows are handed on in pieces of about this size: always whole rows."""
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")

Row = tuple[str, ...]
CALLS: Final = (
    *("call", "study", "model", "model_version", "approval", "autonomy", "checks", "state", "intent_time"),
    *("result_time", "outcome", "outputs", "measurements", "device", "total_s", "released_time", "peer", "attempts"),
    *("proof", "denied", "failed", "intent_to_result_s", "result_to_release_s"),
)
DENIALS: Final = ("index", "time", "call", "study", "stage", "code", "condition", "observed", "model", "model_version")
FAILURES: Final = ("index", "time", "call", "study", "stage", "code", "fault")
APPROVALS: Final = (
    *("index", "time", "approval", "reviewer", "signed_by", "criteria_set", "model", "model_version"),
    *("valid_from", "valid_to", "note_digest"),
)
STATES: Final = (
    *("index", "time", "kind", "model", "model_version", "event", "from", "to", "reason", "condition", "observed"),
    *("evidence", "level", "site", "signed_by", "note_digest"),
)
DECISIONS: Final = (
    *("index", "time", "call", "decision", "reasons", "significant", "role", "reader", "channel", "seconds"),
    *("blinded", "concordance"),
)
KINDS: Final = ("kind", "entries", "first_time", "last_time")


def tables(book: CallBook, tally: Tally) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Names of members, and what is in each."""
    yield "tables/approvals.csv", _table(APPROVALS, map(_approval, tally.approvals))
    yield "tables/calls.csv", _table(CALLS, map(_call, book.calls()))
    yield "tables/decisions.csv", _table(DECISIONS, map(_decision, book.of_kind(Kind.HUMAN_DECISION)))
    yield "tables/denials.csv", _table(DENIALS, map(_denial, book.of_kind(Kind.DENIED)))
    yield "tables/failures.csv", _table(FAILURES, map(_failure, book.of_kind(Kind.FAILED)))
    kinds = ((kind, str(count), *tally.spans[kind]) for kind, count in sorted(tally.kinds.items()))
    yield "tables/kinds.csv", _table(KINDS, kinds)
    yield "tables/states.csv", _table(STATES, map(_state, book.of_kind(Kind.STATE_CHANGE, Kind.STOP, Kind.RESUME)))


def safe(cell: str) -> str:
    """The cell as text that no spreadsheet takes for a formula: an apostrophe before what could begin one."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def index_text(index: int) -> str:
    """An entry's place in the log, as members of the package are named by it."""
    return f"{index:013d}"


def checks_text(checks: Iterable[Mapping[str, Any]]) -> str:
    """What the gate saw, as in the entry: AGE_YEARS=HOLDS (70-74)."""
    return "; ".join(f"{one['condition']}={one['outcome']} ({one['observed']})" for one in checks)


def measured_text(measurements: Iterable[Mapping[str, Any]]) -> str:
    """[code] value unit: the bracket keeps a spreadsheet from reading a long code as a number."""
    return "; ".join(f"[{one['code']}] {one['value']} {one['unit']}" for one in measurements)


def _table(head: Row, rows: Iterable[Row]) -> Iterator[bytes]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(head)
    mark = BOM
    for row in rows:
        writer.writerow([safe(cell) for cell in row])
        if text.tell() > PIECE_CHARS:
            yield mark + text.getvalue().encode()
            mark = b""
            text.seek(0)
            text.truncate()
    yield mark + text.getvalue().encode()


def _call(call: Call) -> Row:
    intent, result, released = (call.body(kind) for kind in ("CALL_INTENT", "CALL_RESULT", "RELEASED"))
    denied, failed = call.body("DENIED"), call.body("FAILED")
    model = intent.get("model") or denied.get("model") or {}
    total = result.get("timing_ms", {}).get("total")
    return (
        *(call.id, _first("study", intent, denied, failed), _text(model, "name"), _text(model, "version")),
        *(_text(intent, "approval"), _text(intent, "autonomy"), checks_text(intent.get("checks", ()))),
        *(call.state, call.time("CALL_INTENT"), call.time("CALL_RESULT"), _text(result, "outcome")),
        "; ".join(f"{one['kind']} {one['uid']}" for one in result.get("outputs", ())),
        *(measured_text(result.get("measurements", ())), _text(result, "device")),
        *(_seconds(None if total is None else total / 1000), call.time("RELEASED")),
        *(_text(released, "peer"), _text(released, "attempts"), _text(released, "proof")),
        *(_code(denied), _code(failed)),
        _seconds(call.seconds("CALL_INTENT", "CALL_RESULT")),
        _seconds(call.seconds("CALL_RESULT", "RELEASED")),
    )


def _denial(told: Told) -> Row:
    body, model = told.body, told.body.get("model") or {}
    names = ("study", "stage", "code", "condition", "observed")
    cells = (_text(body, name) for name in names)
    return (index_text(told.index), told.time, told.call or "", *cells, _text(model, "name"), _text(model, "version"))


def _failure(told: Told) -> Row:
    cells = (_text(told.body, name) for name in ("study", "stage", "code", "fault"))
    return (index_text(told.index), told.time, told.call or "", *cells)


def _state(told: Told) -> Row:
    body, model = told.body, told.body.get("model") or {}
    names = ("event", "from", "to", "reason", "condition", "observed", "evidence", "level", "site")
    cells = (_text(body, name) for name in names)
    who = (_text(model, "name"), _text(model, "version"))
    signed = "; ".join(signers_of(body.get("note")))
    return (index_text(told.index), told.time, told.kind, *who, *cells, signed, _text(body, "note_digest"))


def _decision(told: Told) -> Row:
    body = told.body
    names = ("significant", "role", "reader", "channel", "seconds", "blinded", "concordance")
    cells = (_text(body, name) for name in names)
    reasons = "; ".join(map(str, body.get("reasons", ())))
    return (index_text(told.index), told.time, told.call or "", _text(body, "decision"), reasons, *cells)


def _approval(one: Approved) -> Row:
    return (
        *(index_text(one.index), one.time, one.text("approval"), one.text("reviewer_org"), "; ".join(one.signers)),
        *(one.text("criteria_set"), one.text("model", "name"), one.text("model", "version")),
        *(one.text("valid", "from"), one.text("valid", "to"), one.digest),
    )


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    return "" if value is None else str(value)


def _first(name: str, *bodies: Mapping[str, Any]) -> str:
    return next((str(body[name]) for body in bodies if name in body), "")


def _code(body: Mapping[str, Any]) -> str:
    return f"{body['stage']} {body['code']}" if body else ""


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
