"""From the log to a stranger's laptop: stamps by command, in the package, by `python3 -I verifier.py`; attacks."""

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from audit import verifier
from audit.checkpoint import Checkpoint
from audit.export import Evidence, export
from service import wire
from service.cli import app
from service.config import load
from service.exporting import Asked, Handover, hand_over
from service.stamping import opened
from service.stamps import Held, text_of
from service.timestamping import query
from tests.simulators.audit_log import fill
from tests.simulators.audit_package import Hospital, check, forged, members
from tests.simulators.tsa import LocalAuthority, TsaServer, openssl

ABOUT = ("--recipient", "TEST Reviewer", "--purpose", "YEARLY_REVIEW", "--contract", "TEST-2026-1")
TO = Handover("TEST Reviewer", "YEARLY_REVIEW", "TEST-2026-1")


class Site:
    """A hospital with a log, an authority that it trusts, and a reviewer's laptop."""

    def __init__(self, folder: Path, authority: LocalAuthority, url: str | None) -> None:
        self.folder, self.authority, self.config = folder, authority, folder / "zhiying.toml"
        address = "" if url is None else f'url = "{url}"\n'
        self.config.write_text(
            f'[site]\nid = "test-site"\n[data]\nfolder = "{folder / "data"}"\n'
            f'[audit.timestamps]\nauthority = "{authority.file}"\nchain = "{authority.chain}"\n{address}',
            encoding="utf-8",
        )
        self.grow(0, 3)

    def grow(self, start: int, stop: int) -> None:
        """More entries."""
        with wire.offline(self.config) as site:
            fill(site.log, range(start, stop))

    def run(self, *words: str | Path) -> Result:
        """One command."""
        return CliRunner().invoke(app, [*map(str, words), "--config", str(self.config)], env={"COLUMNS": "240"})

    def stamp(self, *words: str | Path) -> Any:
        """One `zhiying audit stamp` that goes well."""
        done = self.run("audit", "stamp", *words)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout) if "--json" in words else done.stdout

    def export(self) -> Path:
        """A package of everything."""
        out = self.folder / "package.zip"
        out.unlink(missing_ok=True)
        done = self.run("audit", "export", "--out", out, *ABOUT)
        assert done.exit_code == 0, done.output
        return out

    def policy(self) -> Path:
        """What the reviewer trusts: no witness here."""
        pinned = self.folder / "reviewer" / "authority.pem"
        pinned.parent.mkdir(exist_ok=True)
        pinned.write_bytes(self.authority.file.read_bytes())
        path = pinned.parent / "policy"
        path.write_text(f"log {wire.log_vkey(load(self.config))}\ntsa authority.pem\n", encoding="utf-8")
        return path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> LocalAuthority:
    """One for all tests."""
    return LocalAuthority(tmp_path_factory.mktemp("tsa") / "a")


@pytest.fixture
def site(tmp_path: Path, authority: LocalAuthority) -> Iterator[Site]:
    """With an authority that answers."""
    with TsaServer(authority.answer) as server:
        yield Site(tmp_path, authority, server.url)


def on_a_laptop(package: Path, policy: Path, path: str | None = None) -> tuple[int, dict[str, Any]]:
    """The verifier out of the package, alone: exit status and report. `path`: where it finds commands."""
    folder = package.parent / "laptop"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(package) as archive:
        program = Path(archive.extract("verifier.py", folder))
    command = [sys.executable, "-I", program, package, "--policy", policy, "--json"]
    env = {"PATH": os.environ["PATH"] if path is None else path}
    done = subprocess.run(command, capture_output=True, timeout=300, check=False, env=env, cwd=folder)
    assert not done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


# ---- by command ------------------------------------------------------------------------------------------------------


def test_stamps_by_network_reach_the_package(site: Site) -> None:
    """`now` twice as the log grows, `list` shows both, the package holds both, and the verifier has believed them."""
    first = site.stamp("now", "--json")
    site.grow(3, 9)
    second = site.stamp("now", "--json")
    assert (first["size"], second["size"]) == (4, 10)
    assert [(row["size"], row["state"]) for row in site.stamp("list", "--json")] == [(4, "kept"), (10, "kept")]
    package = site.export()
    assert {name for name in members(package.read_bytes()) if name.startswith(("tsa/", "checkpoints/"))} == {
        *("tsa/0000000000004.00.tsr", "tsa/0000000000010.00.tsr"),
        *("checkpoints/0000000000004", "checkpoints/0000000000010"),
    }
    _, report = on_a_laptop(package, site.policy())
    assert report["stamped_size"] == 10
    assert [remark["what"] for remark in report["remarks"]] == [
        "names no witness: nobody outside the hospital vouches for this log"
    ]


def test_stamps_by_courier(tmp_path: Path, authority: LocalAuthority) -> None:
    """Two queries leave, the answers come back in the other order; each finds its checkpoint, also the second time."""
    site = Site(tmp_path, authority, None)
    site.stamp("request", "--out", tmp_path / "1.tsq")
    site.grow(3, 5)
    site.stamp("request", "--out", tmp_path / "2.tsq")
    assert [row["state"] for row in site.stamp("list", "--json")] == ["asked", "asked"]
    for number, size in ((2, 6), (1, 4), (1, 4), (2, 6)):
        answer = tmp_path / f"{number}.tsr"
        if not answer.exists():
            answer.write_bytes(authority.answer((tmp_path / f"{number}.tsq").read_bytes()))
        assert site.stamp("take", answer, "--json")["size"] == size
    assert [(row["size"], row["state"]) for row in site.stamp("list", "--json")] == [(4, "kept"), (6, "kept")]
    assert on_a_laptop(site.export(), site.policy())[1]["stamped_size"] == 6


def test_what_is_no_good_answer_is_refused_with_one_line(tmp_path: Path, authority: LocalAuthority) -> None:
    """Nothing is kept; the query waits on; what no query asked for is not found."""
    site, answer = Site(tmp_path, authority, None), tmp_path / "answer.tsr"
    site.stamp("request", "--out", tmp_path / "q.tsq")
    asked = (tmp_path / "q.tsq").read_bytes()
    twin = LocalAuthority(tmp_path / "twin", twin=authority)
    checkpoint = opened(load(site.config)).asked()[0].checkpoint
    for response, code in (
        (twin.answer(asked, authority.file), "TIMESTAMP_REFUSED"),
        (authority.answer(query(text_of(checkpoint)).der), "TIMESTAMP_REFUSED"),
        (authority.answer(query(b"x").der), "NOT_FOUND"),
        (b"x" * 100_000, "TIMESTAMP_REFUSED"),
    ):
        answer.write_bytes(response)
        done = site.run("audit", "stamp", "take", answer)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
        assert f"error {code}" in done.stderr
    assert [row["state"] for row in site.stamp("list", "--json")] == ["asked"]
    for words, code in (
        (("now",), "COMMAND_REFUSED"),
        (("request", "--out", tmp_path / "q.tsq"), "COMMAND_REFUSED"),
        (("take", tmp_path / "none.tsr"), "IO_ERROR"),
    ):
        assert f"error {code}" in site.run("audit", "stamp", *words).stderr
    site.config.write_text(f'[site]\nid = "test-site"\n[data]\nfolder = "{tmp_path / "data"}"\n', encoding="utf-8")
    assert "error CONFIG_INVALID" in site.run("audit", "stamp", "request", "--out", tmp_path / "r").stderr


@pytest.mark.parametrize(
    "line",
    [
        'url = "ftp://tsa.example"',
        'url = "https://tsa.example/\\n"',
        "every_s = 0",
        'policy_oid = "1.2.x"',
        'policy_oid = "3.1"',
        'certificate = "x"',
    ],
)
def test_a_configuration_that_is_wrong_is_refused(site: Site, line: str) -> None:
    """Whoever mistypes hears of it."""
    site.config.write_text(
        f'[audit.timestamps]\nauthority = "{site.authority.file}"\n{line}\n[data]\nfolder = "x"\n', encoding="utf-8"
    )
    assert "error CONFIG_INVALID" in site.run("audit", "stamp", "list").stderr


def test_a_stamp_of_an_entry_that_the_package_lacks_stays_at_home(site: Site) -> None:
    """An export of an older witnessed checkpoint takes no stamp beyond it."""
    settings = load(site.config)
    site.stamp("now")
    early = opened(settings).newest()
    assert early is not None
    with wire.offline(site.config) as place:
        later = Held(Checkpoint.unverified(early.checkpoint.note.replace("\n4\n", "\n400\n")), early.stamp)
        made = hand_over(
            place.log,
            site.folder / "p.zip",
            Asked(),
            TO,
            lambda: None,
            place.log.head,
            lambda: (later, early),
        )
    names = members((site.folder / "p.zip").read_bytes())
    assert (made.size, [name for name in names if name.startswith("tsa/")]) == (5, ["tsa/0000000000004.00.tsr"])


# ---- attacks on a whole package --------------------------------------------------------------------------------------


class Case:
    """An honest package with two stamps, witnesses and a reviewer's policy that names the authority: it passes."""

    def __init__(self, folder: Path, authority: LocalAuthority) -> None:
        self.folder, self.authority = folder, authority
        # The authority's clock is the machine's; the log's must agree with it.
        self.hospital = Hospital(start=wire.now() - timedelta(seconds=20))
        for number in range(5):
            self.hospital.assembled(number)
        self.early = self.hospital.log.head()
        for number in range(5, 9):
            self.hospital.assembled(number)
        self.note = self.hospital.witnessed()
        self.head = Checkpoint.unverified(self.note)
        self.member = f"tsa/{self.early.size:013d}.00.tsr"
        self.policy = self.hospital.policy(folder, f"tsa {authority.file}")

    def stamp(self, checkpoint: Checkpoint, by: LocalAuthority | None = None, *bag: Path) -> bytes:
        """A response over this checkpoint."""
        return (by or self.authority).answer(query(text_of(checkpoint)).der, *bag)

    def package(self, stamps: Mapping[int, bytes] | None = None) -> Path:
        """The file."""
        given = stamps or {self.early.size: self.stamp(self.early), self.head.size: self.stamp(self.head)}
        path = self.folder / "p.zip"
        path.unlink(missing_ok=True)
        export(self.hospital.log, path, evidence=Evidence(self.note, (self.early.note,), tuple(given.items())))
        return path

    def with_member(self, token: bytes) -> Path:
        """The honest package with this instead of its first stamp, and a manifest that fits."""
        path = self.package()
        parts = members(path.read_bytes())
        assert self.member in parts
        path.write_bytes(forged({**parts, self.member: token}))
        return path


@pytest.fixture
def case(tmp_path: Path, authority: LocalAuthority) -> Case:
    """Honest."""
    return Case(tmp_path, authority)


def test_an_honest_package_passes(case: Case) -> None:
    """With two stamps and two witnesses: exit status 0."""
    status, report = on_a_laptop(case.package(), case.policy)
    assert (status, report["verdict"], report["stamped_size"], report["remarks"]) == (0, "PASS", case.head.size, [])


def test_a_swapped_certificate_fails_and_names_the_member(case: Case, tmp_path: Path) -> None:
    """An authority of the same names and serial number with other keys, its certificate and the pinned one thrown in;
    one under the same root; one that signed itself."""
    twin = LocalAuthority(tmp_path / "twin", twin=case.authority)
    sister = LocalAuthority(tmp_path / "sister", root=case.authority)
    pinned, root = case.authority.file, case.authority.chain
    for by, bag in (
        (twin, ()),
        (twin, (twin.file, twin.chain)),
        (twin, (twin.file, pinned, root)),
        (twin, (pinned,)),
        (sister, ()),
        (sister, (pinned, root)),
    ):
        status, report = on_a_laptop(case.with_member(case.stamp(case.early, by, *bag)), case.policy)
        bad = [(one["verdict"], one["where"]) for one in report["remarks"]]
        assert (status, report["verdict"], bad) == (1, "FAIL", [("FAIL", case.member)])


def test_a_stamp_of_something_else_fails_and_names_the_member(case: Case) -> None:
    """Another imprint, a replayed stamp of another checkpoint of the same log, a changed one, none."""
    good = case.stamp(case.early)
    changed = bytearray(good)
    changed[-10] ^= 1
    longer = Checkpoint.unverified(case.early.note)
    for token in (
        case.authority.answer(query(text_of(longer) + b"more\n").der),
        case.authority.answer(query(case.early.note.encode()).der),
        case.stamp(case.head),
        bytes(changed),
        good[:-1],
        b"",
    ):
        status, report = on_a_laptop(case.with_member(token), case.policy)
        bad = [(one["verdict"], one["where"]) for one in report["remarks"]]
        assert (status, report["verdict"], bad) == (1, "FAIL", [("FAIL", case.member)])


def test_without_openssl_it_is_incomplete_never_pass(case: Case, tmp_path: Path) -> None:
    """No such command, and one that knows nothing of time stamps."""
    (tmp_path / "old").mkdir()
    old = tmp_path / "old" / "openssl"
    old.write_text('#!/bin/sh\necho "ts: Unknown option or cipher: attime" >&2\nexit 1\n', encoding="ascii")
    old.chmod(0o755)
    (tmp_path / "bare").mkdir()
    for path in (tmp_path / "bare", tmp_path / "old"):
        status, report = on_a_laptop(case.package(), case.policy, str(path))
        assert (status, report["verdict"], report["stamped_size"]) == (2, "INCOMPLETE", 0)
        assert {one["where"].split("/")[0] for one in report["remarks"]} == {"tsa"}


def test_a_certificate_that_has_run_out_since_is_good(case: Case, tmp_path: Path) -> None:
    """It was valid when it stamped: packages are read years later."""
    brief = LocalAuthority(tmp_path / "brief", seconds=2.5)
    case.policy = case.hospital.policy(case.folder, f"tsa {brief.file}")
    path = case.package({case.early.size: case.stamp(case.early, brief), case.head.size: case.stamp(case.head, brief)})
    while wire.now() <= brief.ends + timedelta(seconds=1):
        time.sleep(0.1)
    status, report = on_a_laptop(path, case.policy)
    assert (status, report["verdict"], report["stamped_size"]) == (0, "PASS", case.head.size)


@pytest.mark.parametrize("hours", [-2, 2])
def test_an_entry_outside_its_stamps_window_fails(case: Case, hours: int) -> None:
    """Whoever has the log's key backdates an entry behind a stamped checkpoint, or has one from the future within it.

    No witness speaks here: the stamps alone tell.
    """
    hospital = Hospital(start=wire.now() - timedelta(seconds=20))
    hospital.witnesses = ()
    hospital.assembled(1)
    if hours > 0:
        hospital.log.now += timedelta(hours=hours)
        hospital.assembled(2, source="other")
        hospital.log.now -= timedelta(hours=hours)
    early = hospital.log.head()
    if hours < 0:
        hospital.log.now += timedelta(hours=hours)
        hospital.assembled(2, source="other")
        hospital.log.now -= timedelta(hours=hours)
    hospital.assembled(3)
    head = hospital.log.head()
    lines = [f"log {hospital.signer.vkey}", "window 60", f"tsa {case.authority.file}"]
    policy = case.folder / "bare-policy"
    policy.write_text("\n".join([*lines, ""]), encoding="utf-8")
    for stamps, verdict in (((), "INCOMPLETE"), (((early.size, case.stamp(early)),), "FAIL")):
        path = case.folder / f"{verdict}.zip"
        export(hospital.log, path, evidence=Evidence(head.note, (early.note,), stamps))
        report = check(path.read_bytes(), policy)
        assert report.verdict == verdict, report.remarks
        assert report.first_bad == (2 if stamps else None)


def test_what_a_response_says_beside_its_token_is_not_believed(tmp_path: Path, authority: LocalAuthority) -> None:
    """Its status text is signed by nobody: a time in it must not become the stamp's."""
    text = b"some text\n"
    response = authority.answer(query(text).der)
    honest = verifier._stamp_time(response, text, authority.file)
    folder = tmp_path / "der"
    folder.mkdir()
    (folder / "r").write_bytes(response)
    openssl("ts", "-reply", "-in", folder / "r", "-token_out", "-out", folder / "t")
    token = (folder / "t").read_bytes()
    lie = der(0x0C, b"Time stamp: Nov 29 03:04:46 2031 GMT\nTime stamp: Nov 29 03:04:46 2031 GMT")
    status = der(0x30, der(0x02, b"\0") + der(0x30, lie))
    assert verifier._stamp_time(der(0x30, status + token), text, authority.file) == honest
    assert verifier._stamp_time(token, text, authority.file) == honest


def der(tag: int, content: bytes) -> bytes:
    """One DER value (X.690)."""
    size = len(content).to_bytes(4, "big").lstrip(b"\0") or b"\0"
    return bytes([tag]) + (size if len(content) < 0x80 else bytes([0x80 | len(size)]) + size) + content
