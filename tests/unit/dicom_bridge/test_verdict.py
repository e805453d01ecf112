"""A report that a reader edited or verified: what it says of ours, in codes; what cannot be compared says nothing."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_bridge import verdict, verdict_tree
from dicom_bridge.heads import UNREADABLE
from dicom_bridge.verdict import (
    Change,
    Tie,
    Verdict,
    compare_report,
    observer,
    read_object,
    rejects,
    same_patient,
    tie_of_report,
)
from dicom_bridge.verdict_tree import VerdictUnusable, read_tree
from tests.simulators import edited
from tests.simulators import findings as phantom
from tests.unit.dicom_bridge.test_report import SHAPE, Results

BRAIN, BLEED = phantom.ellipsoid(SHAPE), phantom.ellipsoid(SHAPE, size=0.15)
RESULTS = Results(BRAIN, BLEED)
OURS = RESULTS.sr
TRACKS = [next(i.UID for i in g.ContentSequence if edited.items_name(i) == "112040") for g in edited.groups(OURS)]
VALUES = [str(i.MeasuredValueSequence[0].NumericValue) for i in edited.items(OURS, "118565006")]
STRANGER = "1.2.840.99999.1.2.3.4"

Edit = Callable[[Dataset], object]


def said(edit: Edit, ours: Dataset = OURS, tie: Tie = Tie.TRACKING) -> Verdict:
    """What the report says after this edit."""
    ds = edited.copied(ours)
    edit(ds)
    return compare_report(edited.reread(ds), ours, tie)


def refused(edit: Edit, ours: Dataset = OURS, tie: Tie = Tie.TRACKING) -> str:
    """The code with which an edit is refused."""
    with pytest.raises(VerdictUnusable) as caught:
        said(edit, ours, tie)
    return caught.value.code


def remove_all(ds: Dataset) -> None:
    """A viewer drops the container with its last group."""
    edited.drop(ds, "126010")


def take_out(place: int) -> Edit:
    """Remove one group."""
    return lambda ds: edited.group_list(ds).pop(place)


def add_group(ds: Dataset, uid: str = STRANGER) -> None:
    """A finding of the reader's own."""
    new = copy.deepcopy(edited.groups(ds)[-1])
    edited.track(new, uid)
    edited.group_list(ds).append(new)


def change(place: int, after: str | None) -> Change:
    """The change of one of our volumes."""
    return Change("118565006", str(TRACKS[place]), VALUES[place], after, "cm3")


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_verified_and_unchanged_is_an_acceptance() -> None:
    """Who verified is there, in one spelling, and is not shown by repr."""
    found = said(edited.verify)
    assert (found.decision, found.reasons, found.changes) == ("ACCEPT", (), ())
    assert found.observer == "invented^phantomreader=测试^阅片幻影"
    assert "phantomreader" not in repr(found)


def test_saved_again_says_nothing() -> None:
    """Unverified and unchanged: a viewer keeps what it has shown."""
    assert said(lambda _: None) == Verdict(None)


def test_another_number_is_a_modification() -> None:
    """Old and new, by concept and tracking UID; the other number is not mentioned."""
    found = said(lambda ds: edited.measure(ds, "7.25", 1))
    assert (found.decision, found.reasons, found.changes) == ("MODIFY", ("MEASURE",), (change(1, "7.25"),))


@pytest.mark.parametrize(
    ("text", "after"),
    [("12", "12"), ("12.50", "12.50"), ("1.25e1", "12.5"), ("+12.5", "12.5"), ("-0.5", "-0.5"), ("012", "12"),
     ("0.00000000049", "0"), ("9999999", "9999999"), ("1E-3", "0.001"), ("", None), ("-0.0000000001", "0")],
)  # fmt: skip
def test_numbers_as_an_entry_writes_them(text: str, after: str | None) -> None:
    """Whatever DS allows comes out as a plain decimal; no value is none."""
    found = said(lambda ds: edited.measure(ds, text))
    assert [one.after for one in found.changes] == [after]


@pytest.mark.parametrize("ending", ["", "0", "00"])
def test_the_same_number_in_another_spelling_is_no_change(ending: str) -> None:
    """Zeros at the end are no change."""
    assert said(lambda ds: edited.measure(ds, VALUES[0] + ending)).decision is None


@pytest.mark.parametrize(
    "text", ["NaN", "sNaN", "Infinity", "-inf", "1e400", "10000000", "1.2.3", "abc", "1;2", "0x10"]
)
def test_what_is_no_number_says_nothing(text: str) -> None:
    """Nor what an entry cannot hold: nothing is made up for it."""

    def put(ds: Dataset) -> None:
        from pydicom.dataelem import RawDataElement
        from pydicom.tag import Tag

        raw = text.encode().ljust(len(text) + len(text) % 2)
        item = edited.items(ds, "118565006")[0].MeasuredValueSequence[0]
        item[0x0040A30A] = RawDataElement(Tag(0x0040A30A), "DS", len(raw), raw, 0, False, True)

    assert refused(put) in {"VALUE_INVALID", "UNREADABLE"}


def test_a_number_taken_out() -> None:
    """As it should not be there: old, and nothing."""

    def take(ds: Dataset) -> None:
        group = edited.groups(ds)[0]
        group.ContentSequence = [i for i in group.ContentSequence if i.ValueType != "NUM"]

    found = said(take)
    assert (found.decision, found.changes) == ("MODIFY", (change(0, None),))


def test_a_number_of_the_readers_own_is_no_change_of_ours() -> None:
    """A diameter beside our volume says nothing of our volume."""

    def add(ds: Dataset) -> None:
        group = edited.groups(ds)[0]
        more = copy.deepcopy(next(i for i in group.ContentSequence if i.ValueType == "NUM"))
        more.ConceptNameCodeSequence[0].CodeValue = "81827009"
        group.ContentSequence.append(more)

    assert said(add).decision is None


def test_a_group_taken_out() -> None:
    """A false positive, with the numbers that went with it."""
    found = said(take_out(1))
    assert (found.decision, found.reasons, found.changes) == ("MODIFY", ("FALSE_POSITIVE",), (change(1, None),))


def test_a_group_added() -> None:
    """A missed finding; nothing of the reader's own group gets into the verdict."""
    found = said(add_group)
    assert (found.decision, found.reasons, found.changes) == ("MODIFY", ("MISSED_FINDING",), ())


def test_all_groups_taken_out_is_a_rejection() -> None:
    """Nothing of ours is left."""
    found = said(remove_all, tie=Tie.PREDECESSOR)
    assert (found.decision, found.reasons, found.changes) == ("REJECT", ("FALSE_POSITIVE",), ())


def test_all_replaced_is_a_modification() -> None:
    """Ours out, another in: something is there, and it is not what we found."""

    def replace(ds: Dataset) -> None:
        add_group(ds)
        del edited.group_list(ds)[:2]

    found = said(replace, tie=Tie.PREDECESSOR)
    assert (found.decision, found.reasons) == ("MODIFY", ("FALSE_POSITIVE", "MISSED_FINDING"))


def _site(ds: Dataset) -> None:
    edited.items(ds, "363698007")[0].ConceptCodeSequence[0].CodeValue = "39607008"


def _side(ds: Dataset) -> None:
    site = edited.items(ds, "363698007")[0]
    side = copy.deepcopy(site)
    side.ConceptNameCodeSequence[0].CodeValue = "272741003"
    side.ConceptCodeSequence[0].CodeValue = "7771000"
    site.ContentSequence = [side]


def _finding(ds: Dataset) -> None:
    edited.items(ds, "121071")[1].ConceptCodeSequence[0].CodeValue = "79654002"


def _stated(value: str) -> Edit:
    def edit(ds: Dataset) -> None:
        edited.items(ds, "50960005")[0].ConceptCodeSequence[0].CodeValue = value

    return edit


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (_site, "LOCATION"),
        (_side, "LOCATION"),
        (_finding, "OTHER"),
        (_stated("272519000"), "FALSE_POSITIVE"),
        (_stated("373068000"), "OTHER"),
        (lambda ds: edited.drop(ds, "50960005"), "FALSE_POSITIVE"),
    ],
)
def test_what_is_said_of_a_finding(edit: Edit, reason: str) -> None:
    """Site, side, finding and presence; of each a reason, and never its text."""
    found = said(edit)
    assert (found.decision, found.reasons, found.changes) == ("MODIFY", (reason,), ())


def test_absent_that_is_present() -> None:
    """What we had said is not there, is."""
    none = Results(BRAIN, BLEED & False, lesions=True).sr
    found = said(_stated("52101004"), none)
    assert (found.decision, found.reasons) == ("MODIFY", ("MISSED_FINDING",))


def test_several_changes_are_one_verdict() -> None:
    """All reasons, each once, in one order; verified or not makes no difference."""

    def edit(ds: Dataset) -> None:
        edited.measure(ds, "1.5")
        add_group(ds)
        edited.verify(ds)

    found = said(edit)
    assert (found.decision, found.reasons, found.changes) == (
        "MODIFY", ("MEASURE", "MISSED_FINDING"), (change(0, "1.5"),),
    )  # fmt: skip


NOTHING = Results(BRAIN & False, BLEED & False, lesions=True).sr


def test_nothing_found_can_be_accepted() -> None:
    """A report without a group is tied by its predecessor, and its statements are compared."""
    assert said(edited.verify, NOTHING, Tie.PREDECESSOR).decision == "ACCEPT"
    assert said(_stated("52101004"), NOTHING, Tie.PREDECESSOR).reasons == ("MISSED_FINDING",)


def test_a_document_that_says_nothing_of_ours_is_no_acceptance() -> None:
    """No group, no statement: verified is something else."""

    def edit(ds: Dataset) -> None:
        edited.drop(ds, "C0034375")
        edited.verify(ds)

    assert refused(edit, NOTHING, Tie.PREDECESSOR) == "UNPAIRED"


def test_a_viewer_without_statements_takes_none_back() -> None:
    """Where there is no place for them, they were not changed."""
    assert said(lambda ds: edited.drop(ds, "C0034375")).decision is None


# ---- regions of detections -------------------------------------------------------------------------------------------


def _region(*points: float) -> verdict_tree.Group:
    return verdict_tree.Group("2.25.1", ("SCT", "1"), frozenset(), {}, points)


@pytest.mark.parametrize(
    ("after", "moved"),
    [((1.0, 2.0), False), ((1.4, 2.0), False), ((1.6, 2.0), True), ((1.0,), True), ((float("nan"), 2.0), True)],
)
def test_a_region_that_moved(after: tuple[float, ...], moved: bool) -> None:
    """More than a viewer's rounding is another outline."""
    reasons: set[str] = set()
    verdict._changed(_region(1.0, 2.0), _region(*after), reasons, [])
    assert (reasons == {"OUTLINE"}) is moved


# ---- what is refused -------------------------------------------------------------------------------------------------


def _twice(ds: Dataset) -> None:
    edited.group_list(ds).append(copy.deepcopy(edited.groups(ds)[0]))


def _number_twice(ds: Dataset) -> None:
    group = edited.groups(ds)[0]
    group.ContentSequence.append(copy.deepcopy(next(i for i in group.ContentSequence if i.ValueType == "NUM")))


def _two_names(ds: Dataset) -> None:
    group = edited.groups(ds)[0]
    group.ContentSequence.append(copy.deepcopy(next(i for i in group.ContentSequence if i.ValueType == "UIDREF")))


def _stated_twice(ds: Dataset) -> None:
    container = edited.items(ds, "C0034375")[0]
    container.ContentSequence.append(copy.deepcopy(edited.items(ds, "50960005")[0]))


def _other_unit(ds: Dataset) -> None:
    units = edited.items(ds, "118565006")[0].MeasuredValueSequence[0].MeasurementUnitsCodeSequence
    units[0].CodeValue = "mm3"


def _deep(ds: Dataset) -> None:
    inside = edited.groups(ds)[0]
    for _ in range(verdict_tree.DEPTH_MAX):
        below = Dataset()
        inside.ContentSequence = [*inside.get("ContentSequence", []), below]
        inside = below


def _half_verified(ds: Dataset) -> None:
    edited.verify(ds)
    del ds.VerifyingObserverSequence


def _incomplete(ds: Dataset) -> None:
    edited.verify(ds)
    ds.CompletionFlag = "PARTIAL"


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (_twice, "DUPLICATE"),
        (_number_twice, "DUPLICATE"),
        (_two_names, "DUPLICATE"),
        (_stated_twice, "DUPLICATE"),
        (_other_unit, "UNIT_DIFFERS"),
        (_deep, "TOO_LARGE"),
        (_half_verified, "UNVERIFIABLE"),
        (_incomplete, "UNVERIFIABLE"),
    ],
)
def test_what_cannot_be_compared(edit: Edit, code: str) -> None:
    """A code, and no verdict."""
    assert refused(edit) == code


def test_too_many_items() -> None:
    """The walk ends, whatever was sent."""
    ds = Dataset()
    ds.ContentSequence = [Dataset()] * (verdict_tree.ITEMS_MAX - 1)
    assert read_tree(ds).groups == ()
    ds.ContentSequence = [Dataset()] * verdict_tree.ITEMS_MAX
    with pytest.raises(VerdictUnusable, match="TOO_LARGE"):
        read_tree(ds)


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_more_changes_than_an_entry_holds(more: int, fits: bool) -> None:
    """None is dropped in silence."""
    ours = edited.copied(OURS)
    for number in range(verdict.CHANGES_MAX - 1 + more):
        new = copy.deepcopy(edited.groups(OURS)[0])
        edited.track(new, f"{STRANGER}.{number}")
        edited.group_list(ours).append(new)
    theirs = edited.copied(OURS)
    take_out(1)(theirs)
    if fits:
        assert len(compare_report(theirs, ours, Tie.TRACKING).changes) == verdict.CHANGES_MAX
    else:
        with pytest.raises(VerdictUnusable, match="TOO_LARGE"):
            compare_report(theirs, ours, Tie.TRACKING)


@pytest.mark.filterwarnings("ignore::UserWarning")  # what pydicom makes the best of, so does the service
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(0, 200))
def test_garbled_files_are_refused_or_read(tmp_path: Path, at: int, byte: int, cut: int) -> None:
    """Any byte another, any end cut off: a verdict, a code, and nothing else comes out."""
    data = bytearray(edited.file_of(edited.copied(OURS)))
    data[132 + at % (len(data) - 132)] = byte
    path = tmp_path / "x.dcm"
    path.write_bytes(data[: len(data) - cut])
    try:
        theirs = read_object(path)
        same_patient(theirs, OURS)
        rejects(theirs, frozenset({OURS.SOPInstanceUID}))
        tie = tie_of_report(theirs, OURS, frozenset())
        if tie is not Tie.NONE:
            compare_report(theirs, OURS, tie)
    except VerdictUnusable as refused_:
        assert refused_.code in VerdictUnusable.CODES  # noqa: PT017 - either way is right


@settings(max_examples=60, deadline=None)
@given(value=st.decimals(-9_999_999, 9_999_999, places=4, allow_nan=False))
def test_any_number_comes_out_as_it_is(value: object) -> None:
    """The number after is the number that was written."""
    from decimal import Decimal

    found = said(lambda ds: edited.measure(ds, f"{value:.4f}"))
    if Decimal(str(value)) == Decimal(VALUES[0]):
        assert found.decision is None
    else:
        (one,) = found.changes
        assert one.after is not None
        assert Decimal(one.after) == value
        assert verdict_tree._PLAIN.fullmatch(one.after)


# ---- which one it is about -------------------------------------------------------------------------------------------

OWN = frozenset({str(OURS.SOPInstanceUID), str(RESULTS.seg.SOPInstanceUID)}) if RESULTS.seg is not None else frozenset()


def tie_after(edit: Edit, own: frozenset[str] = OWN) -> Tie:
    """The tie of a report after this edit."""
    ds = edited.copied(OURS)
    edit(ds)
    return tie_of_report(edited.reread(ds), OURS, own)


def _forget(ds: Dataset) -> None:
    del ds.PredecessorDocumentsSequence


def _retrack(ds: Dataset) -> None:
    for number, group in enumerate(edited.groups(ds)):
        edited.track(group, f"{STRANGER}.{number}")


def _all(*edits: Edit) -> Edit:
    def edit(ds: Dataset) -> None:
        for one in edits:
            one(ds)

    return edit


def _title(ds: Dataset) -> None:
    ds.ConceptNameCodeSequence[0].CodeValue = "18748-4"


@pytest.mark.parametrize(
    ("edit", "tie"),
    [
        (_forget, Tie.TRACKING),
        (_retrack, Tie.PREDECESSOR),
        (_all(_retrack, _forget), Tie.REFERENCE),
        (_title, Tie.NONE),
    ],
)
def test_what_ties_a_report_to_ours(edit: Edit, tie: Tie) -> None:
    """Tracking, else predecessor, else a reference; and a diagnosis is no edited list, whatever it names."""
    assert tie_after(edit) is tie
    assert tie_after(_all(_retrack, _forget), frozenset()) is Tie.NONE


def test_only_a_reference_concludes_nothing_from_what_is_not_there() -> None:
    """Groups without tracking are paired by finding; those left out and added are nobody's."""

    def edit(ds: Dataset) -> None:
        take_out(1)(ds)
        for group in edited.groups(ds):
            group.ContentSequence = [i for i in group.ContentSequence if edited.items_name(i) != "112040"]
        edited.measure(ds, "3")

    found = said(edit, tie=Tie.REFERENCE)
    assert (found.reasons, found.changes) == (("MEASURE",), (change(0, "3"),))
    assert refused(_retrack, tie=Tie.REFERENCE) == "UNPAIRED"


def test_a_bare_group_that_could_be_any() -> None:
    """A finding that is none of ours, without a tracking UID: nobody can say what it means."""

    def edit(ds: Dataset) -> None:
        group = edited.groups(ds)[0]
        group.ContentSequence = [i for i in group.ContentSequence if edited.items_name(i) != "112040"]
        edited.items(group, "121071")[0].ConceptCodeSequence[0].CodeValue = "79654002"

    assert refused(edit) == "UNPAIRED"


@pytest.mark.parametrize("code", ["113001", "113037"])
def test_a_document_that_rejects(code: str) -> None:
    """Its title says so, and it names ours and nothing else."""
    ds = edited.new_document((code, "DCM", "Rejected"), OURS, "KO", "1.2.840.10008.5.1.4.1.1.88.59")
    assert not rejects(edited.reread(ds), OWN)
    ds.CurrentRequestedProcedureEvidenceSequence = [edited.hierarchy(OURS)]
    assert rejects(edited.reread(ds), OWN)
    assert not rejects(edited.reread(ds), frozenset({STRANGER}))
    ds.CurrentRequestedProcedureEvidenceSequence = [edited.hierarchy(OURS, edited.copied(OURS))]
    assert not rejects(edited.reread(ds), OWN)


def test_other_titles_reject_nothing() -> None:
    """Of interest; retention expired."""
    for code in ("113000", "113039"):
        ds = edited.new_document((code, "DCM", "Of Interest"), OURS, "KO", "1.2.840.10008.5.1.4.1.1.88.59")
        ds.CurrentRequestedProcedureEvidenceSequence = [edited.hierarchy(OURS)]
        assert not rejects(ds, OWN)


@pytest.mark.parametrize(
    ("keyword", "value", "same"),
    [
        ("PatientName", "<script>alert(1)</script>", True),
        ("PatientID", "TEST-0001 ", True),
        ("PatientID", "TEST-0002", False),
        ("PatientID", "", False),
        ("StudyInstanceUID", STRANGER, False),
    ],
)
def test_whose_it_is(keyword: str, value: str, same: bool) -> None:
    """Patient ID and study, not the name: a viewer may spell it anew."""
    ds = edited.copied(OURS)
    setattr(ds, keyword, value)
    assert same_patient(edited.reread(ds), OURS) is same


# ---- who said it -----------------------------------------------------------------------------------------------------


def test_the_last_who_verified() -> None:
    """By the time that stands there, whatever the order; before any author."""
    ds = edited.copied(OURS)
    edited.verify(ds, edited.READER, "20261129120000")
    edited.verify(ds, edited.OTHER_READER, "20261129110000")
    author = Dataset()
    author.PersonName = "TEST^Author"
    ds.AuthorObserverSequence = [author]
    assert observer(edited.reread(ds)) == "invented^phantomreader=测试^阅片幻影"
    del ds.VerifyingObserverSequence
    assert observer(edited.reread(ds)) == "test^author"


def test_a_person_in_the_tree() -> None:
    """Person Observer Name of TID 1003, where the header has nobody."""
    ds = edited.copied(OURS)
    item = copy.deepcopy(edited.items(ds, "121013")[0])
    item.ValueType, item.PersonName = "PNAME", "TEST^Tree^^"
    del item.TextValue
    item.ConceptNameCodeSequence[0].CodeValue = "121008"
    ds.ContentSequence.append(item)
    assert observer(edited.reread(ds)) == "test^tree"
    assert observer(OURS) == ""


@pytest.mark.parametrize("name", ["TEST^READER", "Test^Reader ", "test^reader^^^"])
def test_one_person_in_several_spellings(name: str) -> None:
    """Case, padding and empty components do not make another person."""
    ds = edited.verify(edited.copied(OURS), name)
    assert observer(edited.reread(ds)) == "test^reader"


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    """As it lies in the spool."""
    path = tmp_path / "x.dcm"
    path.write_bytes(edited.file_of(edited.copied(OURS)))
    assert read_object(path).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "gone.dcm")


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"])
def test_what_is_packed_is_not_unpacked(tmp_path: Path, syntax: str) -> None:
    """Deflated, big endian, RLE: a small file could become anything."""
    ds = edited.copied(OURS)
    data = edited.file_of(ds).replace(b"1.2.840.10008.1.2.1\0", syntax.encode().ljust(20, b"\0")[:20])
    path = tmp_path / "x.dcm"
    path.write_bytes(data)
    with pytest.raises(VerdictUnusable) as caught:
        read_object(path)
    assert caught.value.code in {"ENCODING", "UNREADABLE"}


def test_a_file_that_is_too_large_is_not_opened(tmp_path: Path) -> None:
    """The limit is asked before a byte is read."""
    path = tmp_path / "x.dcm"
    path.write_bytes(edited.file_of(edited.copied(OURS)))
    os.truncate(path, verdict.FILE_BYTES_MAX + 1)  # sparse: it takes no room
    with pytest.raises(VerdictUnusable, match="TOO_LARGE"):
        read_object(path)


def test_sequences_without_end(tmp_path: Path) -> None:
    """A tree of two thousand levels in undefined lengths is refused, and takes nothing down."""
    ds = edited.copied(OURS)
    ds.ContentSequence = []
    head = edited.file_of(ds)
    empty = b"\x40\x00\x30\xa7SQ\x00\x00\x00\x00\x00\x00"
    assert head.count(empty) == 1
    level = b"\x40\x00\x30\xa7SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    path = tmp_path / "x.dcm"
    path.write_bytes(head.replace(empty, level * 2000 + end * 2000))
    with pytest.raises(VerdictUnusable) as caught:
        read_tree(read_object(path))
    assert caught.value.code in {"UNREADABLE", "TOO_LARGE"}


def test_every_way_to_raise_is_known() -> None:
    """What pydicom raises over bytes from outside is a code here: the list is the bridge's own."""
    assert RecursionError in RuntimeError.__subclasses__()
    assert RuntimeError in UNREADABLE
