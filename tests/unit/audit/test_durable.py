"""The three verbs of writing, and adopting a stream."""

import errno
import stat
import threading
from pathlib import Path

import pytest

from audit import durable
from audit.errors import AuditError, ContentDiffers


def names(folder: Path) -> set[str]:
    """What is in a folder."""
    return {path.name for path in folder.iterdir()}


def test_create_writes_a_free_name_only(tmp_path: Path) -> None:
    """A taken name is refused, and keeps its bytes; no temporary is left."""
    path = tmp_path / "a"
    durable.create(path, b"one")
    with pytest.raises(FileExistsError):
        durable.create(path, b"two")
    assert path.read_bytes() == b"one"
    assert names(tmp_path) == {"a"}
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


def test_create_same_takes_the_same_bytes(tmp_path: Path) -> None:
    """New, then the same, then others: True, False, refused."""
    path = tmp_path / "a"
    assert durable.create_same(path, b"one")
    assert not durable.create_same(path, b"one")
    with pytest.raises(ContentDiffers) as error:
        durable.create_same(path, b"two")
    assert isinstance(error.value, AuditError)
    assert isinstance(error.value, FileExistsError)
    assert (error.value.code, error.value.errno) == ("CONTENT_DIFFERS", errno.EEXIST)
    assert path.read_bytes() == b"one"
    assert names(tmp_path) == {"a"}


def test_replace_is_atomic_for_readers(tmp_path: Path) -> None:
    """Somebody who reads all the time sees an old or a new file, whole."""
    path = tmp_path / "head"
    versions = [bytes([65 + number]) * 20_000 for number in range(8)]
    durable.replace(path, versions[0])
    seen: set[bytes] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for version in versions:
        durable.replace(path, version)
    stop.set()
    reader.join()
    assert seen <= set(versions)
    assert names(tmp_path) == {"head"}


def test_failures_leave_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    """A missing folder, a folder in the file's place: OSError, and nothing changes."""
    with pytest.raises(FileNotFoundError):
        durable.replace(tmp_path / "no" / "a", b"x")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        durable.replace(tmp_path / "taken", b"x")
    assert names(tmp_path) == {"taken"}


def test_adopt_names_a_stream(tmp_path: Path) -> None:
    """New name: True. Same bytes there: False, the temporary goes. Other bytes: refused, both stay."""
    final = tmp_path / "final"
    for data, outcome in ((b"x" * 3_000_000, True), (b"x" * 3_000_000, False)):
        (tmp_path / "t").write_bytes(data)
        assert durable.adopt(tmp_path / "t", final) is outcome
        assert names(tmp_path) == {"final"}
    (tmp_path / "t").write_bytes(b"x" * 2_999_999 + b"y")
    with pytest.raises(ContentDiffers):
        durable.adopt(tmp_path / "t", final)
    assert names(tmp_path) == {"final", "t"}
    assert not durable.same_bytes(final, tmp_path / "t")


def test_adopt_takes_an_open_file_as_well(tmp_path: Path) -> None:
    """By its descriptor, which stays open; paths may be text."""
    with (tmp_path / "t").open("wb", buffering=0) as file:
        file.write(b"x")
        assert durable.adopt(str(tmp_path / "t"), str(tmp_path / "final"), file.fileno())
        file.write(b"y")
    assert (tmp_path / "final").read_bytes() == b"xy"
    assert names(tmp_path) == {"final"}


def test_remove_and_discard_are_idempotent(tmp_path: Path) -> None:
    """A retry finds the name gone, and that is fine."""
    for verb in (durable.remove, durable.discard):
        (tmp_path / "a").write_bytes(b"x")
        verb(tmp_path / "a")
        verb(tmp_path / "a")
        assert names(tmp_path) == set()


def test_make_dirs_makes_all_and_finds_them(tmp_path: Path) -> None:
    """Like mkdir -p; a file in the way is an error."""
    durable.make_dirs(tmp_path / "a" / "b" / "c")
    durable.make_dirs(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) & 0o007 == 0
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"."):
        durable.make_dirs(tmp_path / "file" / "x")


def test_many_writers_of_one_name(tmp_path: Path) -> None:
    """Threads that create the same name with the same bytes: one is first, all succeed."""
    outcomes: list[bool] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(durable.create_same(tmp_path / "a", b"same")))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 15 + [True]
    assert names(tmp_path) == {"a"}


def test_sweep_takes_temporaries_only(tmp_path: Path) -> None:
    """What crashed writers left goes; all else stays."""
    (tmp_path / "d").mkdir()
    for name in ("a", ".a.0123.tmp", ".hidden", "d/.b.4567.tmp", "d/b.tmp"):
        (tmp_path / name).write_bytes(b"x")
    assert durable.sweep(tmp_path) == 2
    assert names(tmp_path) == {"a", ".hidden", "d"}
    assert names(tmp_path / "d") == {"b.tmp"}


def test_append_begins_after_a_torn_line(tmp_path: Path) -> None:
    """Lines follow on each other; after one that a crash cut short, the next is whole on a line of its own."""
    path = tmp_path / "rows"
    durable.append(path, b"one\n", mode=0o600)
    durable.append(path, b"two\n", mode=0o600)
    with path.open("ab") as file:
        file.write(b"tor")
    durable.append(path, b"three\n", mode=0o600)

    assert path.read_bytes() == b"one\ntwo\ntor\nthree\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_destroy_leaves_nothing_under_any_name(tmp_path: Path) -> None:
    """The bytes are gone from the file itself, which another name shows; and a second time is fine."""
    path, other = tmp_path / "key", tmp_path / "other"
    durable.create(path, b"secret" * 8)
    other.hardlink_to(path)

    durable.destroy(path)
    durable.destroy(path)

    assert names(tmp_path) == {"other"}
    assert len(other.read_bytes()) == 48
    assert b"secret" not in other.read_bytes()
