"""The running service's DICOM TLS port and its door, called by DCMTK: who is let in, and how results leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_bridge import uids
from dicom_bridge.tls import TlsFiles
from service.demo.servers import answers, free_port
from tests.simulators import real_dcmtk as dcmtk
from tests.simulators.certificates import Authority, pin
from tests.simulators.real_dcmtk import Receiver
from tests.simulators.real_site import Address, RealSite, closed_port, peer_lines, started, with_model, zhiying
from tests.simulators.site import write_series

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ONLY_KNOWN = "known_peers_only = true"


@dataclass(frozen=True)
class Guarded:
    """A site behind mutual TLS that knows its callers; `papers` are certificates by the holder's name."""

    site: RealSite
    port: int
    papers: dict[str, TlsFiles]
    pacs: Receiver
    root: Path

    def call(
        self, name: str, *options: str | Path, by: str, papers: str | None = None, files: Sequence[Path] = ()
    ) -> bool:
        """Call as the peer of this AE title: with these papers to the TLS port, without any to the plain one."""
        port, secured = self._door(papers)
        return dcmtk.caller(name, port, *secured, *options, calling=by, files=files)

    def said(self, title: str, papers: str | None, called: str = "ZHIYING") -> str:
        """What echoscu prints of our answer."""
        port, secured = self._door(papers)
        done = dcmtk.call("echoscu", "-v", "-aet", title, "-aec", called, *secured, "127.0.0.1", str(port))
        return done.stdout + done.stderr

    def _door(self, papers: str | None) -> tuple[int, list[str]]:
        return (self.site.dicom_port, []) if papers is None else (self.port, dcmtk.secured(self.papers[papers]))


def certificates(root: Path) -> dict[str, TlsFiles]:
    """Papers of the hospital's own authority, one of them expired, and those of somebody else's."""
    hospital = Authority(root / "hospital", until=90)
    other = Authority(root / "elsewhere", "TEST Elsewhere CA").issue("stranger")
    papers = {name: hospital.issue(name, until=90) for name in ("zhiying", "pacs", "modality", "another")}
    papers["soon over"] = hospital.issue("soon-over", until=20)
    papers["expired"] = hospital.issue("expired", until=-0.01)
    papers["stranger"] = TlsFiles(other.certificate, other.key, hospital.file)
    return papers


def tls_section(files: TlsFiles, port: int) -> str:
    """[dicom.tls] with these files."""
    paths = [
        f'{name} = "{path}"'
        for name, path in zip(
            ("certificate", "key", "authority"), (files.certificate, files.key, files.authority), strict=True
        )
    ]
    return "\n".join(["[dicom.tls]", f"port = {port}", *paths, ""])


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Its PACS is DCMTK's storescp, which takes TLS with a certificate of the hospital and nothing else."""
    root = tmp_path_factory.mktemp("guarded")
    papers, port = certificates(root / "papers"), free_port()
    with closed_port() as closed, dcmtk.storescp(root / "pacs", papers["pacs"]) as pacs:
        more = tls_section(papers["zhiying"], port) + "".join(
            [
                peer_lines("modality", "MODALITY", closed),
                peer_lines("pinned", "PINNED", closed, [f'certificate = "{pin(papers["modality"].certificate)}"']),
                peer_lines("here", "HERE", closed, ['addresses = ["127.0.0.0/8"]']),
                peer_lines("elsewhere", "ELSEWHERE", closed, ['addresses = ["192.0.2.0/24", "2001:db8::/32"]']),
                peer_lines("secured", "SECURED", closed, ["tls = true"]),
            ]
        )
        address = Address("STORESCP", pacs.port)
        site = with_model(RealSite(root / "site", address, pacs_more="tls = true", more=more, dicom_more=ONLY_KNOWN))
        with started(site):
            yield Guarded(site, port, papers, pacs, root)
            site.fit()


def test_a_study_comes_and_its_result_leaves_by_tls(guarded: Guarded) -> None:
    """storescu calls our TLS port, both show certificates; the PACS, which takes nothing in plain, gets SR and SEG."""
    files = write_series(guarded.root / "series", seed="by tls")

    assert guarded.call("echoscu", by="MODALITY", papers="modality")
    assert guarded.call("storescu", by="MODALITY", papers="modality", files=files)

    released = guarded.site.released(uids.derive("TEST", "by tls", "study"))
    assert (released.body["proof"], released.body["peer"]) == ("ANSWERED", "pacs")
    outputs = guarded.site.of_call(released.call, "CALL_RESULT").body["outputs"]
    stored = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in guarded.pacs.files}
    assert stored == {one["uid"] for one in outputs}


@pytest.mark.parametrize("who", ["in plain", "anonymous", "another authority", "expired"])
def test_the_tls_port_opens_to_nobody_without_proof(guarded: Guarded, who: str) -> None:
    """DCMTK is refused before any association; the next honest caller is served, and nothing unfit is logged."""
    options = {
        "in plain": [],
        "anonymous": ["+tla", "+cf", str(guarded.papers["zhiying"].authority)],
        "another authority": dcmtk.secured(guarded.papers["stranger"]),
        "expired": dcmtk.secured(guarded.papers["expired"]),
    }[who]
    files = write_series(guarded.root / who.replace(" ", "-"), seed=who, count=1)

    assert not dcmtk.caller("echoscu", guarded.port, *options)
    assert not dcmtk.caller("storescu", guarded.port, *options, files=files)

    assert guarded.site.held(uids.derive("TEST", who, "study")) == set()
    assert guarded.call("echoscu", by="MODALITY", papers="modality")
    guarded.site.fit()


CALLS = {
    "a title that is known": ("MODALITY", None, True),
    "a title that nobody knows": ("INTRUDER", None, False),
    "a title that nobody knows, with good papers": ("INTRUDER", "modality", False),
    "the pinned certificate": ("PINNED", "modality", True),
    "another certificate of the same authority": ("PINNED", "another", False),
    "a pinned title without TLS": ("PINNED", None, False),
    "from an address of its own": ("HERE", None, True),
    "from an address of its own, by TLS": ("HERE", "another", True),
    "from another address": ("ELSEWHERE", None, False),
    "from another address, with good papers": ("ELSEWHERE", "modality", False),
    "in plain, where TLS is configured": ("SECURED", None, False),
    "by TLS, where TLS is configured": ("SECURED", "another", True),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_title_is_tied_to_address_and_certificate(guarded: Guarded, name: str) -> None:
    """With known_peers_only: who is not whom its title says is rejected, and nothing of it is kept."""
    title, papers, welcome = CALLS[name]
    files = write_series(guarded.root / f"call-{title}-{papers}", seed=name, count=1)

    assert guarded.call("echoscu", by=title, papers=papers) is welcome
    assert guarded.call("storescu", by=title, papers=papers, files=files) is welcome
    if not welcome:
        assert "Calling AE Title Not Recognized" in guarded.said(title, papers)

    assert len(guarded.site.held(uids.derive("TEST", name, "study"))) == int(welcome)
    guarded.site.fit()


def test_another_called_title_is_rejected(guarded: Guarded) -> None:
    """Who calls somebody else has the wrong number, on either port."""
    for papers in (None, "modality"):
        assert guarded.call("echoscu", by="MODALITY", papers=papers)
        assert "Called AE Title Not Recognized" in guarded.said("MODALITY", papers, called="SOMEBODY")


def test_doctor_sees_the_certificates_and_each_peer(guarded: Guarded) -> None:
    """The PACS answers C-ECHO over TLS; those who do not answer are named, and the exit status says so."""
    said = zhiying(guarded.site, "doctor", "--json")
    found = {one["check"]: one["result"] for one in said.value}

    assert said.status == 1
    assert (found["DICOM TLS"], found["peer pacs"]) == ("ok", "ok")
    assert {found[f"peer {name}"] for name in ("modality", "pinned", "here", "elsewhere", "secured")} == {"FAIL"}
    assert (found["DICOM port"], found["DICOM TLS port"], found["HTTP port"]) == ("WARN", "WARN", "WARN")
    text = zhiying(guarded.site, "doctor")
    assert text.status == 1
    assert "PEER_UNREACHABLE" in "".join(text.lines)


def test_only_the_tls_port_when_plain_is_false(tmp_path: Path, guarded: Guarded) -> None:
    """Without `plain` nothing listens in the clear; an expired certificate of our own is told before any start."""
    ours, port = guarded.papers["zhiying"], free_port()
    plain_off = "plain = false"
    site = RealSite(tmp_path / "site", Address("STORESCP", guarded.pacs.port), dicom_more=plain_off)
    site.configure(more=tls_section(ours, port))
    with started(site):
        assert dcmtk.caller("echoscu", port, *dcmtk.secured(guarded.papers["modality"]))
        assert not answers(site.dicom_port)
        site.fit()

    site.configure(more=tls_section(guarded.papers["expired"], port))
    served = zhiying(site, "serve")
    assert (served.status, len(served.lines)) == (1, 1), served
    assert served.err.startswith("error TLS_CERTIFICATE_EXPIRED")
    verdicts = {}
    for name in ("expired", "soon over", "zhiying"):
        site.configure(more=tls_section(guarded.papers[name], port))
        verdicts[name] = {one["check"]: one["result"] for one in zhiying(site, "doctor", "--json").value}["DICOM TLS"]
    assert verdicts == {"expired": "FAIL", "soon over": "WARN", "zhiying": "ok"}
