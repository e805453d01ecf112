"""A withdrawal: said once in the log, told to the PACS once, refused with a code, and nothing of the result changes."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from audit.entry import Draft, Entry, Kind
from audit.errors import AuditUnavailable
from dicom_bridge import receipt, uids
from dicom_bridge.delivery import Transport
from dicom_bridge.ledger import Batch, OutboxRefused, OutboxUnavailable, State
from dicom_bridge.outbox import Outbox
from dicom_bridge.peers import Peer
from dicom_bridge.receipt import Receipt
from dicom_bridge.rejection import Reason, rejection_uid
from dicom_bridge.store_scu import SendResult
from service import wire
from service.cli import app
from service.config import load
from service.demo.servers import free_port
from service.results import WITHDRAWN, ResultStyle, ResultWriter, is_denial
from service.store import Run, Store, connect
from service.store import State as RunState
from service.withdrawing import NOTE, Withdrawals
from tests.simulators import findings as phantom
from tests.simulators.audit_log import body
from tests.simulators.real_orthanc import orthanc_for, running
from tests.unit.service.test_results import LOADED, MODEL, SHAPE

CALL, LATER, LATEST = "a1" * 16, "b2" * 16, "c3" * 16
STUDY = str(LOADED.headers[0].StudyInstanceUID)
ADDRESS = Peer("pacs", "TESTPACS", "127.0.0.1", 9)


class Died(BaseException):
    """The process is gone."""


class Desk:
    """A site with a log, results of calls that were released, and an outbox whose PACS takes everything."""

    def __init__(self, folder: Path, peer: Peer = ADDRESS, *, allowed: bool = True, transport: bool = True) -> None:
        self.folder, self.peer, self.path = folder, peer, folder / "zhiying.toml"
        self.write(allowed=allowed)
        self.data = folder / "data"
        self.store = Store(connect(wire.database_url(load(self.path), "runs")))
        self.sent: list[str] = []
        self.told: list[Batch] = []
        self._transport = Transport(store=self._stored) if transport else None

    def write(self, *, allowed: bool, peer: str = "pacs", results: str = "") -> None:
        """The configuration."""
        (self.folder / "data").mkdir(exist_ok=True)
        self.path.write_text(
            f'[site]\nid = "test-site"\n[data]\nfolder = "{self.folder / "data"}"\n[results]\nto = "{peer}"\n'
            f'key_images = ["SC", "GSPS", "KOS"]\nrejection_notes = {str(allowed).lower()}\n{results}'
            f'[[peers]]\nname = "{peer}"\nae_title = "{self.peer.ae_title}"\nhost = "{self.peer.host}"\n'
            f"port = {self.peer.port}\n",
            encoding="utf-8",
        )

    def _stored(self, files: Sequence[Path], *_: Any, **__: Any) -> SendResult:
        self.sent += [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files]
        return SendResult(tuple(0 for _ in files), None)

    def outbox(self) -> Outbox:
        """As the service opens it."""
        return Outbox(
            self.data / "outbox", wire.now, self.told.append, peers={"pacs": self.peer}, transport=self._transport
        )

    def deliver(self) -> None:
        """What a running service does within a second."""
        outbox = self.outbox()
        outbox.run_due("pacs")
        outbox.stop()

    def result(
        self, call: str = CALL, *, after: str | None = None, released: bool = True, lacks: str = ""
    ) -> list[Path]:
        """A call's objects, in the log, and released (but those of the kind `lacks`); `after`: what it supersedes."""
        writer = ResultWriter(self.data / "results", ResultStyle.of(load(self.path)))
        with wire.offline(self.path) as site:
            said = {**body(Kind.CALL_INTENT), "checks": [], "state": "LIVE"}
            intent = site.log.append(Draft(Kind.CALL_INTENT, f"intent:{call}", said, call))
            at = Receipt(intent.index, site.log.receipt(intent.index).note)
            writer.keep(call, phantom.findings(phantom.ellipsoid(SHAPE)))
            written = writer.write(call, MODEL, LOADED, intent.time, at, after)
            outputs: list[Any] = written.outputs
            site.log.append(
                Draft(Kind.CALL_RESULT, f"result:{call}", {**body(Kind.CALL_RESULT), "outputs": outputs}, call)
            )
            held: list[Any] = [{"uid": o["uid"], "digest": o["digest"]} for o in outputs if o["kind"] != lacks]
            if released:
                told = {**body(Kind.RELEASED), "outputs": held, "peer": "pacs"}
                site.log.append(Draft(Kind.RELEASED, f"released:{call}", told, call))
        state = RunState.RELEASED if released else RunState.WRITTEN
        now = wire.now()
        self.store.add(
            Run(
                f"{call}-1",
                STUDY,
                f"sha256:{call * 2}",
                1,
                state,
                "COUNT_MATCHED",
                now,
                now,
                call=call,
                outputs=outputs,
            )
        )
        return writer.files(call)

    def withdraw(self, call: str = CALL, reason: str = "QUALITY", by: str = "li.m") -> Result:
        """The command."""
        words = ["results", "withdraw", call, "--reason", reason, "--by", by, "--config", str(self.path), "--json"]
        return CliRunner().invoke(app, words, env={"COLUMNS": "200"})

    def entries(self, kind: Kind = Kind.WITHDRAWN) -> list[Entry]:
        """Of one kind."""
        with wire.offline(self.path) as site:
            return [one for one in site.log.entries() if one.kind is kind]

    def note(self, call: str = CALL) -> Path:
        """Where the note lies."""
        return self.data / "results" / f"{WITHDRAWN}{call}" / NOTE

    @contextmanager
    def acting(self, **changes: Any) -> Iterator[Withdrawals]:
        """As the service has it."""
        outbox, config = self.outbox(), load(self.path)
        try:
            with wire.offline(self.path) as site:
                given: dict[str, Any] = {
                    "log": site.log,
                    "append": site.log.append,
                    "results": self.data / "results",
                    "style": ResultStyle.of(config),
                    "enqueue": outbox.enqueue,
                    "allowed": config.results.rejection_notes,
                }
                yield Withdrawals(**(given | changes))
        finally:
            outbox.stop()

    def after_release(self, call: str, **changes: Any) -> None:
        """What the service does when a result has been delivered."""
        with self.acting(**changes) as withdrawals:
            withdrawals.superseded(self.store, call)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A site that allows withdrawing, with one released result."""
    made = Desk(tmp_path)
    made.result()
    yield made
    made.store.close()


def digests(folder: Path) -> dict[str, str]:
    """Every file below a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("reason", ["QUALITY", "SAFETY"])
def test_a_person_withdraws_a_result(desk: Desk, reason: str) -> None:
    """One entry with who, why and what; one note of that entry, delivered once; the result's files as they were."""
    before = digests(desk.data / "results" / CALL)
    done = desk.withdraw(reason=reason)
    assert done.exit_code == 0, done.output
    (entry,) = desk.entries()
    release = desk.entries(Kind.RELEASED)[0]
    said = json.loads(done.stdout)
    assert (said["index"], said["note"], said["peer"]) == (entry.index, rejection_uid(CALL), "pacs")
    assert {key: entry.body[key] for key in ("reason", "person", "by", "peer", "note")} == {
        "reason": reason,
        "person": "li.m",
        "by": None,
        "peer": "pacs",
        "note": rejection_uid(CALL),
    }
    uids_of = [one["uid"] for one in release.body["outputs"]]  # type: ignore[index,union-attr,call-overload]
    assert [one["uid"] for one in entry.body["outputs"]] == uids_of  # type: ignore[index,union-attr,call-overload]
    assert len(uids_of) == 5
    desk.deliver()
    desk.deliver()
    assert desk.sent == [rejection_uid(CALL)]
    assert [(batch.id, is_denial(batch.id)) for batch in desk.told] == [(f"{WITHDRAWN}{CALL}", True)]
    ds = dcmread(desk.note())
    assert ds.ConceptNameCodeSequence[0].CodeValue == {"QUALITY": "113001", "SAFETY": "113037"}[reason]
    with wire.offline(desk.path) as site:
        verifier = wire.log_verifier(load(desk.path))
        assert receipt.read(receipt.read_bytes(desk.note().read_bytes()), verifier)[0].index == entry.index
        assert site.log.find(f"released:{CALL}") is not None
    assert digests(desk.data / "results" / CALL) == before


def test_what_the_peer_refused_is_not_named(desk: Desk) -> None:
    """A key image that the PACS never took is not among the objects that it is told to hide."""
    desk.result(LATER, lacks="GSPS")
    assert desk.withdraw(LATER).exit_code == 0
    named = {
        str(i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for i in dcmread(desk.note(LATER)).ContentSequence
        if "ReferencedSOPSequence" in i
    }
    assert uids.derive("GSPS", LATER) not in named
    assert {uids.derive("SEG", LATER), uids.derive("SR", LATER)} <= named


REFUSALS: dict[str, tuple[str, Callable[[Desk], Result]]] = {
    "never heard of": ("CALL_NOT_RELEASED", lambda desk: desk.withdraw("0" * 32)),
    "never released": ("CALL_NOT_RELEASED", lambda desk: desk.result(LATER, released=False) and desk.withdraw(LATER)),  # type: ignore[return-value]
    "a reason of ours": ("COMMAND_REFUSED", lambda desk: desk.withdraw(reason="SUPERSEDED")),
    "no reason": ("COMMAND_REFUSED", lambda desk: desk.withdraw(reason="because")),
    "a person's number": ("WITHDRAWAL_INVALID", lambda desk: desk.withdraw(by="110101199003077")),
    "nobody": ("WITHDRAWAL_INVALID", lambda desk: desk.withdraw(by="")),
    "not allowed": ("REJECTION_NOTES_OFF", lambda desk: desk.write(allowed=False) or desk.withdraw()),  # type: ignore[func-returns-value]
    "a file is gone": (
        "RESULT_GONE",
        lambda desk: (desk.data / "results" / CALL / "seg.dcm").unlink() or desk.withdraw(),  # type: ignore[func-returns-value]
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_has_a_code_and_leaves_nothing(desk: Desk, case: str) -> None:
    """Nothing is in the log, nothing on its way, and no note lies about."""
    code, ask = REFUSALS[case]
    done = ask(desk)
    assert (done.exit_code, done.output.split(":")[0]) == (1, f"error {code}")
    assert desk.entries() == []
    desk.deliver()
    assert desk.sent == []
    assert not desk.note().exists()


def test_a_second_time_is_refused(desk: Desk) -> None:
    """Whoever asks again, for whatever reason: one entry, one note, one delivery."""
    assert desk.withdraw().exit_code == 0
    note = desk.note().read_bytes()
    desk.deliver()
    again = desk.withdraw(reason="SAFETY", by="wang.q")
    assert (again.exit_code, again.output.split(":")[0]) == (1, "error CALL_WITHDRAWN")
    desk.deliver()
    assert (len(desk.entries()), desk.sent, desk.note().read_bytes()) == (1, [rejection_uid(CALL)], note)


@pytest.mark.parametrize("where", ["before the note", "before the outbox"])
def test_what_was_cut_off_is_made_good_by_the_same_again(desk: Desk, where: str) -> None:
    """A crash after the entry: the second time finds it, and sends what the first would have."""

    def die(*_: object) -> None:
        raise Died

    with desk.acting(enqueue=die) as withdrawals, pytest.raises(Died):
        withdrawals.withdraw(CALL, Reason.QUALITY, person="li.m")
    note = desk.note().read_bytes()
    if where == "before the note":
        desk.note().unlink()
    (entry,) = desk.entries()
    assert "CALL_WITHDRAWN" in desk.withdraw(reason="SAFETY", by="wang.q").output
    desk.deliver()
    assert (desk.sent, desk.entries()) == ([rejection_uid(CALL)], [entry])
    assert desk.note().read_bytes() == note


def test_a_peer_that_is_not_named_any_more_gets_nothing(desk: Desk) -> None:
    """Where the result went is where the note must go; to another PACS it would name what that one has not."""
    desk.write(allowed=True, peer="other")
    done = desk.withdraw()
    assert "PEER_NOT_NAMED" in done.output


# ---- a later result stands in its place -----------------------------------------------------------------------------


def test_a_superseded_result_is_withdrawn_after_the_new_one_is_there(desk: Desk) -> None:
    """One note, of the old call, by the new one; said once, however often the release is told."""
    desk.result(LATER, after=CALL)
    for _ in range(2):
        desk.after_release(LATER)
        desk.deliver()
    (entry,) = desk.entries()
    assert (entry.call, entry.body["reason"], entry.body["by"], entry.body["person"]) == (
        CALL,
        "SUPERSEDED",
        LATER,
        None,
    )
    assert desk.sent == [rejection_uid(CALL)]
    assert dcmread(desk.note()).ConceptNameCodeSequence[0].CodeValue == "113001"


def test_a_chain_of_results_leaves_one(desk: Desk) -> None:
    """Each is withdrawn by the one after it, and the newest by none; an old one that arrives late, too."""
    desk.result(LATER, after=CALL, released=False)
    desk.result(LATEST, after=LATER)
    desk.after_release(LATEST)
    assert desk.entries() == []
    with wire.offline(desk.path) as site:
        outputs: list[Any] = [{"uid": o["uid"], "digest": o["digest"]} for o in desk.store.of_call(LATER)[0].outputs]
        told = {**body(Kind.RELEASED), "outputs": outputs, "peer": "pacs"}
        site.log.append(Draft(Kind.RELEASED, f"released:{LATER}", told, LATER))
    desk.after_release(LATER)
    assert {(e.call, e.body["by"]) for e in desk.entries()} == {(CALL, LATER), (LATER, LATEST)}


def test_without_the_setting_nothing_is_withdrawn(desk: Desk) -> None:
    """Off by default: the new report names its predecessor, and that is all."""
    desk.write(allowed=False)
    desk.result(LATER, after=CALL)
    desk.after_release(LATER)
    assert desk.entries() == []
    (desk.folder / "empty.toml").write_text("")
    assert not load(desk.folder / "empty.toml").results.rejection_notes


def test_results_beside_each_other_and_notes_withdraw_nothing(desk: Desk) -> None:
    """Another model's result of the same study names no predecessor; a batch that is no result has no study."""
    desk.result(LATER)
    desk.after_release(LATER)
    desk.after_release(f"{WITHDRAWN}{CALL}")
    assert desk.entries() == []


def test_a_note_that_cannot_be_made_does_not_hold_the_new_result_back(desk: Desk) -> None:
    """A line with a code; what may be repeated (outbox, log away) is raised, so that the release is told again."""
    desk.result(LATER, after=CALL)
    (desk.data / "results" / CALL / "seg.dcm").unlink()
    with capture_logs() as lines:
        desk.after_release(LATER)
    assert [(one["event"], one["code"]) for one in lines] == [("rejection_not_sent", "RESULT_GONE")]
    assert desk.entries() == []


@pytest.mark.parametrize("error", [OutboxUnavailable("LEDGER_UNAVAILABLE", "away"), AuditUnavailable("away")])
def test_what_may_pass_is_raised(desk: Desk, error: Exception) -> None:
    """And the next time does it."""
    desk.result(LATER, after=CALL)

    def away(*_: object) -> Any:
        raise error

    with pytest.raises(type(error)):
        desk.after_release(LATER, **{"enqueue" if isinstance(error, OutboxUnavailable) else "append": away})
    desk.after_release(LATER)
    desk.deliver()
    assert (len(desk.entries()), desk.sent) == (1, [rejection_uid(CALL)])


def test_a_refused_batch_is_a_line_and_no_more(desk: Desk) -> None:
    """An outbox that refuses for good, such as for a peer of another configuration."""
    desk.result(LATER, after=CALL)

    def refuse(*_: object) -> None:
        raise OutboxRefused("PEER_NOT_NAMED", "no such peer")

    with capture_logs() as lines:
        desk.after_release(LATER, enqueue=refuse)
    assert [one["code"] for one in lines] == ["PEER_NOT_NAMED"]


# ---- who else must know ---------------------------------------------------------------------------------------------


def test_studies_show_says_it(desk: Desk) -> None:
    """Why, who and when, for people and for programs; None before."""

    def shown() -> Any:
        words = ["studies", "show", STUDY, "--config", str(desk.path), "--json"]
        return json.loads(CliRunner().invoke(app, words).stdout)["runs"][0]["withdrawn"]

    assert shown() is None
    desk.withdraw()
    said = shown()
    assert (said["reason"], said["person"], said["by"], said["index"]) == (
        "QUALITY",
        "li.m",
        None,
        desk.entries()[0].index,
    )
    plain = CliRunner().invoke(app, ["studies", "show", STUDY, "--config", str(desk.path)], env={"COLUMNS": "400"})
    assert "QUALITY li.m" in plain.stdout


def test_reconciling_takes_the_note_for_ours(desk: Desk) -> None:
    """Its entry explains it, and its receipt is that entry's; before the withdrawal nobody could have made it."""
    desk.withdraw()
    folder = desk.folder / "taken"
    folder.mkdir()
    for path in (*(desk.data / "results" / CALL).glob("*.dcm"), desk.note()):
        (folder / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    words = ["audit", "reconcile", "--objects", str(folder), "--config", str(desk.path), "--json"]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, json.loads(done.stdout)["findings"]) == (0, [])
    assert json.loads(done.stdout)["receipts_checked"] == 6


def test_a_real_pacs_gets_the_note_and_keeps_the_result_byte_for_byte(tmp_path: Path) -> None:
    """Orthanc: five objects and then the note; what it gives back of the five is what was sent, before and after."""
    http, dicom, ours = free_port(), free_port(), free_port()
    with running(orthanc_for(tmp_path / "pacs", ours, ports=(http, dicom))) as orthanc:
        desk = Desk(tmp_path, Peer("pacs", orthanc.ae_title, "127.0.0.1", dicom), transport=False)
        files = desk.result()
        outbox = desk.outbox()
        outbox.enqueue(CALL, "pacs", files)
        outbox.run_due("pacs")
        assert outbox.state(CALL) is State.DELIVERED
        outbox.stop()

        def file(identifier: str) -> bytes:
            return httpx.get(f"{orthanc.url}/instances/{identifier}/file", trust_env=False).content

        def held() -> dict[str, str]:
            return {uid: hashlib.sha256(file(one)).hexdigest() for uid, one in orthanc.instances(STUDY).items()}

        before = held()
        assert len(before) == 5
        assert desk.withdraw(reason="SAFETY").exit_code == 0
        desk.deliver()
        after = held()
        assert set(after) - set(before) == {rejection_uid(CALL)}
        assert {uid: after[uid] for uid in before} == before
        note = dcmread(io.BytesIO(file(orthanc.instances(STUDY)[rejection_uid(CALL)])))
        assert note.ConceptNameCodeSequence[0].CodeValue == "113037"
        assert [batch.id for batch in desk.told] == [CALL, f"{WITHDRAWN}{CALL}"]
        desk.store.close()
