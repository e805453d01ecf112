"""SM3 against the standard's own examples and the openssl command; its trees against RFC 6962's definition."""

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from audit import durable, fsck, sm3
from audit.checkpoint import Checkpoint
from audit.entry import Entry
from audit.errors import AuditCorrupt, AuditUnavailable, BadSignature, UnknownSigner
from audit.layout import CHECKPOINT, HEAD, SM3_CHECKPOINT
from audit.log import AuditLog
from audit.merkle import Tree, root
from audit.note import Signer
from tests.simulators.audit_log import ORIGIN, SIGNER, FaultyDisk, draft, fill, healthy, open_log, twin

VERIFIER = sm3.verifier_of(ORIGIN, SIGNER.verifier)
VECTORS = {
    # GB/T 32905-2016, appendix A, examples 1 and 2.
    b"abc": "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
    b"abcd" * 16: "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732",
}


def by_openssl(data: bytes) -> bytes:
    """SM3 by a program that is not ours."""
    run = subprocess.run(["openssl", "dgst", "-sm3", "-binary"], input=data, capture_output=True, check=True)
    return run.stdout


def defined(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as it is written there, with SM3 by openssl."""
    if not leaves:
        return by_openssl(b"")
    if len(leaves) == 1:
        return by_openssl(b"\x00" + leaves[0])
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return by_openssl(b"\x01" + defined(leaves[:split]) + defined(leaves[split:]))


def public(folder: Path) -> Checkpoint:
    """The SM3 tree's head, checked."""
    return Checkpoint.open((folder / SM3_CHECKPOINT).read_text(), (VERIFIER,))


@pytest.mark.parametrize("data", list(VECTORS), ids=["abc", "abcd-16-times"])
def test_the_standards_own_examples(data: bytes) -> None:
    """By us, and by openssl."""
    assert sm3.digest(data).hex() == by_openssl(data).hex() == VECTORS[data]
    assert sm3.digest(data[:1], data[1:]).hex() == VECTORS[data]


def test_the_tree_is_rfc_6962s_with_another_hash() -> None:
    """Roots of all small sizes, from the definition; across a full tile, the growing tree and the plain root agree."""
    leaves = [bytes([number]) * number for number in range(9)]
    for size in range(len(leaves) + 1):
        tree = Tree(sm3.SM3_TREE)
        for leaf in leaves[:size]:
            tree.add(leaf)
        assert tree.root() == defined(leaves[:size])
    tree, hashes = Tree(sm3.SM3_TREE), [sm3.leaf_hash(str(number).encode()) for number in range(600)]
    for size, each in enumerate(hashes):
        if size in (0, 1, 255, 256, 257, 511, 512, 513):
            assert tree.root() == root(hashes[:size], sm3.SM3_TREE)
            assert tree.copy().root() == tree.root()
        tree.append(each)
    assert tree.root() == root(hashes, sm3.SM3_TREE) != root(hashes)


def test_its_head_is_signed_beside_the_other(tmp_path: Path) -> None:
    """Under its own origin, over the same entries, by the same key under that name, whenever tiles are published."""
    folder = tmp_path / "log"
    with open_log(folder, sm3=True) as log:
        for numbers in (range(1), range(1, 5), range(5, 300)):
            fill(log, numbers)
            head, leaves = public(folder), [entry.to_bytes() for entry in log.entries()]
            assert (head.origin, head.size) == (f"{ORIGIN}/sm3", len(leaves))
            assert head.root == root([sm3.leaf_hash(leaf) for leaf in leaves], sm3.SM3_TREE)
    assert VERIFIER.key == SIGNER.verifier.key
    assert VERIFIER.name == head.origin
    with pytest.raises(UnknownSigner):
        SIGNER.verifier.open(head.note)
    with pytest.raises(UnknownSigner):
        VERIFIER.open((folder / CHECKPOINT).read_text())
    assert healthy(folder) == 301


def test_a_few_entries_by_openssl_alone(tmp_path: Path) -> None:
    """The signed root, from nothing but the entries' bytes and a program that is not ours."""
    with open_log(tmp_path / "log", sm3=True) as log:
        fill(log, range(4))
        assert public(tmp_path / "log").root == defined([entry.to_bytes() for entry in log.entries()])


def test_a_site_may_turn_it_on_and_off(tmp_path: Path) -> None:
    """On: signed at once, over all entries. Off: it stays what it was. On again: it goes on."""
    folder = tmp_path / "log"
    with open_log(folder) as log:
        fill(log, range(257))
    assert not (folder / SM3_CHECKPOINT).exists()
    with open_log(folder, sm3=True):
        assert public(folder).size == 258
    with open_log(folder) as log:
        log.append(draft(300))
    assert public(folder).size == 258
    assert healthy(folder) == 259
    with open_log(folder, sm3=True) as log:
        assert public(folder).size == 259
        log.append(draft(301))
        assert public(folder).size == 260
        # Another process, which does not know, publishes; ours signs what it finds.
        with open_log(folder, source="other") as other:
            other.append(draft(302))
        log.publish()
        assert public(folder).size == 261
    assert healthy(folder) == 261


@pytest.mark.parametrize("after", [False, True], ids=["not-persisted", "failed-but-persisted"])
def test_each_write_of_an_append_fails_once(tmp_path: Path, *, after: bool) -> None:
    """As without it: the retry gives one entry, and both heads agree with the entries."""
    made = tmp_path / "made"
    with open_log(made, sm3=True) as log:
        fill(log, range(254))
    at = 0
    while True:
        folder = twin(made, tmp_path / f"{at}")
        disk = FaultyDisk(folder, at=at + 1, after=after)
        with open_log(folder, disk=disk, sm3=True) as log:
            assert stubbornly(log).index == 255
            assert healthy(folder) == 256
            assert public(folder).size == 256
        if not disk.reached:
            break
        at += 1
    assert at > 10


def stubbornly(log: AuditLog) -> Entry:
    """Append, and once more if the first try fails."""
    try:
        return log.append(draft(999))
    except AuditUnavailable:
        return log.append(draft(999))


@pytest.mark.parametrize("forgery", ["other-root", "ahead", "stranger", "torn"])
def test_a_head_that_is_not_the_entries(tmp_path: Path, forgery: str) -> None:
    """Refused at opening, by the name of the file; fsck names it, and nothing else."""
    folder = tmp_path / "log"
    with open_log(folder, sm3=True) as log:
        fill(log, range(5))
    good, signer = public(folder), SIGNER.named(VERIFIER.name)
    note = {
        "other-root": Checkpoint.sign(signer, good.origin, 4, good.root).note,
        "ahead": Checkpoint.sign(signer, good.origin, 7, good.root).note,
        "stranger": Checkpoint.sign(Signer.generate(VERIFIER.name), good.origin, good.size, good.root).note,
        "torn": good.note[:-9],
    }[forgery]
    durable.replace(folder / SM3_CHECKPOINT, note.encode())
    report = fsck.check(folder, SIGNER.verifier)
    assert {problem.where for problem in report.problems} == {SM3_CHECKPOINT}
    with pytest.raises(AuditCorrupt) as error:
        open_log(folder, sm3=True)
    assert error.value.where == SM3_CHECKPOINT


def test_fsck_blames_the_entry_and_not_the_tree(tmp_path: Path) -> None:
    """What is wrong with an entry is named once; without a key, the SM3 head is checked as far as that goes."""
    folder = tmp_path / "log"
    with open_log(folder, sm3=True) as log:
        fill(log, range(5))
    assert fsck.check(folder, None).ok
    name = "tile/entries/000.p/6"
    data = (folder / name).read_bytes()
    durable.replace(folder / name, data.replace(b'"series":2', b'"series":3', 1))
    assert [problem.where for problem in fsck.check(folder, SIGNER.verifier).problems] == [f"{name} entry 1"]
    durable.replace(folder / name, data)
    durable.replace(folder / SM3_CHECKPOINT, (folder / HEAD).read_bytes())
    assert {problem.where for problem in fsck.check(folder, None).problems} == {SM3_CHECKPOINT}


def test_no_hash_stands_for_the_other() -> None:
    """Neither name can sign for the other: the key's id is of name and key."""
    signed = Checkpoint.sign(SIGNER, ORIGIN, 1, hashlib.sha256(b"").digest()).note
    assert VERIFIER.key_id != SIGNER.verifier.key_id
    with pytest.raises((UnknownSigner, BadSignature)):
        VERIFIER.open(signed.replace(ORIGIN, f"{ORIGIN}/sm3"))
