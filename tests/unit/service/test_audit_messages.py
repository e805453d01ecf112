"""The log's entries reach the repository as DICOM audit messages: each once, in order, over restarts and absences."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.entry import Draft, Kind
from dicom_bridge.errors import BridgeError
from service import wire
from service.audit_messages import AuditMessages
from service.config import Config, load
from tests.simulators.audit_log import body, draft
from tests.simulators.certificates import Authority
from tests.simulators.syslog_server import LOOPBACK
from tests.simulators.syslog_server import Repository as Server


class Site:
    """A hospital with a repository for audit messages."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder / "site")
        ours = authority.issue("zhiying")
        self.server = Server(authority.issue("repository"))
        self.config = folder / "zhiying.toml"
        self.config.write_text(
            f'[site]\nid = "test-site"\n[data]\nfolder = "{folder / "data"}"\n'
            f'[audit.syslog]\nhost = "{LOOPBACK}"\nport = {self.server.port}\n'
            f'certificate = "{ours.certificate}"\nkey = "{ours.key}"\nauthority = "{ours.authority}"\n',
            encoding="utf-8",
        )

    def settings(self) -> Config:
        """Its configuration."""
        return load(self.config)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site whose repository is up."""
    made = Site(tmp_path)
    yield made
    made.server.stop()


def kinds(server: Server) -> list[str]:
    """The event type of each message that has come."""
    found = []
    for text in server.texts:
        event = ET.fromstring(text).find("EventIdentification/EventID")  # noqa: S314 - from our own sender
        assert event is not None
        found.append(event.attrib["csd-code"])
    return found


@pytest.mark.slow
def test_the_log_goes_out_and_goes_on_after_a_restart(site: Site) -> None:
    """The start, an assembled study, a call; stopped; what was logged meanwhile comes with the next start, once."""
    settings = site.settings()
    syslog = settings.audit.syslog
    assert syslog is not None
    with wire.offline(site.config) as opened:
        messages = AuditMessages(settings, syslog, opened.log, {})
        messages.start()
        assert messages.running
        opened.log.append(draft(1))
        opened.log.append(Draft(Kind.HEARTBEAT, "heartbeat:1", {"interval_s": 60}))
        opened.log.append(Draft(Kind.CALL_INTENT, "intent:1", body(Kind.CALL_INTENT), "c" * 32))
        site.server.wait(lambda: len(site.server.texts) >= 3)
        messages.stop()
        assert not messages.running
        before = kinds(site.server)
        opened.log.append(draft(2))
        again = AuditMessages(settings, syslog, opened.log, {})
        again.start()
        site.server.wait(lambda: len(site.server.texts) >= len(before) + 1)
        again.stop()
        assert again.state.waiting == 0
    assert before == ["110100", "110103", "110103"]
    assert kinds(site.server) == [*before, "110103"]


def test_a_certificate_that_is_wrong_is_told_at_start(site: Site, tmp_path: Path) -> None:
    """In words, before anything runs."""
    text = site.config.read_text(encoding="utf-8")
    site.config.write_text(text.replace('\nkey = "', f'\nkey = "{tmp_path}/none/'), encoding="utf-8")
    settings = site.settings()
    assert settings.audit.syslog is not None
    with wire.offline(site.config) as opened, pytest.raises(BridgeError, match="TLS"):
        AuditMessages(settings, settings.audit.syslog, opened.log, {})
