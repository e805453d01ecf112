"""What the crash tables share: a PACS, and a copy of each file's own `template` of a site, for each row."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulators.pacs import FakePacs
from tests.simulators.site import Site, copy_of


@pytest.fixture
def pacs() -> Iterator[FakePacs]:
    """A PACS that outlives the service."""
    with FakePacs() as running:
        yield running


@pytest.fixture
def site(template: Path, tmp_path: Path, pacs: FakePacs) -> Iterator[Site]:
    """A fresh site for one row."""
    made = Site(copy_of(template, tmp_path / "site"), pacs)
    yield made
    made.kill()
