"""A hospital whose PACS may be told what counts no more: late images, and somebody who takes a result back.

The PACS is a real Orthanc; the service runs as it does in the field, and the command is a process of its own beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pydicom
import pytest
from hl7apy.parser import parse_message

from dicom_bridge import uids
from dicom_bridge.rejection import rejection_uid
from service.demo.pacs import PACS_AE
from service.demo.servers import free_port
from tests.simulators import real_dcmtk as dcmtk
from tests.simulators.mllp import LOOPBACK, Ris
from tests.simulators.real_orthanc import RealOrthanc, orthanc_for, running
from tests.simulators.real_site import Address, RealSite, started, until, with_model, zhiying
from tests.simulators.site import write_series

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def held(orthanc: RealOrthanc, study: str) -> dict[str, bytes]:
    """Every object of a study as the PACS gives it back."""
    with httpx.Client(base_url=orthanc.url, trust_env=False) as client:
        return {uid: client.get(f"/instances/{one}/file").content for uid, one in orthanc.instances(study).items()}


@pytest.fixture
def ris() -> Iterator[Ris]:
    """A RIS that is told of results."""
    with Ris() as heard:
        yield heard


def statuses(message: bytes) -> set[str]:
    """OBX-11 of every observation of an ORU^R01, by a parser that is not ours."""
    parsed = parse_message(message.decode(), find_groups=False)
    return {str(one.obx_11.value) for one in parsed.children if one.name == "OBX"}


def test_what_counts_no_more_is_named_and_stays_as_it_is(tmp_path: Path, ris: Ris) -> None:
    """Late slices: a new result and a note of the old; a person: a note of the new. No byte of either changes.

    The RIS hears of the old one, of the new one in its place, and that this counts no more.
    """
    http, dicom = free_port(), free_port()
    site = RealSite(
        tmp_path / "site",
        Address(PACS_AE, dicom),
        results_more="rejection_notes = true",
        more=f'[reports.hl7]\nhost = "{LOOPBACK}"\nport = {ris.port}\nreceiver = "RIS"\n',
    )
    archive = orthanc_for(tmp_path / "orthanc", site.dicom_port, ports=(http, dicom))
    with running(archive) as orthanc, started(with_model(site)):
        study = uids.derive("TEST", "withdrawn", "study")
        files = write_series(tmp_path / "study", seed="withdrawn")
        files.sort(key=lambda path: int(pydicom.dcmread(path, stop_before_pixels=True).InstanceNumber))
        assert dcmtk.caller("dcmsend", site.dicom_port, calling="SCANNER", files=files[3:])
        site.run_in("RELEASED", study=study)
        first = held(orthanc, study)
        assert len(first) == 2

        assert dcmtk.caller("dcmsend", site.dicom_port, calling="SCANNER", files=files[:3])
        until(lambda: len(orthanc.instances(study)) == 5, 120, "two more objects, and a note")
        runs = sorted(site.runs(), key=lambda run: run.created_at)
        old, new = (run.call for run in runs if run.study_uid == study)
        assert old is not None
        assert new is not None
        second = held(orthanc, study)
        assert {uid: second[uid] for uid in first} == first
        assert rejection_uid(old) in second
        assert rejection_uid(new) not in second
        entry = site.of_call(old, "WITHDRAWN")
        assert (entry.body["reason"], entry.body["by"], entry.body["person"]) == ("SUPERSEDED", new, None)

        # Else it would be told of the first, and that nothing of it counts any more.
        until(lambda: len(ris.messages) == 2, 60, "the RIS has both, one after the other")
        said = zhiying(site, "results", "withdraw", new, "--reason", "SAFETY", "--by", "li.m", "--json")
        assert said.status == 0, said.err
        until(lambda: rejection_uid(new) in orthanc.instances(study), 60, "the note of the new result")
        until(lambda: len(ris.messages) == 3, 60, "the RIS is told, too")
        assert [statuses(one) for one in ris.messages] == [{"O", "P"}, {"O", "P"}, {"W"}]
        assert len(set(ris.ids)) == 3
        assert len({str(parse_message(one.decode(), find_groups=False).obr.obr_3.value) for one in ris.messages}) == 1
        until(lambda: site.counted().get("NOTIFIED") == 3, 60, "the log says so")
        told = [(one.call, one.body["told"]) for one in site.entries() if one.kind == "NOTIFIED"]
        assert told == [(old, "RESULT"), (new, "RESULT"), (new, "WITHDRAWAL")]
        again = zhiying(site, "results", "withdraw", new, "--reason", "SAFETY", "--by", "li.m")
        assert again.err.startswith("error CALL_WITHDRAWN: ")
        third = held(orthanc, study)
        assert {uid: third[uid] for uid in second} == second
        assert set(third) - set(second) == {rejection_uid(new)}
        shown = zhiying(site, "studies", "show", study, "--json").value["runs"]
        assert [run["withdrawn"]["reason"] for run in shown] == ["SUPERSEDED", "SAFETY"]
        site.fit()
    checked = zhiying(site, "audit", "verify")
    assert checked.status == 0, checked.err
