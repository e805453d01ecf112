"""The fault table of the DICOM bridge, its last row: not one byte can be written any more, by any part of the service.

Images, index, runs, workflow, outbox and audit log share the disk. Whatever could not be kept was refused, and whatever
was under way goes on as soon as there is room, without anybody touching the service.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.simulators import faults_full
from tests.simulators.faults_pacs import FaultyPacs
from tests.simulators.faults_site import FaultySite, make_study
from tests.simulators.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LIMIT_S = 60.0
A_WHILE_S = 3.0
"""Some attempts of every part; nothing can tell us of them."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FaultySite]:
    """A running site whose data folder is a small disk, where the machine lets us mount one."""
    with FaultyPacs() as pacs, faults_full.small_disk(tmp_path / "site" / "data") as mounted:
        made = FaultySite(tmp_path / "site", pacs)
        made.small_disk = mounted
        made.approve(made.install_model())
        made.start(under=faults_full.THROUGH_A_PIPE)
        yield made
        made.kill()


def _fill(site: FaultySite) -> Callable[[], None]:
    """Leave no room; gives what makes room again."""
    if site.small_disk:
        faults_full.fill(site.data)
        return lambda: faults_full.empty(site.data)
    faults_full.wall(site.pid, 0)
    return lambda: faults_full.wall(site.pid, -1)


ROWS = [
    ("ASSEMBLED", "before", "full"),
    ("INFERRED", "after", "full"),
    ("WRITTEN", "after", "walled"),
    ("PERMITTED", "before", "log and all"),
]


@pytest.mark.parametrize(("step", "moment", "way"), ROWS, ids=[" ".join(row) for row in ROWS])
def test_a_disk_without_a_free_byte(site: FaultySite, tmp_path: Path, step: str, moment: str, way: str) -> None:
    """A study in the middle of its story waits, another one is refused with 0xA700; with room both end RELEASED."""
    site.small_disk = site.small_disk and way == "full"
    if way == "log and all":  # what the service says goes to a file on the same disk
        site.kill()
        site.start()
    first, second = make_study(tmp_path, "first"), make_study(tmp_path, "second")
    site.levers.hold(step, moment)
    assert set(site.send(first.files)) == {0}
    until(site.levers.held, LIMIT_S, "the story is under way")
    make_room = _fill(site)
    done = site.counted()

    site.levers.release()
    with site.sender() as peer:
        assert set(site.store(peer, *second.images[:5])) == {0xA700}
        if way == "log and all":
            time.sleep(A_WHILE_S)
        else:
            until(lambda: site.logged("step_waits") + site.logged("workflows_wait") > 0, LIMIT_S, "the story waits")
        assert site.counted() == done
        assert site.alive
        make_room()
        site.resend(second)

    site.run_in("RELEASED", study=first.uid)
    site.released.add(first.uid)
    site.finish(second)
    site.finish(first)
    assert site.healthy()
