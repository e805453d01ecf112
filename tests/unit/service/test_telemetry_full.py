"""A log that cannot be written stops nobody."""

import subprocess
import sys
from pathlib import Path

LINES = 2000
"""More than any buffer holds."""
PROGRAM = f"""
import structlog
from service.telemetry import set_up_logging
set_up_logging()
for _ in range({LINES}):
    structlog.get_logger().error("step_waits", step="WRITTEN", error_type="OperationalError")
print("alive")
"""


def test_lines_for_a_full_disk_are_dropped() -> None:
    """Standard error is a file on the disk that is full, which /dev/full plays: whoever logs goes on."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], stderr=full, stdout=subprocess.PIPE, text=True, timeout=300, check=False
        )
    assert done.stdout == "alive\n"


def test_lines_are_written_where_they_can_be() -> None:
    """Each one, at once."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, check=True)
    assert done.stderr.count('"event": "step_waits"') == LINES
