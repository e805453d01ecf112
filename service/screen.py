"""Pages for a browser: one style, no script, nothing from elsewhere, everything escaped; and what a call measured."""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from models.errors import ModelError
from models.library import Installed, Library
from models.manifest import Manifest

Language = Literal["zh", "en"]
PAGES: Final = Path(__file__).with_name("pages")
_ENVIRONMENT: Final = Environment(
    loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_STYLE: Final = _ENVIRONMENT.get_template("screen.css").render().encode()
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE).digest()).decode()
HEADERS: Final = {
    # The style is named by its digest: no other one, and no script at all.
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src 'self' data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer", with which browsers send forms from "null", and their cookie would not count.
    "Referrer-Policy": "same-origin",
    "Vary": "Cookie, Authorization",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured value for people: `name` in English, as the manifest has no other, or the bare code."""

    code: str
    name: str
    value: str
    unit: str


def language(request: Request, default: Language) -> Language:
    """What `?lang=` asks for, if we have it."""
    asked = request.query_params.get("lang")
    return cast("Language", asked) if asked in {"zh", "en"} else default


def page(template: str, lang: Language, status: int = 200, **values: Any) -> HTMLResponse:
    """A template of `pages` with its values. In it `t(zh, en)` chooses the words."""
    chosen = 0 if lang == "zh" else 1
    words: dict[str, Any] = {"lang": lang, "t": lambda *pair: pair[chosen]}
    return HTMLResponse(_ENVIRONMENT.get_template(template).render(**words, **values), status, HEADERS)


def manifests(library: Library) -> Callable[[Mapping[str, Any]], Manifest | None]:
    """Finds the manifest of a model as entries name it; None where it is not installed, or the library unreadable."""

    def find(model: Mapping[str, Any]) -> Manifest | None:
        try:
            listed = library.list()
        except ModelError:
            return None  # its name and version are in the log; only the title is missing
        found = (one for one in listed if isinstance(one, Installed) and one.ref.digest == model.get("digest"))
        return next((one.manifest for one in found), None)

    return find


def title(model: Mapping[str, Any], manifest: Manifest | None, lang: Language) -> str:
    """What people call a model: its name in entries where nothing says more, and nothing where there is no model."""
    return str(model.get("name", "")) if manifest is None else manifest.title[lang]


def measured(values: Sequence[Mapping[str, Any]], manifest: Manifest | None) -> list[Measured]:
    """A call's measurements with names, where the manifest lists the very same codes in the same order."""
    known = () if manifest is None else manifest.measurements
    if [one.concept.value for one in known] != [one["code"] for one in values]:
        known = ()
    names = [f"{one.concept.meaning}, {one.site.meaning}" for one in known] or [str(one["code"]) for one in values]
    return [
        Measured(str(one["code"]), name, str(one["value"]), str(one["unit"]))
        for one, name in zip(values, names, strict=True)
    ]
