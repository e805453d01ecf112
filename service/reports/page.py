"""A document as one page for a browser: no script, nothing from elsewhere, for A4."""

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from service.reports.document import Document

PAGES: Final = Path(__file__).parents[1] / "pages"
TEMPLATE: Final = "report.html"


def write(document: Document) -> bytes:
    """The page, UTF-8. Everything in the document is escaped."""
    pages = Environment(
        loader=FileSystemLoader(PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return pages.get_template(TEMPLATE).render(d=document).encode()
