"""The package that a reviewer takes away: whole, deterministic, and never hiding that something was there."""

import json
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path

import pytest

from audit import verifier
from audit.canonical import canonical
from audit.entry import Entry, Kind
from audit.errors import ContentDiffers, NoteMalformed
from audit.export import ALWAYS, Evidence, Exported, ExportInvalid, Scope, export
from audit.merkle import leaf_hash
from audit.package import CHUNK
from tests.simulators.audit_log import draft, fill, open_log
from tests.simulators.audit_package import FIRST_CALL, LIFE_COUNTS, START, Hospital, check, members, signed_head


@pytest.fixture
def hospital() -> Hospital:
    """Three whole calls."""
    made = Hospital()
    made.approve()
    for number in range(3):
        made.call(number)
    return made


def records(path: Path) -> list[tuple[bool, bytes]]:
    """All that the package has of entries, in order."""
    found = []
    for name, data in sorted(members(path.read_bytes()).items()):
        if name.startswith("entries/"):
            size = json.loads(members(path.read_bytes())["MANIFEST.json"])["size"]
            found += list(verifier.leaves_of(data, min(CHUNK, size - int(name[8:]))))
    return found


def test_a_real_log_is_exported_and_verifies(tmp_path: Path) -> None:
    """From the directory of a log, over more than one chunk, also while it grows."""
    with open_log(tmp_path / "log") as log:
        fill(log, range(CHUNK + 40))
        head = log.head()
        log.append(draft(10**6))
        done = export(log, tmp_path / "p.zip", evidence=Evidence(checkpoint=head.note))
        assert (done.size, done.in_scope) == (CHUNK + 41, CHUNK + 41)
        assert [data for _, data in records(tmp_path / "p.zip")] == [
            entry.to_bytes() for entry in islice(log.entries(), head.size)
        ]
    hospital = Hospital()
    hospital.witnesses = ()
    key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW hospital.example/audit"
    policy = tmp_path / "policy"
    policy.write_text(f"log {key}\nwindow 9999\n")  # the test's clock leaps a second at each look
    report = check((tmp_path / "p.zip").read_bytes(), policy)
    assert (report.verdict, report.first_bad, report.totals["INCOMPLETE"]) == ("INCOMPLETE", None, 1)


def test_equal_input_gives_equal_bytes(tmp_path: Path, hospital: Hospital) -> None:
    """Whenever it is written; and writing the same again is no error, writing another over it is."""
    evidence = Evidence(checkpoint=hospital.witnessed())
    first = export(hospital.log, tmp_path / "a.zip", evidence=evidence)
    second = export(hospital.log, tmp_path / "b.zip", evidence=evidence)
    assert first.digest == second.digest
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert export(hospital.log, tmp_path / "a.zip", evidence=evidence) == first
    with pytest.raises(ContentDiffers):
        export(hospital.log, tmp_path / "a.zip", Scope(filter={"other": "filter"}), evidence)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "b.zip"]


def test_the_manifest_says_what_was_asked_and_what_is_there(tmp_path: Path, hospital: Hospital) -> None:
    """In canonical JSON, with the digest of every other member."""
    scope = Scope(START, START + timedelta(days=30), {"study": "5" * 32}, lambda entry: entry.kind == "CALL_INTENT")
    done = export(hospital.log, tmp_path / "p.zip", scope)
    found = members((tmp_path / "p.zip").read_bytes())
    manifest = json.loads(found["MANIFEST.json"])
    assert found["MANIFEST.json"] == canonical(manifest)
    assert manifest["period"] == {"from": "2026-12-10T01:00:00.000000Z", "to": "2027-01-09T01:00:00.000000Z"}
    assert manifest["filter"] == {"study": "5" * 32}
    assert manifest["counts"] == dict(done.counts) == LIFE_COUNTS | {"CALL_INTENT": 3}
    assert (manifest["first"], manifest["last"], manifest["size"]) == (FIRST_CALL + 1, FIRST_CALL + 9, FIRST_CALL + 12)
    assert set(manifest["members"]) == set(found) - {"MANIFEST.json"}
    assert manifest["verifier"] == manifest["members"]["verifier.py"]
    assert found["verifier.py"] == Path(verifier.__file__).read_bytes()
    assert "python3 -I verifier.py PACKAGE --policy FILE" in found["README.md"].decode()
    assert done == Exported(tmp_path / "p.zip", FIRST_CALL + 12, done.counts, done.digest)


def test_what_is_out_of_scope_stays_as_its_hash(tmp_path: Path, hospital: Hospital) -> None:
    """Each entry of the checkpoint is there, as bytes or as its leaf hash, at its place."""
    export(hospital.log, tmp_path / "p.zip", Scope(selects=lambda entry: entry.kind == Kind.RELEASED))
    found = records(tmp_path / "p.zip")
    for entry, (known, data) in zip(hospital.log.made, found, strict=True):
        assert known == (entry.kind == "RELEASED" or str(entry.kind) in ALWAYS)
        assert data == (entry.to_bytes() if known else leaf_hash(entry.to_bytes()))


def test_the_period_is_a_filter_that_spares_what_calls_rest_on(tmp_path: Path, hospital: Hospital) -> None:
    """From its begin on, before its end; approvals from any time."""
    begin, end = (START + timedelta(seconds=FIRST_CALL + 1 + index) for index in (4, 8))
    export(hospital.log, tmp_path / "p.zip", Scope(begin, end))
    known = [index for index, (shown, _) in enumerate(records(tmp_path / "p.zip")) if shown]
    assert known == [*range(FIRST_CALL), *range(FIRST_CALL + 4, FIRST_CALL + 8)]


class OtherKinds:
    """A log with kinds that this version does not know, as later ones will have."""

    def __init__(self, hospital: Hospital) -> None:
        self._hospital = hospital

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """The hospital's, with kinds renamed."""
        kinds = {Kind.CALL_RESULT: "HEARTBEAT", Kind.RELEASED: "SOMETHING_NEW"}
        for entry in self._hospital.log.entries(start):
            object.__setattr__(entry, "kind", _Named(kinds.get(entry.kind, str(entry.kind))))
            if entry.kind == "HEARTBEAT":
                object.__setattr__(entry, "call", None)
            yield entry

    def head(self) -> object:
        """Over these."""
        return signed_head(self._hospital.signer, [entry.to_bytes() for entry in self.entries()])


class _Named(str):
    """A kind by its name."""

    __slots__ = ()

    @property
    def value(self) -> str:
        return str(self)


def test_kinds_of_later_versions_are_exported_by_name(tmp_path: Path, hospital: Hospital) -> None:
    """Kinds that are always in scope are so by their names, and unknown kinds verify."""
    log = OtherKinds(hospital)
    note = hospital.witnessed(log.head().note)  # type: ignore[attr-defined]
    scope = Scope(selects=lambda entry: str(entry.kind) == "SOMETHING_NEW")
    done = export(log, tmp_path / "p.zip", scope, Evidence(checkpoint=note))  # type: ignore[arg-type]
    assert done.counts == LIFE_COUNTS | {"HEARTBEAT": 3, "SOMETHING_NEW": 3}
    assert check((tmp_path / "p.zip").read_bytes(), hospital.policy(tmp_path)).verdict == "PASS"


def test_evidence_that_does_not_fit_is_refused(tmp_path: Path, hospital: Hospital) -> None:
    """Nothing is written that the verifier would refuse."""
    log, signer = hospital.log, hospital.signer
    leaves = log.leaves()
    same = log.head().note
    smaller = signed_head(signer, leaves[:5]).note
    bad = [
        Evidence(checkpoint=signed_head(signer, leaves[::-1]).note),
        Evidence(checkpoint=signed_head(signer, [*leaves, b"more"]).note),
        Evidence(older=(same,)),
        Evidence(older=(smaller, smaller)),
        Evidence(older=(signed_head(signer, leaves[:5], "other.example").note,)),
        Evidence(stamps=((3, b"token"),)),
        Evidence(reconciliation={"../pacs.json": b"{}"}),
    ]
    for evidence in bad:
        with pytest.raises(ExportInvalid):
            export(log, tmp_path / "p.zip", evidence=evidence)
    with pytest.raises(NoteMalformed):
        export(log, tmp_path / "p.zip", evidence=Evidence(checkpoint="no note"))
    assert list(tmp_path.iterdir()) == []


def test_evidence_has_its_names(tmp_path: Path, hospital: Hospital) -> None:
    """Older heads by size, stamps by the checkpoint that they stamp, in an order of their own."""
    older = signed_head(hospital.signer, hospital.log.leaves()[:5]).note
    evidence = Evidence(None, (older,), ((5, b"b"), (FIRST_CALL + 12, b"c"), (5, b"a")), {"pacs-1.json": b"[]"})
    export(hospital.log, tmp_path / "p.zip", evidence=evidence)
    found = members((tmp_path / "p.zip").read_bytes())
    assert found["checkpoints/0000000000005"] == older.encode()
    stamps = {name: data for name, data in found.items() if name.startswith("tsa/")}
    assert stamps == {
        "tsa/0000000000005.00.tsr": b"a",
        "tsa/0000000000005.01.tsr": b"b",
        f"tsa/{FIRST_CALL + 12:013d}.00.tsr": b"c",
    }
    assert found["reconciliation/pacs-1.json"] == b"[]"


def test_any_unzip_opens_it(tmp_path: Path, hospital: Hospital) -> None:
    """It is an ordinary zip file, with times that say nothing."""
    export(hospital.log, tmp_path / "p.zip")
    with zipfile.ZipFile(tmp_path / "p.zip") as archive:
        assert archive.testzip() is None
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_reader_follows_the_readme_of_the_package(tmp_path: Path, hospital: Hospital) -> None:
    """Its commands as they stand, in an empty folder with plain python: PASS, and with one byte changed FAIL."""
    folder = tmp_path / "empty"
    folder.mkdir()
    export(hospital.log, folder / "p.zip", evidence=Evidence(checkpoint=hospital.witnessed()))
    hospital.policy(folder)
    text = members((folder / "p.zip").read_bytes())["README.md"].decode()
    for language in text.split("## 中文"):
        commands = re.findall(r"(?m)^    ((?:python3|cp) .*)$", language.replace("PACKAGE", "p.zip"))
        said = [_shell(command.replace("FILE", "policy"), folder) for command in commands]
        assert [status for status, _ in said] == [0, 0, 0, 0, 1][: len(said)]
        assert said[2][1].startswith("PASS\n")
        assert all(re.match(r"FAIL\n.*\bentries/0000000000000\b", out, re.DOTALL) for _, out in said[4:])
    assert len(commands) == 3


def _shell(command: str, folder: Path) -> tuple[int, str]:
    where = {"PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", "-c", command], cwd=folder, env=where, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout
