"""zhiying audit export: what is asked for is there, nothing can be hidden, and the log says that it was handed over."""

import hashlib
import io
import json
import threading
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from audit.canonical import canonical
from audit.cosignature import Cosigner
from audit.entry import Draft, Kind
from audit.verifier import Policy, verify
from audit.witness import KEY, Witness
from dicom_bridge.inbox import Inbox
from service import wire
from service.cli import app
from service.commands.witness import published
from service.config import load
from service.exporting import Asked, Handover, hand_over
from service.witness_api import WitnessServer
from tests.simulators.audit_log import MODEL, body
from tests.simulators.received import Clock, received
from tests.simulators.series import make_slice

STUDY = "1.2.840.99999.7.1"
ABOUT = ("--recipient", "TEST Reviewer", "--purpose", "YEARLY_REVIEW", "--contract", "TEST-2026-1")


class Desk:
    """A site whose log holds three calls: one of another study, one of another model."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "zhiying.toml"
        self.config.write_text(f'[site]\nid = "test-site"\n[data]\nfolder = "{folder / "data"}"\n', encoding="utf-8")
        settings = load(self.config)
        name = wire.pseudonyms(settings).of
        with wire.offline(self.config) as site:
            for number, (study, model) in enumerate(
                ((STUDY, "brain"), ("1.2.840.99999.7.2", "brain"), (STUDY, "lung"))
            ):
                named = {"study": name("study", study), "model": {**MODEL, "name": model}}
                call = f"{number:032x}"
                site.log.append(Draft(Kind.CALL_INTENT, f"i:{number}", {**body(Kind.CALL_INTENT), **named}, call))
                site.log.append(Draft(Kind.CALL_RESULT, f"r:{number}", body(Kind.CALL_RESULT), call))
            denied = {**body(Kind.DENIED), "study": name("study", STUDY), "model": {**MODEL, "name": "brain"}}
            site.log.append(Draft(Kind.DENIED, "d:0", denied))

    def run(self, *words: str | Path) -> Result:
        """One command."""
        return CliRunner().invoke(app, [*map(str, words), "--config", str(self.config)], env={"COLUMNS": "240"})

    def export(self, *words: str | Path) -> dict[str, Any]:
        """A package, and what is in it."""
        out = self.folder / "package.zip"
        out.unlink(missing_ok=True)
        done = self.run("audit", "export", "--out", out, *ABOUT, *words, "--json")
        assert done.exit_code == 0, done.output
        with zipfile.ZipFile(io.BytesIO(out.read_bytes())) as members:
            return dict(json.loads(members.read("MANIFEST.json")))

    def keys(self, witness: str) -> Path:
        """A reviewer's policy."""
        path = self.folder / "keys.txt"
        path.write_text(f"log {wire.log_vkey(load(self.config))}\n{witness}", encoding="utf-8")
        return path


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A site."""
    return Desk(tmp_path)


ALWAYS = Counter(LOG_START=1, EXPORT=1)


@pytest.mark.parametrize(
    ("words", "there"),
    [
        ((), Counter(CALL_INTENT=3, CALL_RESULT=3, DENIED=1)),
        (("--study", STUDY), Counter(CALL_INTENT=2, CALL_RESULT=2, DENIED=1)),
        (("--study", "1.2.3"), Counter()),
        (("--model", "lung"), Counter(CALL_INTENT=1, CALL_RESULT=1)),
        (("--model", "brain", "--study", STUDY), Counter(CALL_INTENT=1, CALL_RESULT=1, DENIED=1)),
        (("--decision", "denied"), Counter(DENIED=1)),
        (("--decision", "permitted"), Counter(CALL_INTENT=3, CALL_RESULT=3)),
        (("--decision", "released"), Counter()),
        (("--to", "2020-01-01"), Counter()),
        (("--from", "2020-01-01"), Counter(CALL_INTENT=3, CALL_RESULT=3, DENIED=1)),
    ],
)
def test_what_is_asked_for_is_there(desk: Desk, words: tuple[str, ...], there: Counter[str]) -> None:
    """A call is taken whole; the log's start and the export itself are always there; the rest is there as hashes."""
    made = desk.export(*words)
    assert Counter(made["counts"]) == there + ALWAYS
    assert made["size"] == 9


def test_no_identifier_leaves(desk: Desk) -> None:
    """A study that is asked for by its UID is named in the package and in the log by its pseudonym alone."""
    made = desk.export("--study", STUDY)
    assert made["filter"] == {"study": wire.pseudonyms(load(desk.config)).of("study", STUDY)}
    assert STUDY.encode() not in (desk.folder / "package.zip").read_bytes()


def test_the_log_says_to_whom(desk: Desk) -> None:
    """Before the file is written; and again for the next one."""
    desk.export()
    desk.export("--model", "brain")
    with wire.offline(desk.config) as site:
        said = [entry.body for entry in site.log.entries() if entry.kind is Kind.EXPORT]
    assert [one["recipient"] for one in said] == ["TEST Reviewer"] * 2
    assert said[0]["scope"] != said[1]["scope"]


@pytest.mark.parametrize("words", [(), ("--model", "brain"), ("--from", "2020-01-01", "--to", "2030-01-01")])
def test_what_the_log_says_was_asked_for_is_what_the_package_says(desk: Desk, words: tuple[str, ...]) -> None:
    """A reader recomputes it from the manifest's period and filter."""
    made = desk.export(*words)
    with wire.offline(desk.config) as site:
        (said,) = [entry.body["scope"] for entry in site.log.entries() if entry.kind is Kind.EXPORT]
    asked = canonical({"period": made["period"], "filter": made["filter"]})
    assert said == f"sha256:{hashlib.sha256(asked).hexdigest()}"


def test_a_service_that_goes_on_beside_it_harms_nothing(desk: Desk) -> None:
    """Calls that are logged while the witnesses are asked are in the package, whole, if the checkpoint covers them."""
    settings, out = load(desk.config), desk.folder / "package.zip"
    with wire.offline(desk.config) as site:

        def busy() -> None:
            for kind in (Kind.CALL_INTENT, Kind.CALL_RESULT):
                site.log.append(Draft(kind, f"late:{kind.value.lower()}", body(kind), "d" * 32))

        asked, to = Asked(model=str(MODEL["name"])), Handover("TEST Reviewer", "YEARLY_REVIEW", "TEST-2026-1")
        made = hand_over(site.log, out, asked, to, busy, lambda: published(settings)[0])
    assert (made.size, made.counts["CALL_INTENT"], made.counts["CALL_RESULT"]) == (11, 1, 1)


def test_without_a_witness_it_is_incomplete(desk: Desk) -> None:
    """Whole, and signed by the hospital alone: that is not enough, and nothing says PASS."""
    desk.export()
    with (desk.folder / "package.zip").open("rb") as file:
        report = verify(file, Policy(desk.keys("")))
    assert report.verdict != "PASS"
    assert "names no witness" in json.dumps(report.as_json())


def test_the_witness_is_asked_before_the_package_is_made(desk: Desk) -> None:
    """The package ends with its own export, cosigned; a witness that is down leaves it without, and the log goes on."""
    cosigner, folder = Cosigner.generate("witness.example"), desk.folder / "witness"
    folder.mkdir()
    cosigner.save(folder / KEY)
    witness = Witness(folder, cosigner, lambda: int(wire.now().timestamp()))
    settings = load(desk.config)
    witness.add_log(wire.origin(settings), wire.log_verifier(settings))
    server = WitnessServer(witness, "127.0.0.1", 0)
    policy = desk.folder / "policy.txt"
    policy.write_text(f"witness {cosigner.vkey} http://127.0.0.1:{server.port}\nquorum 1\n", encoding="utf-8")
    serving = threading.Thread(target=server.run)
    serving.start()
    try:
        made = desk.export("--policy", policy)
    finally:
        server.stop()
        serving.join()
    assert made["size"] == 9
    keys = desk.keys(f"witness {cosigner.vkey}\nquorum 1\n")
    with (desk.folder / "package.zip").open("rb") as file:
        report = verify(file, Policy(keys))
    assert (report.figures["witnessed_size"], report.figures["unwitnessed_tail"]) == (9, 0)

    desk.export("--policy", policy)
    with (desk.folder / "package.zip").open("rb") as file:
        report = verify(file, Policy(keys))
    assert (report.figures["witnessed_size"], report.figures["unwitnessed_tail"]) == (9, 1)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--decision", "maybe"), "COMMAND_REFUSED"),
        (("--contract", "110101195602291234"), "ENTRY_INVALID"),
        (("--recipient", "测试^幻影"), "ENTRY_INVALID"),
        (("--purpose", "because I say so"), "ENTRY_INVALID"),
    ],
)
def test_what_cannot_be_is_refused(desk: Desk, words: tuple[str, str], code: str) -> None:
    """With one line, nothing logged and nothing written; a number that may be a person's is not repeated."""
    out = desk.folder / "package.zip"
    given = dict(zip(ABOUT[::2], ABOUT[1::2], strict=True)) | {words[0]: words[1]}
    done = desk.run("audit", "export", "--out", out, *(word for pair in given.items() for word in pair))
    assert done.exit_code == 1
    assert f"error {code}" in done.stderr
    assert words[1] not in done.stderr
    assert not out.exists()
    with wire.offline(desk.config) as site:
        assert site.log.head().size == 8


def test_a_file_that_is_there_is_left_alone(desk: Desk) -> None:
    """Nothing is overwritten, and nothing is logged."""
    out = desk.folder / "package.zip"
    out.write_text("mine", encoding="ascii")
    done = desk.run("audit", "export", "--out", out, *ABOUT)
    assert (done.exit_code, out.read_text(encoding="ascii")) == (1, "mine")
    with wire.offline(desk.config) as site:
        assert site.log.head().size == 8


def test_the_key_is_shown(desk: Desk) -> None:
    """The line that reviewers and witnesses need."""
    done = desk.run("audit", "key", "--json")
    assert json.loads(done.stdout)["vkey"] == wire.log_vkey(load(desk.config))


def with_images(desk: Desk, name: str) -> None:
    """The site's spool holds an image of this patient."""
    inbox = Inbox(wire.spool(load(desk.config)), Clock())
    image = make_slice(0)
    image.PatientName, image.PatientID = name, "TP04711001"
    inbox.store(received(ds=image), "SCANNER")
    inbox.close()


def test_people_and_other_systems_get_theirs(desk: Desk) -> None:
    """By default; and nothing of it with --without-people. The scan knew the patients whose images are kept."""
    with_images(desk, "ZHANGSAN^LISI")
    tree = wire.audit_root(load(desk.config)) / "sm3"
    tree.mkdir()
    (tree / "checkpoint").write_bytes(b"another head\n")
    for_people = {
        *("summary.html", "phi_scan.json", "fhir/0000000000000.ndjson", "dicom-audit/0000000000000.xml"),
        *(f"tables/{name}.csv" for name in ("approvals", "calls", "denials", "failures", "kinds")),
    }
    made = desk.export()
    assert for_people | {"sm3/checkpoint"} <= set(made["members"])
    with zipfile.ZipFile(desk.folder / "package.zip") as members:
        said = json.loads(members.read("phi_scan.json"))
        page = members.read("summary.html").decode()
        assert members.read("sm3/checkpoint") == b"another head\n"
    assert (said["hits"], said["dictionary"]["words"] > 3) == ([], True)
    assert "TEST Reviewer" in page
    assert not for_people & set(desk.export("--without-people")["members"])


def test_a_patients_name_keeps_the_package_inside(desk: Desk) -> None:
    """Typed in as the recipient, where no rule of the log can know it: refused with the place, and no file is left."""
    with_images(desk, "ZHANGSAN^LISI")
    out = desk.folder / "package.zip"
    about = ("--recipient", "Zhangsan Lisi", *ABOUT[2:])
    done = desk.run("audit", "export", "--out", out, *about)
    assert done.exit_code == 1
    assert "error EXPORT_PHI: entries/0000000000000, byte " in done.stderr
    assert "zhangsan" not in (done.stderr + done.stdout).lower()
    assert [path.name for path in desk.folder.glob("*.zip*")] == []
