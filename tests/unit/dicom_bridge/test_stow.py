"""STOW-RS, the body: an answer for each part, whatever it is and however it is cut."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pydicom.data
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import MPEG2MPML, ExplicitVRLittleEndian, MRImageStorage

from dicom_bridge import status
from dicom_bridge.errors import InboxUnavailable, InstanceRefused
from dicom_bridge.inbox import Inbox, InboxLimits, Received
from dicom_bridge.offers import STORAGE_CLASSES, TRANSFER_SYNTAXES
from dicom_bridge.stow import (
    Broken,
    Failure,
    Intake,
    PartRefused,
    Reference,
    Report,
    RequestRefused,
    StowLimits,
    boundary_of,
)
from dicom_bridge.stream import part10_header, read_part10
from tests.simulators.failing_disk import FailingDisk
from tests.simulators.received import Clock
from tests.simulators.series import dataset_bytes, make_slice, part10
from tests.simulators.stow import BOUNDARY, CONTENT_TYPE, body, part

OWN_FILES = sorted(path for path in (Path(pydicom.data.__file__).parent / "test_files").rglob("*") if path.is_file())


@pytest.fixture
def disk() -> FailingDisk:
    """The real disk until it is told to fail."""
    return FailingDisk()


@pytest.fixture
def inbox(tmp_path: Path, disk: FailingDisk) -> Iterator[Inbox]:
    """A fresh inbox."""
    made = Inbox(tmp_path / "spool", Clock(), disk=disk)
    yield made
    made.close()


def take(
    inbox: Inbox,
    data: bytes,
    *,
    study_uid: str | None = None,
    limits: StowLimits | None = None,
    step: int | None = None,
) -> Report:
    """One request, in pieces of `step` bytes."""
    intake = Intake(inbox, BOUNDARY, "STOW", study_uid=study_uid, limits=limits)
    try:
        for at in range(0, len(data), step or len(data) or 1):
            intake.feed(data[at : at + (step or len(data))])
        return intake.finish()
    finally:
        intake.close()


def reference(index: int) -> Reference:
    """What slice `index` of the series is called."""
    return Reference(str(MRImageStorage), str(make_slice(index).SOPInstanceUID))


def slices(count: int) -> list[bytes]:
    """That many files of one series."""
    return [part10(make_slice(index)) for index in range(count)]


# -- what is stored ---------------------------------------------------------------------------------------------


def test_what_is_said_to_be_stored_is_held(inbox: Inbox) -> None:
    """Each part is one instance in the inbox, byte for byte its data set, under the sender's name."""
    report = take(inbox, body(slices(3)))

    assert report == Report(tuple(reference(index) for index in range(3)), (), None)
    held = inbox.instances(make_slice(0).StudyInstanceUID)
    assert {one.sop_uid for one in held} == {one.sop_uid for one in report.stored}
    assert {one.sender for one in held} == {"STOW"}
    first = next(one for one in held if one.sop_uid == reference(0).sop_uid)
    assert first.path.read_bytes().endswith(dataset_bytes(make_slice(0)))


def test_sent_again_it_is_the_same(inbox: Inbox) -> None:
    """A client that lost the answer sends again: stored, and held once."""
    assert take(inbox, body(slices(2))) == take(inbox, body(slices(2) + slices(1)[:0]))
    assert len(inbox.instances(make_slice(0).StudyInstanceUID)) == 2
    assert not inbox.quarantined()


def test_other_pixels_under_the_same_uid_are_kept_apart(inbox: Inbox) -> None:
    """As by C-STORE: answered as stored, the first comer stays, the second waits for a person."""
    other = make_slice(0)
    other.SeriesDescription = "another"

    report = take(inbox, body([part10(make_slice(0)), part10(other)]))

    assert report.stored == (reference(0), reference(0))
    assert len(inbox.conflicts()) == 1


def test_a_request_is_open_like_an_association(inbox: Inbox) -> None:
    """While it lasts the study it brings is not complete; when it ends, whoever waits is woken."""
    study = make_slice(0).StudyInstanceUID
    intake = Intake(inbox, BOUNDARY, "STOW")
    intake.feed(part(slices(1)[0]) + part(b"")[:-10])
    assert inbox.open_associations(study) == 1

    inbox.wait(0)
    intake.close()
    assert inbox.open_associations(study) == 0
    assert inbox.wait(30)


def test_parts_are_stored_as_they_arrive(inbox: Inbox) -> None:
    """A part is held when the next one begins: a study of gigabytes is never in memory whole."""
    first, second = slices(2)
    intake = Intake(inbox, BOUNDARY, "STOW")
    intake.feed(part(first) + part(second)[: len(BOUNDARY) + 4])
    held = [one.sop_uid for one in inbox.instances(make_slice(0).StudyInstanceUID)]
    intake.close()

    assert held == [reference(0).sop_uid]


@pytest.mark.parametrize("content", [slices(1)[0], b"x" * 1000])
@pytest.mark.parametrize("finished", [False, True])
def test_what_is_not_whole_leaves_nothing(inbox: Inbox, tmp_path: Path, content: bytes, finished: bool) -> None:
    """A request that breaks off in a part: no file under way, no instance, nothing in quarantine."""
    intake = Intake(inbox, BOUNDARY, "STOW")
    intake.feed(part(content)[:-10])
    assert list((tmp_path / "spool" / "incoming").iterdir())

    if finished:
        intake.finish()
    intake.close()
    assert not list((tmp_path / "spool" / "incoming").iterdir())
    assert not inbox.quarantined()
    assert not inbox.instances(make_slice(0).StudyInstanceUID)


@pytest.mark.parametrize("call", ["create", "write", "adopt"])
def test_what_the_disk_refuses_is_not_called_stored(inbox: Inbox, disk: FailingDisk, call: str) -> None:
    """A full or broken disk answers A7xx for each part, and the next request works again."""
    disk.fail[call] = "before"
    report = take(inbox, body(slices(2)))
    assert report.stored == ()
    assert {one.reason for one in report.failed} == {0xA700}

    disk.fail.clear()
    assert take(inbox, body(slices(2))).failed == ()


def test_a_full_disk_is_told_before_writing(inbox: Inbox, disk: FailingDisk) -> None:
    """Below the reserve nothing is taken; the answer is the one that makes clients try again."""
    disk.free = 0

    assert {one.reason for one in take(inbox, body(slices(1))).failed} == {0xA700}


# -- what is not stored -----------------------------------------------------------------------------------------


def bad_parts() -> dict[str, tuple[bytes, bytes, Failure, str | None]]:
    """Name -> headers and content of a part, the failure, and the code in quarantine."""
    good, ds = part10(make_slice(7)), make_slice(7)
    encoded, known = dataset_bytes(ds), reference(7)
    plain = b"Content-Type: application/dicom\r\n"

    def file(sop_class: str = MRImageStorage, uid: str = known.sop_uid, syntax: str = ExplicitVRLittleEndian) -> bytes:
        return part10_header(sop_class, uid, syntax, "") + encoded

    without_uid = make_slice(7)
    del without_uid.StudyInstanceUID
    return {
        "empty": (plain, b"", Failure(0xC000, None), "DATASET_GARBLED"),
        "text": (plain, b"hello", Failure(0xC000, None), "DATASET_GARBLED"),
        "no preamble": (plain, encoded, Failure(0xC000, None), "DATASET_GARBLED"),
        "preamble only": (plain, good[:132], Failure(0xC000, None), "DATASET_GARBLED"),
        "cut in the meta": (plain, good[:200], Failure(0xC000, None), "DATASET_GARBLED"),
        "cut in the data": (plain, good[:-10], Failure(0xC000, known), "DATASET_GARBLED"),
        "json": (b"Content-Type: application/dicom+json\r\n", b"[]", Failure(0xC000, None), None),
        "jpeg": (b"content-type:image/jpeg\r\n", good, Failure(0xC000, None), None),
        "private class": (plain, file("1.2.3.4"), Failure(0x0122, Reference("1.2.3.4", known.sop_uid)), None),
        "directory": (
            plain,
            file("1.2.840.10008.1.3.10"),
            Failure(0x0122, Reference("1.2.840.10008.1.3.10", known.sop_uid)),
            None,
        ),
        "mpeg": (plain, file(syntax=MPEG2MPML), Failure(0xC122, known), None),
        "other class": (
            plain,
            file("1.2.840.10008.5.1.4.1.1.2"),
            Failure(0xA900, Reference("1.2.840.10008.5.1.4.1.1.2", known.sop_uid)),
            "CLASS_MISMATCH",
        ),
        "other uid": (
            plain,
            file(uid="1.2.3"),
            Failure(0xC000, Reference(str(MRImageStorage), "1.2.3")),
            "UID_INVALID",
        ),
        "no class in the meta": (plain, file(""), Failure(0xA900, None), "CLASS_MISMATCH"),
        "no study": (plain, part10(without_uid), Failure(0xC000, known), "UID_MISSING"),
        "path for a uid": (plain, file(uid="../../etc/x"), Failure(0xC000, None), "UID_INVALID"),
    }


BAD = bad_parts()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_part_harms_no_other(inbox: Inbox, name: str) -> None:
    """Each gets its coded failure, is kept in quarantine where C-STORE would have received it, and its neighbours
    are stored.
    """
    headers, content, failure, code = BAD[name]
    before, after = slices(2)

    report = take(inbox, part(before) + part(content, headers) + body([after]))

    assert report == Report((reference(0), reference(1)), (failure,), None)
    assert [one.code for one in inbox.quarantined()] == ([] if code is None else [code])


@pytest.mark.parametrize(
    "headers",
    [
        b"",
        b"Content-Type: application/dicom\r\n",
        b"content-type:application/dicom\r\n",
        b'Content-Type: Application/DICOM; transfer-syntax="1.2.840.10008.1.2.1"\r\n',
        # The file says itself what it is; what a header says of it does not count.
        b"Content-Type: application/dicom; transfer-syntax=1.2.840.10008.1.2.4.50\r\n",
        b"Content-Type: application/dicom; transfer-syntax=*; charset=utf-8\r\n",
        b"Content-Length: 3\r\nContent-Type: application/dicom\r\nContent-Location: http://example.invalid/\r\n",
        b"X: " + b"x" * 4000 + b"\r\n",
    ],
)
def test_headers_of_a_good_part(inbox: Inbox, headers: bytes) -> None:
    """The media type of a part is application/dicom, with any parameter, or missing; nothing else of it counts."""
    report = take(inbox, part(slices(1)[0], headers) + body([]))

    assert report == Report((reference(0),), (), None)


def test_only_the_target_study(inbox: Inbox) -> None:
    """In a request for one study, an instance of another is refused, named, kept in quarantine, and not held."""
    stranger = make_slice(0, seed="stranger")

    report = take(inbox, body([*slices(1), part10(stranger), b"rubbish"]), study_uid=make_slice(0).StudyInstanceUID)

    foreign = Reference(str(MRImageStorage), str(stranger.SOPInstanceUID))
    assert report == Report((reference(0),), (Failure(0xA900, foreign), Failure(0xC000, None)), None)
    assert {one.code for one in inbox.quarantined()} == {"WRONG_STUDY", "DATASET_GARBLED"}
    assert not inbox.instances(stranger.StudyInstanceUID)


def test_a_full_quarantine_is_told(tmp_path: Path) -> None:
    """What can neither be used nor kept is answered with A7xx: the client keeps it."""
    inbox = Inbox(tmp_path / "spool", Clock(), limits=InboxLimits(quarantine_bytes_max=10))
    report = take(inbox, body([b"rubbish of some length", *slices(1)]))
    inbox.close()

    assert report == Report((reference(0),), (Failure(0xA700, None),), None)


def by_c_store(data: bytes, root: Path) -> int:
    """The status that C-STORE ends with: of the association's negotiation, or of the inbox."""
    inbox = Inbox(root, Clock())
    try:
        meta = read_part10(data)
        if meta.sop_class and meta.sop_class not in STORAGE_CLASSES:
            return 0x0122
        if meta.transfer_syntax not in TRANSFER_SYNTAXES:
            return 0xC122
        dataset = data[meta.dataset_at :]
        inbox.store(Received(dataset, meta.transfer_syntax, meta.sop_class, meta.sop_instance), "MODALITY")
    except InstanceRefused as refused:
        return status.answer(refused).status
    finally:
        inbox.close()
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("path", OWN_FILES, ids=lambda path: path.name)
def test_agrees_with_c_store(inbox: Inbox, tmp_path: Path, path: Path) -> None:
    """Every file of pydicom's own tests, the broken ones included: stored, or refused with the status of C-STORE."""
    data = path.read_bytes()
    report = take(inbox, body([data, *slices(1)]))

    reasons = [one.reason for one in report.failed]
    assert (report.broken, report.stored[-1]) == (None, reference(0))
    assert (reasons or [0]) == [by_c_store(data, tmp_path / "other")]
    assert len(report.stored) + len(reasons) == 2


# -- bodies that are cut, crooked or hostile --------------------------------------------------------------------


def test_a_body_without_its_end(inbox: Inbox) -> None:
    """Cut off at any place, nothing is called stored but what was whole, and the answer says that there was more."""
    whole = body(slices(2))
    second = whole.index(b"--" + BOUNDARY, 10)
    for cut in [0, 1, 30, 60, 200, second - 1, second, second + 30, second + 400, len(whole) - 5, len(whole) - 3]:
        report = take(inbox, whole[:cut])
        stored = [reference(0)] * (cut > second + len(BOUNDARY) + 2)
        assert report == Report(tuple(stored), (Failure(0xC000, None),), Broken.MALFORMED), cut


def test_what_follows_the_end_is_ignored(inbox: Inbox) -> None:
    """RFC 2046 section 5.1.1: an epilogue is no part, whatever it looks like."""
    assert take(inbox, body(slices(1)) + b"\r\nepilogue " + body(slices(2))).stored == (reference(0),)


def test_lines_before_the_first_boundary(inbox: Inbox) -> None:
    """Some clients begin with an empty line."""
    assert take(inbox, b"\r\n" + body(slices(1))).stored == (reference(0),)


HOSTILE = {
    "nothing": b"",
    "rubbish": b"\x00\xff" * 50,
    "only the end": b"--" + BOUNDARY + b"--\r\n",
    "another boundary": body([b"x"], b"other"),
    "no line end": b"--" + BOUNDARY + b"Content-Type: application/dicom\r\n\r\n",
    "a header without a name": part(b"", b": application/dicom\r\n"),
    "a header without an end": b"--" + BOUNDARY + b"\r\nContent-Type: " + b"x" * 100_000,
    "a name without an end": b"--" + BOUNDARY + b"\r\n" + b"x" * 100_000,
    "a huge header": part(b"", b"Content-Type: application/dicom" + b" " * 100_000 + b"\r\n") + body([]),
    "a thousand headers": part(b"", b"X: y\r\n" * 1000) + body([]),
    "a header of zero bytes": part(b"", b"Content-Type: \0\0\r\n\0: x\r\n") + body([]),
    "bare line feeds": body(slices(1)).replace(b"\r\n", b"\n"),
    "a boundary in a boundary": (b"--" + BOUNDARY) * 1000,
}


# A body that ends at once: well formed, and nothing in it.
ENDS = (b"--" + BOUNDARY + b"--",)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("step", [1, 7, None])
def test_a_hostile_body_is_malformed(inbox: Inbox, name: str, step: int | None) -> None:
    """No crash, nothing stored, one word: malformed; and the parts before it keep their answer."""
    if len(HOSTILE[name]) / (step or 1000) < 20_000:
        report = take(inbox, HOSTILE[name], step=step)
        assert report.stored == ()
        assert report.broken is Broken.MALFORMED or HOSTILE[name].startswith(ENDS)

    after = take(inbox, part(slices(1)[0]) + HOSTILE[name], step=step and 1000)
    assert after.stored in ((), (reference(0),))
    assert (after.stored == (reference(0),)) or after.broken is Broken.MALFORMED


PIECES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"\r\n--" + BOUNDARY,
            b"\r\n--" + BOUNDARY + b"\r",
            b"\r\n--" + BOUNDARY + b"-",
            b"--" + BOUNDARY + b"--",
            b"\r\n--" + BOUNDARY[:-1],
            b"\r\n\r\n--",
            b"\r",
            b"\n",
            b"-",
            *slices(2),
        ]
    ),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(st.lists(PIECES, max_size=4).map(b"".join), max_size=4), cuts=st.data())
def test_how_it_is_cut_does_not_count(inbox: Inbox, contents: list[bytes], cuts: st.DataObject) -> None:
    """The network cuts a body where it likes, in a boundary or a header too: the report is that of the whole."""
    whole = body([*slices(1), *contents, *slices(1)])
    places = cuts.draw(st.lists(st.integers(0, len(whole)), max_size=30).map(sorted))

    expected = take(inbox, whole)
    intake = Intake(inbox, BOUNDARY, "STOW")
    for begin, end in zip([0, *places], [*places, len(whole)], strict=True):
        intake.feed(whole[begin:end])
    report = intake.finish()
    intake.close()

    assert report == expected
    assert take(inbox, whole, step=1) == expected


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(PIECES, st.sampled_from([part(slices(1)[0]), b"Content-Type: ", b":"])), max_size=12))
def test_whatever_comes_is_answered(inbox: Inbox, pieces: list[bytes]) -> None:
    """Any bytes at all give a report; what it calls stored is held."""
    report = take(inbox, b"".join(pieces), step=11)

    held = {one.sop_uid for one in inbox.instances(make_slice(0).StudyInstanceUID)}
    assert {one.sop_uid for one in report.stored} <= held


@pytest.mark.slow
def test_ten_thousand_parts(inbox: Inbox) -> None:
    """A request of many parts has an answer for each."""
    good = slices(1)[0]
    intake = Intake(inbox, BOUNDARY, "STOW")
    for number in range(10_000):
        intake.feed(part(good if number % 100 == 0 else b""))
    intake.feed(body([]))
    report = intake.finish()
    intake.close()

    assert (len(report.stored), len(report.failed), report.broken) == (100, 9900, None)


# -- limits -----------------------------------------------------------------------------------------------------


def test_a_part_that_is_too_large_is_refused_alone(tmp_path: Path) -> None:
    """It is answered like a C-STORE that is too large, leaves nothing behind, and the next is stored."""
    good = slices(1)[0]
    inbox = Inbox(tmp_path / "spool", Clock(), limits=InboxLimits(instance_bytes_max=len(good)))

    report = take(inbox, body([slices(2)[1] + b"\0" * 100_000, good]), step=1000)
    inbox.close()

    assert report == Report((reference(0),), (Failure(0xC001, reference(1)),), None)
    assert not list((tmp_path / "spool" / "incoming").iterdir())


def test_a_request_that_is_too_large_ends(inbox: Inbox) -> None:
    """What was stored before the limit is told, and that the rest was not read, to be sent in another request."""
    first, second = slices(2)
    limits = StowLimits(request_bytes_max=len(part(first)) + len(second) // 2)

    report = take(inbox, body([first, second]), limits=limits, step=500)

    assert report == Report((reference(0),), (Failure(0xA700, None),), Broken.TOO_LARGE)


def test_too_many_parts_end_the_request(inbox: Inbox) -> None:
    """The answers of a request are kept in memory; there is an end to it."""
    report = take(inbox, body(slices(4)), limits=StowLimits(parts_max=2))

    assert report == Report((reference(0), reference(1)), (Failure(0xA700, None),), Broken.TOO_LARGE)


def test_an_end_without_parts(inbox: Inbox) -> None:
    """A body that holds nothing stores nothing, and nothing failed."""
    assert take(inbox, b"--" + BOUNDARY + b"--\r\n").stored == ()


# -- the header -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        (CONTENT_TYPE, BOUNDARY),
        ("multipart/related; type=application/dicom; boundary=abc", b"abc"),
        ('Multipart/Related;Type="Application/DICOM";Boundary=abc', b"abc"),
        ("multipart/related; boundary=abc", b"abc"),
        ('multipart/related; type="application/dicom"; transfer-syntax=*; boundary="a b:c"', b"a b:c"),
        # Longer than RFC 2046 allows, as Orthanc writes it.
        ("multipart/related; boundary=" + "x" * 73, b"x" * 73),
    ],
)
def test_content_types_that_are_understood(header: str, boundary: bytes) -> None:
    """Quoted or not, in any case and order, with a missing type (RFC 2387, RFC 2046)."""
    assert boundary_of(header) == boundary


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "STOW_MEDIA_TYPE"),
        ("application/dicom", "STOW_MEDIA_TYPE"),
        ("multipart/form-data; boundary=abc", "STOW_MEDIA_TYPE"),
        ('multipart/related; type="application/dicom+json"; boundary=abc', "STOW_MEDIA_TYPE"),
        ('multipart/related; type="application/dicom+xml"; boundary=abc', "STOW_MEDIA_TYPE"),
        ("multipart/related", "STOW_MALFORMED"),
        ('multipart/related; type="application/dicom"; boundary=""', "STOW_MALFORMED"),
        ("multipart/related; boundary=" + "x" * 201, "STOW_MALFORMED"),
        ('multipart/related; boundary="a\r\nb"', "STOW_MALFORMED"),
        ('multipart/related; boundary="a\xe9"', "STOW_MALFORMED"),
        ('multipart/related; boundary="ends with a space "', "STOW_MALFORMED"),
    ],
)
def test_content_types_that_are_not(header: str, code: str) -> None:
    """Another kind of body is one thing, a body of ours whose parts cannot be told is another."""
    with pytest.raises(RequestRefused) as raised:
        boundary_of(header)
    assert raised.value.code == code


@given(st.text(st.characters(max_codepoint=255), max_size=80))
def test_any_content_type_has_an_answer(text: str) -> None:
    """A header is latin-1; whatever stands in it is a boundary or a refusal."""
    for header in (text, f"multipart/related; {text}", f'multipart/related; boundary="{text}"'):
        with suppress(RequestRefused):
            assert re.fullmatch(rb"[\x20-\x7e]{1,200}", boundary_of(header))


def test_nothing_of_a_patient_is_said(inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    """Neither logs nor codes nor what an error says repeat a byte of the body (I5)."""
    caplog.set_level(logging.DEBUG)
    secret = b"TEST^Phantom"
    take(inbox, b"--" + BOUNDARY + b"\r\n" + secret + b": " + secret + b"\r\nbad header \xff" + secret)
    take(inbox, secret + body([secret]))
    take(inbox, body([part10(make_slice(0))[:-5], secret]))

    assert "TEST" not in caplog.text
    assert not caplog.records


@pytest.mark.parametrize("code", sorted(PartRefused.CODES))
def test_each_code_has_a_reason(code: str) -> None:
    """No part can be refused with a code that has no Failure Reason (PS3.18 table I.2-2)."""
    assert PartRefused(code).code == code


def test_codes_of_the_inbox_have_reasons() -> None:
    """Each refusal that the inbox can give has a row among the statuses, so none ends as our own fault."""
    for error in (*InstanceRefused.CODES,):
        assert status.answer(InstanceRefused(error)) != status.FAULT
    for error in (*InboxUnavailable.CODES,):
        assert status.answer(InboxUnavailable(error)) != status.FAULT
