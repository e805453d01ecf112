"""What several modules of these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inference.engine import Engine


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """One engine for all tests of the module."""
    with Engine(device="cpu", log=lambda _event, **_values: None) as one:
        yield one
