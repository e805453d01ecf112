"""What tests of several modules of the service stand on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulators.watched import Ward


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    """A log with one model in use."""
    ward = Ward(tmp_path)
    ward.in_use()
    yield ward
    ward.log.close()
