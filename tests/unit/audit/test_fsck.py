"""fsck names the file that is wrong, whichever byte of whichever file it is; opening refuses what it must verify."""

import shutil
import threading
from pathlib import Path

import pytest

from audit import durable, fsck
from audit.canonical import canonical
from audit.checkpoint import Checkpoint
from audit.entry import Entry
from audit.errors import AuditCorrupt
from audit.layout import CHECKPOINT, HEAD, pack, unpack
from audit.merkle import leaf_hash, root
from audit.note import Signer
from tests.simulators.audit_log import ORIGIN, SIGNER, Clock, Died, FaultyDisk, draft, fill, open_log, twin

VERIFIER = SIGNER.verifier


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 261 entries: a full tile, partial ones, some of earlier heads, a level above."""
    made = tmp_path_factory.mktemp("sound") / "log"
    with open_log(made) as log:
        fill(log, range(257))
        for number in range(257, 260):
            log.append(draft(number))
    return made


def files(root_folder: Path) -> list[str]:
    """Every file with bytes in it."""
    return sorted(
        str(path.relative_to(root_folder)) for path in root_folder.rglob("*") if path.is_file() and path.stat().st_size
    )


def test_a_sound_log_has_no_problem(sound: Path) -> None:
    """All is well, with the key; and without it, where the report says that no signature was checked."""
    report = fsck.check(sound, VERIFIER)
    assert (report.ok, report.size, report.problems, report.signed) == (True, 261, (), True)
    assert report.root_hash == Checkpoint.unverified((sound / HEAD).read_text()).root.hex()
    unsigned = fsck.check(sound, None)
    assert (unsigned.ok, unsigned.signed) == (True, False)
    assert {"head", "checkpoint", "tile/0/000", "tile/entries/000", "tile/1/000.p/1"} < set(files(sound))


@pytest.mark.slow
def test_a_flipped_byte_in_any_file_is_named(tmp_path: Path, sound: Path) -> None:
    """At the beginning, in the middle and at the end of each file: fsck says which one, first of all."""
    for name in files(sound):
        good = (sound / name).read_bytes()
        for at in sorted({0, 1, len(good) // 3, len(good) // 2, len(good) - 2, len(good) - 1}):
            copy = twin(sound, tmp_path / "copy")
            durable.replace(copy / name, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            report = fsck.check(copy, VERIFIER)
            assert not report.ok
            assert any(problem.where.split(" ")[0] == name for problem in report.problems), (name, at, report)
            others = {problem.where.split(" ")[0] for problem in report.problems} - {name}
            assert not others, (name, at, report.problems)
            shutil.rmtree(copy)


def test_a_changed_entry_is_named_with_its_index(tmp_path: Path, sound: Path) -> None:
    """An edit that is still a good entry, on disk only: fsck names the entry, not the tiles that prove it."""
    copy = twin(sound, tmp_path / "copy")
    name = "tile/entries/000"
    data = (copy / name).read_bytes()
    leaves = list(unpack(data))
    leaves[77] = leaves[77].replace(b'"series":2', b'"series":3')
    durable.replace(copy / name, pack(leaves))
    report = fsck.check(copy, VERIFIER)
    assert [problem.where for problem in report.problems] == [f"{name} entry 77"]


def test_opening_refuses_what_it_must_verify(tmp_path: Path, sound: Path) -> None:
    """A flipped byte in the head, the checkpoint, or a tile or bundle of the newest head: AuditCorrupt names it."""
    newest = ["head", "checkpoint", "tile/0/000", "tile/0/001.p/5", "tile/1/000.p/1"]
    newest += ["tile/entries/000", "tile/entries/001.p/5"]
    for name in newest:
        good = (sound / name).read_bytes()
        for at in (0, len(good) // 2, len(good) - 1):
            copy = twin(sound, tmp_path / "copy")
            durable.replace(copy / name, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(AuditCorrupt) as error:
                open_log(copy)
            assert error.value.code == "AUDIT_CORRUPT"
            # A bundle and its tile of hashes are compared with each other; either name leads to the place.
            assert error.value.where.replace("entries", "0") == name.replace("entries", "0")
            shutil.rmtree(copy)


def test_missing_and_stray_files_are_named(tmp_path: Path, sound: Path) -> None:
    """What is gone, what was never ours."""
    for name in ("head", "checkpoint", "tile/0/000", "tile/0/001.p/5", "tile/1/000.p/1", "tile/entries/001.p/5"):
        copy = twin(sound, tmp_path / "copy")
        (copy / name).unlink()
        report = fsck.check(copy, VERIFIER)
        assert name in {problem.where for problem in report.problems}
        with pytest.raises(AuditCorrupt) as error:
            open_log(copy)
        assert error.value.where in (name, name.split(".p/")[0])
        shutil.rmtree(copy)
    copy = twin(sound, tmp_path / "copy")
    for name in ("note.txt", "tile/0/002", "tile/0/001.p/300", "tile/2/000.p/1", "tile/entries/000.bak", "staging/x"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(b"x")
    assert {problem.where for problem in fsck.check(copy, VERIFIER).problems} == {
        "note.txt",
        "tile/0/002",
        "tile/0/001.p/300",
        "tile/2/000.p/1",
        "tile/entries/000.bak",
        "staging/x",
    }


def test_another_key_is_noticed(sound: Path) -> None:
    """A log that another key signed is not the log that was asked about."""
    report = fsck.check(sound, Signer.generate("stranger.example").verifier)
    assert {problem.where for problem in report.problems} == {HEAD, CHECKPOINT}
    assert not report.ok


def rebuilt(folder: Path, leaves: list[bytes], signer: Signer = SIGNER) -> None:
    """Write a log of these leaves that agrees with itself: an attacker who has the disk and the operator's key."""
    hashes = [leaf_hash(leaf) for leaf in leaves]
    width = len(leaves)
    note = Checkpoint.sign(signer, ORIGIN, width, root(hashes)).note.encode()
    for name, data in (
        (f"tile/entries/000.p/{width}", pack(leaves)),
        (f"tile/0/000.p/{width}", b"".join(hashes)),
        (HEAD, note),
        (CHECKPOINT, note),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_what_the_tree_alone_does_not_show(tmp_path: Path) -> None:
    """A left-out entry, one key twice, an entry that is not ours: named though hashes and signatures are all right."""
    clock = Clock()
    leaves = [
        Entry.of(draft(number), index=number, source="s", seq=number, now=clock(), boot="b0" * 16, tick_us=0).to_bytes()
        for number in range(5)
    ]
    rebuilt(tmp_path / "whole", leaves)
    assert fsck.check(tmp_path / "whole", VERIFIER).ok
    name = "tile/entries/000.p/4"
    rebuilt(tmp_path / "gap", leaves[:2] + leaves[3:])
    gap = fsck.check(tmp_path / "gap", VERIFIER)
    assert [(problem.where, problem.what) for problem in gap.problems] == [
        (f"{name} entry 2", "number 3 of its source where 2 was due")
    ]
    twice = Entry.of(draft(0), index=3, source="s", seq=3, now=clock(), boot="b0" * 16, tick_us=0).to_bytes()
    rebuilt(tmp_path / "twice", [*leaves[:3], twice])
    assert [problem.where for problem in fsck.check(tmp_path / "twice", VERIFIER).problems] == [f"{name} entry 3"]
    rebuilt(tmp_path / "alien", [*leaves[:3], canonical({"PatientName": "TEST^Phantom"})])
    alien = fsck.check(tmp_path / "alien", VERIFIER)
    assert [problem.where for problem in alien.problems] == [f"{name} entry 3"]
    assert "Phantom" not in str(alien)


def test_an_empty_folder_is_no_log(tmp_path: Path) -> None:
    """Nothing there is a problem, not a clean bill."""
    report = fsck.check(tmp_path, VERIFIER)
    assert (report.ok, report.size) == (False, 0)
    assert {problem.where for problem in report.problems} == {HEAD, CHECKPOINT}


def test_a_commit_that_a_crash_left_staged_is_part_of_the_log(tmp_path: Path, sound: Path) -> None:
    """Committed and not yet published is no problem; a flipped byte in the staged file is."""
    copy = twin(sound, tmp_path / "copy")
    log = open_log(copy, disk=FaultyDisk(copy, at=3, dies=True))
    with pytest.raises(Died):
        log.append(draft(999))
    log.close()
    report = fsck.check(copy, VERIFIER)
    assert (report.ok, report.size) == (True, 262)
    (staged,) = (copy / "staging").iterdir()
    good = staged.read_bytes()
    for at in (0, 1, len(good) // 2, len(good) - 1):
        durable.replace(staged, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        report = fsck.check(copy, VERIFIER)
        assert not report.ok
        with pytest.raises(AuditCorrupt):
            open_log(copy)
    durable.replace(staged, good)
    with open_log(copy) as again:
        assert again.find("assembled:999") is not None
    assert fsck.check(copy, VERIFIER).ok


def test_a_live_log_is_checked_beside_its_writers(tmp_path: Path) -> None:
    """While others append and tiles fill up, fsck finds nothing wrong."""
    folder = tmp_path / "log"
    with open_log(folder) as log:
        fill(log, range(240))
        writer = threading.Thread(target=fill, args=(log, range(240, 300)))
        writer.start()
        reports = []
        while writer.is_alive():
            reports.append(fsck.check(folder, VERIFIER))
        writer.join()
    assert reports
    assert [report.problems for report in reports if not report.ok] == []
