"""A backup of the log is put back, the whole way: images are received, no AI runs, a ceremony, and the AI goes on."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.cosignature import Cosigner
from audit.entry import Kind
from audit.note import Signer
from audit.succession import Reason
from audit.witness import KEY, Witness
from service import succeeding, wire, witnessing
from service.witness_api import WitnessServer
from service.witness_client import get, post
from tests.simulators.pacs import FakePacs
from tests.simulators.site import Site, write_series
from tests.simulators.waiting import until

FROZEN_S = 4.0
"""Long enough for a run: with an approval in force one takes two seconds."""


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[tuple[Witness, int]]:
    """A witness, and the port of its server."""
    folder = tmp_path / "witness"
    folder.mkdir()
    Cosigner.generate("w1.example").save(folder / KEY)
    made = Witness(folder, Cosigner.load(folder / KEY), lambda: int(wire.now().timestamp()))
    server = WitnessServer(made, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield made, server.port
    server.stop()
    thread.join()


@pytest.mark.timeout(600)
def test_a_backup_that_was_put_back(tmp_path: Path, witness: tuple[Witness, int]) -> None:
    """The service says AUDIT_BEHIND_WITNESS, keeps what is sent, logs and releases nothing; after RESTORE it does."""
    keeper, port = witness
    officer = Signer.generate("officer.example")
    (tmp_path / "policy").write_text(f"witness {keeper.vkey} http://127.0.0.1:{port}\nquorum 1\n", encoding="utf-8")
    more = f'[audit]\nwitnesses = {json.dumps(str(tmp_path / "policy"))}\nrestore_keys = ["{officer.vkey}"]\n'
    (tmp_path / "site").mkdir()
    with FakePacs() as pacs:
        site = Site(tmp_path / "site", pacs, more=more)
        ref = site.install_model()
        site.approve(ref)
        keeper.add_log(wire.origin(site.config), wire.log_verifier(site.config))
        shutil.copytree(site.data / "audit", tmp_path / "backup")
        try:
            site.start()
            site.send(write_series(tmp_path / "one"))
            site.run_in("RELEASED")
            # By hand beside the service, whose next round is a minute away: both share the folder.
            desk, _ = witnessing.desk(site.config, None)
            checkpoint, files = witnessing.published(site.config)
            assert desk.push(files, checkpoint, post).reached
            site.stop()
            shutil.rmtree(site.data / "audit")
            shutil.move(tmp_path / "backup", site.data / "audit")
            size = len(site.entries())
            stored = len(pacs.stored)

            site.start(degraded=True)
            checks = site.checks()
            assert checks["audit"] == "AUDIT_BEHIND_WITNESS"
            assert "docs/restore.md" in checks["witnesses"]
            assert set(site.send(write_series(tmp_path / "two", seed="two"))) == {0}
            time.sleep(FROZEN_S)
            assert site.alive
            site.stop()
            assert len(site.entries()) == size
            assert len(pacs.stored) == stored

            note = officer.sign(succeeding.request(site.config, Reason.BACKUP, get).text)
            succeeding.take(site.config, note, get)
            keeper.add_log(wire.origin(site.config), wire.log_verifier(site.config))
            site.approve(ref)
            site.start()
            assert site.run_in("RELEASED", "REFUSED", "FAILED").state == "RELEASED"
            until(lambda: len(pacs.stored) == stored + 2, what="the second study's results")
            site.stop()
        finally:
            site.kill()
    kinds = [entry.kind for entry in site.entries()]
    assert kinds[:2] == [Kind.LOG_START, Kind.RESTORE]
    assert kinds.index(Kind.STATE_CHANGE) < kinds.index(Kind.APPROVAL) < kinds.index(Kind.CALL_INTENT)
    desk, _ = witnessing.desk(site.config, None)
    held = desk.witnessed()
    assert held is not None
    assert held.checkpoint.origin == "test-site.zhiying/audit/2"
