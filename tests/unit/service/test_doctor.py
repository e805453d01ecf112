"""The doctor: each check looks at the real thing, says what to do, and repairs nothing."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from models.library import Library
from models.ref import ModelRef
from service import wire
from service.config import Config, load
from service.doctor import FAIL, OK, WARN, Finding, examine, examine_peer
from service.errors import NothingSuch
from tests.simulators import reviewer, small_model
from tests.simulators.certificates import Authority, today
from tests.simulators.pacs import COMPREHENSIVE_3D_SR, EXPLICIT, SEGMENTATION, FakePacs
from tests.simulators.parties import Case, Parties
from tests.simulators.tsa import DAY_S, LocalAuthority, TsaServer

VERIFICATION = "1.2.840.10008.1.1"


class Site:
    """A site's folder and its configuration file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parties = Parties()
        self.policy = folder / "trust.policy"
        self.policy.write_text(self.parties.policy(), encoding="utf-8")
        self.sections: dict[str, dict[str, Any]] = {
            "site": {"id": "test-site"},
            "data": {"folder": str(folder / "data"), "free_bytes_min": 0},
            "dicom": {"port": 0},
            "http": {"port": 0},
            "review": {"trust": str(self.policy)},
        }
        self.more = ""

    @property
    def config(self) -> Config:
        """As `zhiying` reads it."""
        lines = [
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
            for name, section in self.sections.items()
        ]
        path = self.folder / "zhiying.toml"
        path.write_text("".join(lines) + self.more, encoding="utf-8")
        return load(path)

    def install(self) -> ModelRef:
        """The small model."""
        return Library(self.folder / "data" / "models").install(small_model.stage(self.folder / "staged"))

    def approve(self, ref: ModelRef, first: str, last: str, name: str = "TEST-1") -> None:
        """An approval of the small model in the log."""
        fields = reviewer.fields(ref, valid={"from": first, "to": last}, approval=name)
        with wire.offline_of(self.config) as opened:
            case = Case(self.parties, opened.register, opened.log, ref)
            case.submitted()
            opened.register.record(case.approval(fields))
            if first <= "2026" and last >= "2099":
                case.deploy()
                case.go_live(name)

    def found(self) -> dict[str, Finding]:
        """All findings by what was looked at."""
        findings = examine(self.config)
        assert len({one.check for one in findings}) == len(findings)
        return {one.check: one for one in findings}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An empty site."""
    return Site(tmp_path)


def test_an_empty_site_is_told_what_it_lacks(site: Site) -> None:
    """Nothing is broken; what is missing is a WARN that says what to do, and nothing was made."""
    found = site.found()

    assert {check: one.result for check, one in found.items()} == {
        "disk": OK,
        "audit log": OK,
        "witnesses": WARN,
        "models": WARN,
        "trust policy": OK,
        "approvals": WARN,
        "DICOM port": OK,
        "HTTP log-in": OK,
        "HTTP port": OK,
        "results": WARN,
    }
    assert "models pull" in found["models"].what
    assert "refused" in found["approvals"].what
    assert not (site.folder / "data").exists()


def test_a_full_disk_fails(site: Site) -> None:
    """Less free than the reserve: images would be refused, and the doctor says so first."""
    site.sections["data"]["free_bytes_min"] = 1 << 62

    assert site.found()["disk"].result == FAIL


def test_a_site_in_order_is_all_ok(site: Site) -> None:
    """Model, approval in force, PACS that answers, results addressed: no WARN is left."""
    site.approve(site.install(), "2020-01-01", "2099-12-31")
    with FakePacs() as pacs:
        site.more = _peer(pacs.ae_title, pacs.port) + '[results]\nto = "pacs"\n'

        found = site.found()

    # The fake PACS takes storage alone: that it refuses an echo is a finding of its own. Witnesses: test_witnessing.
    # The small model is no network, and has no golden case; see test_golden.
    others = ("peer pacs", "witnesses", "golden case small-model 1.0")
    assert {one.result for check, one in found.items() if check not in others} == {OK}
    assert found[others[-1]].result == WARN
    assert {"model small-model 1.0", "approval TEST-1", "trust policy", "audit log"} <= set(found)
    assert found["dossier small-model 1.0"].what.startswith("LIVE")
    assert found["model small-model 1.0"].what.startswith("sha256:")
    assert wire.log_vkey(site.config) in found["audit log"].what


def _peer(title: str, port: int, host: str = "127.0.0.1") -> str:
    return f'[[peers]]\nname = "pacs"\nae_title = "{title}"\nhost = "{host}"\nport = {port}\n'


@pytest.mark.parametrize(
    ("first", "last", "result"),
    [("2020-01-01", "2099-12-31", OK), ("2020-01-01", "2021-01-01", WARN), ("2098-01-01", "2099-12-31", WARN)],
)
def test_an_approval_out_of_its_time_is_a_warning(site: Site, first: str, last: str, result: str) -> None:
    """Before and after its days an approval permits nothing."""
    site.approve(site.install(), first, last)

    assert site.found()["approval TEST-1"].result == result


def test_without_a_trust_policy_every_inference_is_refused(site: Site) -> None:
    """The default configuration says so."""
    del site.sections["review"]["trust"]

    found = site.found()

    assert found["trust policy"].result == WARN
    assert "refused" in found["trust policy"].what
    assert "approvals" not in found


def test_a_policy_that_lacks_somebody_says_whom(site: Site) -> None:
    """A site without a safety officer cannot go live, and learns it here."""
    site.policy.write_text(site.parties.policy(without=["safety"]), encoding="utf-8")

    found = site.found()["trust policy"]

    assert found.result == WARN
    assert "nobody is SAFETY_OFFICER" in found.what


def test_a_dossier_that_does_not_run_is_a_warning(site: Site) -> None:
    """Approved and not deployed: the doctor says where it stands."""
    site.approve(site.install(), "2020-01-01", "2098-12-31")

    found = site.found()["dossier small-model 1.0"]

    assert found.result == WARN
    assert found.what.startswith("APPROVED")


@pytest.mark.parametrize("policy", [b"rubbish", b"\xff\xfe", None])
def test_a_bad_trust_policy_fails_and_the_rest_is_still_looked_at(site: Site, policy: bytes | None) -> None:
    """One broken part does not hide the others."""
    site.approve(site.install(), "2020-01-01", "2099-12-31")
    site.policy.unlink() if policy is None else site.policy.write_bytes(policy)

    found = site.found()

    assert (found["trust policy"].result, found["approvals"].result) == (FAIL, FAIL)
    assert "DICOM port" in found


def test_a_changed_model_fails_by_name(site: Site) -> None:
    """Every file is hashed again."""
    site.install()
    weights = site.folder / "data" / "models" / "small-model" / "1.0" / "models" / "model.pt"
    weights.chmod(0o600)
    weights.write_bytes(b"other")

    found = site.found()["model small-model 1.0"]

    assert found.result == FAIL
    assert "models/model.pt" in found.what


def test_a_folder_that_is_no_model_fails(site: Site) -> None:
    """What could never run is said before a study needs it."""
    (site.folder / "data" / "models" / "spoiled" / "1.0").mkdir(parents=True)

    assert site.found()["model spoiled 1.0"].result == FAIL


def test_a_changed_log_fails_and_is_not_repaired(site: Site) -> None:
    """The file is named, the advice is to freeze it, and not a byte is changed by looking."""
    site.approve(site.install(), "2020-01-01", "2099-12-31")
    head = site.folder / "data" / "audit" / "head"
    origin, size, rest = head.read_text().split("\n", 2)
    head.write_text(f"{origin}\n{int(size) + 1}\n{rest}", encoding="utf-8")
    before = {path: path.read_bytes() for path in head.parent.rglob("*") if path.is_file()}

    found = site.found()

    assert found["audit log"].result == FAIL
    assert "head" in found["audit log"].what
    assert "do not repair" in found["audit log"].what
    assert found["approvals"].result == FAIL
    assert before == {path: path.read_bytes() for path in head.parent.rglob("*") if path.is_file()}


def test_a_port_in_use_is_a_warning(site: Site) -> None:
    """Right if the service is running, so no failure; the port is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        site.sections["http"]["port"] = taken.getsockname()[1]

        found = site.found()["HTTP port"]

    assert found.result == WARN
    assert str(site.sections["http"]["port"]) in found.what


def test_a_peer_that_is_away_fails_with_its_code(site: Site) -> None:
    """C-ECHO is really tried, and the address is in the line."""
    with FakePacs() as pacs:
        port = pacs.port
    site.more = _peer("TESTPACS", port)

    found = site.found()["peer pacs"]

    assert found.result == FAIL
    assert f"TESTPACS@127.0.0.1:{port}" in found.what
    assert "PEER_UNREACHABLE" in found.what


@pytest.mark.parametrize("groups", ["VOLUMETRIC", "PLANAR"])
def test_a_peer_that_accepts_what_results_need_is_ok(site: Site, groups: str) -> None:
    """Each class with its transfer syntax, each ability, and the shape of reports that the site chose for it."""
    with FakePacs(classes=(SEGMENTATION, COMPREHENSIVE_3D_SR, VERIFICATION)) as pacs:
        site.more = _peer(pacs.ae_title, pacs.port) + f'counts = true\ncommitment = true\nreport_groups = "{groups}"\n'
        found = {one.check: one for one in examine_peer(site.config, "pacs")}
        assert pacs.stored == {}

    assert {check: one.result for check, one in found.items()} == {
        "peer pacs": OK,
        "peer pacs report_groups": OK,
        "peer pacs segmentation": OK,
        "peer pacs SEG": OK,
        "peer pacs SR": OK,
        "peer pacs COMMITMENT": OK,
        "peer pacs C-FIND": OK,
    }
    assert found["peer pacs report_groups"].what.startswith(groups)
    assert found["peer pacs SEG"].what == f"accepts {SEGMENTATION} in {EXPLICIT}"


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ("key_images = true", "SC"),
        ('key_images = ["GSPS"]', "GSPS"),
        ('key_images = ["KOS"]', "KOS"),
        ('key_images = ["NO_FINDING"]', "NO_FINDING"),
        ("rejection_notes = true", "NOTE"),
    ],
)
def test_what_a_peer_does_not_accept_fails_with_a_code_and_with_what_to_do(site: Site, wanted: str, kind: str) -> None:
    """Key images that the site wants and the peer does not take, also in the whole doctor; the rest of it stays ok."""
    with FakePacs(classes=(SEGMENTATION, COMPREHENSIVE_3D_SR, VERIFICATION)) as pacs:
        site.more = _peer(pacs.ae_title, pacs.port) + f'[results]\nto = "pacs"\n{wanted}\n'
        found = {one.check: one for one in examine_peer(site.config, "pacs")}
        whole = site.found()

    lacking = found[f"peer pacs {kind}"]
    assert [one for one in found.values() if one.result != OK] == [lacking]
    assert lacking.result == FAIL
    assert lacking.what.startswith("PEER_NO_CONTEXT: ")
    said = ["rejection_notes = false"] if kind == "NOTE" else ["key_images = false", f"take {kind} out"]
    assert all(words in lacking.what for words in said)
    assert whole[f"peer pacs {kind}"] == lacking


def test_a_peer_that_takes_no_label_map_fails_with_what_to_do(site: Site) -> None:
    """The class that it lacks, what does not arrive for that, and which setting to change."""
    with FakePacs(classes=(SEGMENTATION, COMPREHENSIVE_3D_SR, VERIFICATION)) as pacs:
        site.more = _peer(pacs.ae_title, pacs.port) + 'report_groups = "PLANAR"\nsegmentation = "LABELMAP"\n'
        found = {one.check: one for one in examine_peer(site.config, "pacs")}

    lacking = found["peer pacs LABELMAP"]
    assert found["peer pacs segmentation"].what.startswith("LABELMAP")
    assert [one for one in found.values() if one.result != OK] == [lacking]
    assert "1.2.840.10008.5.1.4.1.1.66.7" in lacking.what
    assert 'segmentation = "BINARY"' in lacking.what
    assert found["peer pacs BINARY"].what == f"accepts {SEGMENTATION} in {EXPLICIT}"


def test_an_unreachable_peer_has_no_profile(site: Site) -> None:
    """Asked for itself it fails twice, with the code; the whole doctor has one line of it."""
    with FakePacs() as pacs:
        port = pacs.port
    site.more = _peer("TESTPACS", port) + '[results]\nto = "pacs"\n'

    found = {one.check: one for one in examine_peer(site.config, "pacs")}

    assert found["peer pacs negotiation"].result == FAIL
    assert "PEER_UNREACHABLE" in found["peer pacs negotiation"].what
    assert [check for check in site.found() if check.startswith("peer ")] == ["peer pacs"]


def test_of_a_web_peer_the_doctor_does_not_claim_to_know(site: Site) -> None:
    """STOW-RS cannot be negotiated: a WARN while it answers, a FAIL with the code when it does not."""
    with FakePacs(classes=(VERIFICATION,)) as pacs, WebHost() as web:
        more = f'send = "STOW-RS"\nweb = "http://127.0.0.1:{web.port}/dicom-web"\n'
        site.more = _peer(pacs.ae_title, pacs.port) + more
        there = {one.check: one for one in examine_peer(site.config, "pacs")}
        web.close()
        away = {one.check: one for one in examine_peer(site.config, "pacs")}

    assert {check: one.result for check, one in there.items()} == {
        "peer pacs": OK,
        "peer pacs report_groups": OK,
        "peer pacs segmentation": OK,
        "peer pacs STOW-RS": WARN,
    }
    assert "no negotiation" in there["peer pacs STOW-RS"].what
    assert away["peer pacs STOW-RS"].result == FAIL
    assert "PEER_UNREACHABLE" in away["peer pacs STOW-RS"].what


class WebHost:
    """An HTTP server that takes no options."""

    def __init__(self) -> None:
        self._server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._open = True

    def __enter__(self) -> "WebHost":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Listen no more; may be repeated."""
        if self._open:
            self._open = False
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


def test_a_peer_that_is_not_configured_is_refused(site: Site) -> None:
    """We talk to peers that the file names, and to no other."""
    with pytest.raises(NothingSuch, match="nobody"):
        examine_peer(site.config, "nobody")


def test_certificates_are_looked_at(site: Site, tmp_path: Path) -> None:
    """Good ones say until when; those that end within a month are a warning, a missing key is a failure."""
    for name, days, wanted in (("long", 365, OK), ("short", 10, WARN)):
        files = Authority(tmp_path / name, until=days).issue("zhiying", until=days)
        site.sections["dicom.tls"] = {
            "port": 0,
            "certificate": str(files.certificate),
            "key": str(files.key),
            "authority": str(files.authority),
        }

        found = site.found()

        assert (found["DICOM TLS"].result, found["DICOM TLS port"].result) == (wanted, OK)
        assert f"{today(days):%Y-%m}" in found["DICOM TLS"].what

    site.sections["dicom.tls"]["key"] = str(tmp_path / "none.pem")
    assert site.found()["DICOM TLS"].result == FAIL


def _stamped_by(authority: LocalAuthority, url: str | None) -> dict[str, Any]:
    named = {"authority": str(authority.file), "chain": str(authority.chain)}
    return named if url is None else {**named, "url": url}


def test_the_time_stamp_authority_is_really_asked(site: Site, tmp_path: Path) -> None:
    """A stamp by the pinned certificate is fine; another's, none, and no server fail with their code."""
    authority, other = LocalAuthority(tmp_path / "tsa"), LocalAuthority(tmp_path / "other")
    with TsaServer(authority.answer) as server:
        for answers, status, wanted, word in (
            (authority.answer, 200, OK, "pinned"),
            (other.answer, 200, FAIL, "TIMESTAMP_REFUSED"),
            (authority.answer, 503, FAIL, "TIMESTAMP_UNREACHABLE"),
        ):
            server.answers, server.status = answers, status
            site.sections["audit.timestamps"] = _stamped_by(authority, server.url)

            found = site.found()

            assert (found["time-stamp authority"].result, found["time-stamp certificate"].result) == (wanted, OK)
            assert word in found["time-stamp authority"].what
    assert "TIMESTAMP_UNREACHABLE" in site.found()["time-stamp authority"].what

    site.sections["audit.timestamps"] = _stamped_by(authority, None)
    assert site.found()["time-stamp authority"].result == OK


@pytest.mark.parametrize(("days", "result"), [(29, WARN), (31, OK), (-0.5, FAIL)])
def test_a_time_stamp_certificate_that_ends_soon_is_told(site: Site, tmp_path: Path, days: float, result: str) -> None:
    """A month before, as another one has to travel to every reviewer."""
    authority = LocalAuthority(tmp_path / "tsa", seconds=days * DAY_S)
    site.sections["audit.timestamps"] = _stamped_by(authority, None)

    found = site.found()["time-stamp certificate"]

    assert (found.result, f"{authority.ends:%Y-%m-%d}" in found.what) == (result, True)


def test_a_time_stamp_certificate_that_cannot_be_read_fails(site: Site, tmp_path: Path) -> None:
    """Its file is named; nobody is asked."""
    site.sections["audit.timestamps"] = {"authority": str(tmp_path / "none.pem"), "url": "http://127.0.0.1:1/"}

    found = site.found()

    assert found["time-stamp certificate"].result == FAIL
    assert "none.pem" in found["time-stamp certificate"].what
    assert "time-stamp authority" not in found


OPERATOR = '[[operators]]\nname = "test-hand"\nrole = "OPERATOR"\ntoken_sha256 = "' + "1" * 64 + '"\n'


@pytest.mark.parametrize(
    ("http", "decide_at", "more", "result", "says"),
    [
        ({}, None, "", OK, "unless a proxy"),
        ({"log_in": False}, None, "", OK, "unless a proxy"),
        ({}, "https://ai.example", "", WARN, "set http.log_in = true"),
        ({"log_in": True}, None, OPERATOR, OK, "1 operators, 0 readers"),
        ({"log_in": True}, "https://ai.example", OPERATOR, OK, "1 operators"),
        ({"log_in": True}, None, "", WARN, "nobody orders pulls"),
        ({"host": "0.0.0.0"}, None, OPERATOR, FAIL, "CONFIG_INVALID"),  # noqa: S104 - a configuration
        ({"host": "0.0.0.0", "log_in": False}, None, "", WARN, "whoever reaches the port"),  # noqa: S104
        ({"host": "0.0.0.0", "log_in": True}, None, OPERATOR, WARN, "in clear"),  # noqa: S104
    ],
)
def test_who_may_use_the_http_port(
    site: Site, http: dict[str, Any], decide_at: str | None, more: str, result: str, says: str
) -> None:
    """What was not decided where others reach the port is a FAIL; what was decided and is not wise, a WARN."""
    site.sections["http"] |= http
    site.sections["results"] = {} if decide_at is None else {"decide_at": decide_at}
    site.more = more
    found = site.found()["HTTP log-in"]
    assert (found.result, says in found.what) == (result, True), found.what
