"""The hospital's side: only verified cosignatures are kept, `witnessed` never holds less than it held."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import durable, merkle
from audit.checkpoint import Checkpoint
from audit.cosignature import CosignatureVerifier, Cosigner
from audit.durable import Disk
from audit.errors import AuditCorrupt, ProofInvalid
from audit.files import Files
from audit.growth import Standing, TreeView, standing
from audit.layout import CHECKPOINT, TileName
from audit.note import Note, Signature, Signer, parse_note
from audit.policy import Policy, PolicyInvalid, WitnessAt
from audit.witness import Witness, origin_hash
from audit.witnessing import (
    COLLECTED_MAX,
    Reply,
    SizeDiffers,
    WitnessAhead,
    WitnessAnswerBad,
    WitnessDeclined,
    Witnessing,
    WitnessingError,
    WitnessUnreachable,
    judge,
    make_request,
    open_latest,
)
from tests.simulators.audit_log import SIGNER, Died, FaultyDisk, fill, open_log
from tests.simulators.witnessed_log import ORIGIN, FakeLeaves, Now, body, head, knowing_witness, leaves

NAMES = ("w1.example", "w2.example", "w3.example")


class Net:
    """Three witnesses by address, without a network. `down`: who does not answer."""

    def __init__(self, folder: Path, quorum: int = 2) -> None:
        self.now = Now()
        self.witnesses = {f"http://{name}": knowing_witness(folder / name, name, self.now) for name in NAMES}
        self.down: set[str] = set()
        self.asked: list[str] = []
        at = (WitnessAt(CosignatureVerifier.parse(one.vkey), url) for url, one in self.witnesses.items())
        self.policy = Policy(tuple(at), quorum)
        self.folder = folder / "hospital"

    def post(self, url: str, sent: bytes) -> Reply:
        """What an HTTP client would bring."""
        url, path = url.rsplit("/", 1)
        assert path == "add-checkpoint"
        self.asked.append(url)
        if url in self.down:
            raise WitnessUnreachable("down")
        answer = self.witnesses[url].answer(sent)
        return Reply(answer.status, answer.body)

    def desk(self, disk: Disk = durable) -> Witnessing:
        """The hospital's side over its own folder."""
        return Witnessing(self.folder, self.policy, SIGNER.verifier, disk)

    def push(self, size: int, desk: Witnessing | None = None) -> tuple[bool, dict[str, str]]:
        """One round; whether the quorum is reached, and the code of each witness that gave none."""
        hashes = leaves(size)
        done = (desk or self.desk()).push(FakeLeaves(hashes), head(hashes), self.post)
        return done.reached, {one.witness: one.error.code for one in done.outcomes if one.error is not None}

    def held(self) -> tuple[int, tuple[str, ...]]:
        """Size of `witnessed`, and who signed it."""
        held = self.desk().witnessed()
        assert held is not None
        assert held.reached
        return held.checkpoint.size, tuple(each.verifier.name for each in held.cosigned)


# ---- proofs from tiles -----------------------------------------------------------------------------------------------


@given(new=st.integers(1, 1200), data=st.data())
@settings(max_examples=60, deadline=None)
def test_roots_and_proofs_from_tiles_are_those_of_the_definition(new: int, data: st.DataObject) -> None:
    """For any two sizes: the same root and proof as RFC 6962's own recursion over all leaves."""
    old = data.draw(st.integers(1, new))
    hashes = leaves(new)
    tree = TreeView(FakeLeaves(hashes), new)
    assert tree.root_at(old) == merkle.root(hashes[:old])
    assert tree.consistency(old) == merkle.consistency_proof(old, hashes)


def test_roots_and_proofs_of_small_trees() -> None:
    """All sizes up to 40, with 0; other sizes are refused."""
    for new in range(41):
        hashes = leaves(new)
        tree = TreeView(FakeLeaves(hashes), new)
        assert [tree.root_at(old) for old in range(new + 1)] == [merkle.root(hashes[:old]) for old in range(new + 1)]
        assert tree.consistency(0) == ()
        for old in range(1, new + 1):
            assert tree.consistency(old) == merkle.consistency_proof(old, hashes)
        for bad in (-1, new + 1):
            with pytest.raises(ProofInvalid):
                tree.root_at(bad)
            with pytest.raises(ProofInvalid):
                tree.consistency(bad)


def test_a_large_log_costs_a_few_tiles() -> None:
    """70,000 entries: three levels of tiles, a proof from a few reads."""
    hashes = leaves(70_000)
    fake = FakeLeaves(hashes)
    assert TreeView(fake, 70_000).consistency(12_345) == merkle.consistency_proof(12_345, hashes)
    assert fake.reads < 40


def test_requests_come_from_a_real_logs_files(tmp_path: Path) -> None:
    """What the log published, through audit.files: a witness cosigns each growth; changed tiles are told, not sent."""
    log = open_log(tmp_path / "log")
    witness = knowing_witness(tmp_path / "w")
    files = Files(tmp_path / "log", ORIGIN, SIGNER.verifier, durable)
    old, sizes = 0, []
    for many in (range(3), range(3, 260), range(260, 300)):
        fill(log, many)
        checkpoint = files.checkpoint(CHECKPOINT)
        assert checkpoint is not None
        assert witness.answer(make_request(files, checkpoint, old).format()).status == 200
        old = checkpoint.size
        sizes.append(old)
    log.close()
    assert sizes == sorted(set(sizes))
    checkpoint = files.checkpoint(CHECKPOINT)
    assert checkpoint is not None
    tile = tmp_path / "log" / TileName(0, 1, checkpoint.size - 256).path
    tile.write_bytes(bytes(len(tile.read_bytes())))
    with pytest.raises(AuditCorrupt):
        make_request(files, checkpoint, 3)


# ---- the opening check -----------------------------------------------------------------------------------------------


def _standing(size: int, witnessed: Checkpoint) -> Standing:
    hashes = leaves(size)
    return standing(head(hashes), TreeView(FakeLeaves(hashes), size).root_at, witnessed)


def test_the_opening_check() -> None:
    """All pairs of sizes: consistent at or above what was witnessed, behind below it, forked where roots differ."""
    for ours in range(1, 12):
        for seen in range(1, 12):
            expected = Standing.CONSISTENT if seen <= ours else Standing.BEHIND
            assert _standing(ours, head(leaves(seen))) is expected
            if seen <= ours:
                assert _standing(ours, head(leaves(seen, forked_at=seen - 1))) is Standing.FORKED
    assert _standing(5, head(leaves(5), origin="other.example")) is Standing.FORKED
    assert _standing(5, head([])) is Standing.CONSISTENT
    assert _standing(0, head(leaves(1))) is Standing.BEHIND


# ---- policies --------------------------------------------------------------------------------------------------------

V1, V2, V3 = (Cosigner.generate(name).vkey for name in NAMES)
LOG = SIGNER.vkey


def test_a_policy_is_read_and_given_to_readers() -> None:
    """Log, witnesses with and without an address, quorum; readers get the same without addresses."""
    some = f"# who\nlog {LOG}\n\nwitness {V1} https://w1.example/x\nwitness {V2}\n"
    text = f"{some}witness {V3} http://127.0.0.1:81\nquorum 2\n"
    policy = Policy.parse(text)
    assert [one.url for one in policy.witnesses] == ["https://w1.example/x", None, "http://127.0.0.1:81"]
    assert policy.for_readers() == f"log {LOG}\nwitness {V1}\nwitness {V2}\nwitness {V3}\nquorum 2\n"
    assert Policy.parse(policy.for_readers()).verifiers == policy.verifiers
    assert policy.named("w2.example").verifier.vkey == V2
    one, two, _ = policy.verifiers
    stranger = Cosigner.generate("w1.example").verifier
    assert [policy.reached(by) for by in ((), (one,), (one, one), (one, stranger), (one, two))] == [False] * 4 + [True]
    with pytest.raises(PolicyInvalid):
        policy.named("w9.example")


BAD_POLICIES = [
    "",
    "quorum 1\n",
    f"witness {V1}\n",
    f"witness {V1}\nquorum 0\n",
    f"witness {V1}\nquorum 2\n",
    f"witness {V1}\nquorum none\n",
    f"witness {V1}\nquorum 01\n",
    f"witness {V1}\nquorum 1\nquorum 1\n",
    f"witness {V1}\nquorum 1\nwitness {V2}\n",
    f"witness {V1}\nwitness {V1}\nquorum 1\n",
    f"witness {V1} ftp://x\nquorum 1\n",
    f"witness {V1} https://x/\nquorum 1\n",
    f"witness {V1} https://x y\nquorum 1\n",
    f"witness  {V1}\nquorum 1\n",
    f"witness\t{V1}\nquorum 1\n",
    f"witness {LOG}\nquorum 1\n",
    f"log {V1}\nwitness {V1}\nquorum 1\n",
    f"Witness {V1}\nquorum 1\n",
    f"witness {V1}\r\nquorum 1\r\n",
    f"witness {V1}\nwitness {Cosigner.generate('w1.example').vkey}\nquorum 1\n",
    "".join(f"witness {Cosigner.generate(f'w{n}.example').vkey}\n" for n in range(33)) + "quorum 1\n",
]


# Keys are new each time, and names of tests must not be.
@pytest.mark.parametrize("text", BAD_POLICIES, ids=range(len(BAD_POLICIES)))
def test_bad_policies_are_refused(text: str) -> None:
    """No quorum, one that cannot be reached or that asks for nobody, one organisation twice, anything loose."""
    with pytest.raises(PolicyInvalid):
        Policy.parse(text)


def test_one_key_under_two_names_counts_not_twice() -> None:
    """A witness's key is who it is; so is a log's that would witness itself."""
    key = CosignatureVerifier.parse(V1).key
    twice = (WitnessAt(CosignatureVerifier("a", key)), WitnessAt(CosignatureVerifier("b", key)))
    with pytest.raises(PolicyInvalid):
        Policy(twice, 1)
    with pytest.raises(PolicyInvalid):
        Policy((WitnessAt(CosignatureVerifier("a", SIGNER.verifier.key)),), 1, (SIGNER.verifier,))


# ---- judging answers -------------------------------------------------------------------------------------------------


def test_answers_are_judged_before_anything_is_kept(tmp_path: Path) -> None:
    """The table of what may come back for a checkpoint of 5 entries; only the first row is believed."""
    net = Net(tmp_path)
    url, *_ = net.witnesses
    w1, w2 = net.policy.witnesses[:2]
    good = net.witnesses[url].answer(body(0, leaves(5))).body
    other = net.witnesses["http://w2.example"].answer(body(0, leaves(6))).body
    checkpoint = head(leaves(5))
    assert judge(checkpoint, w1, Reply(200, good)).verifier == w1.verifier
    assert judge(checkpoint, w1, Reply(200, other + good)).verifier == w1.verifier
    rows: list[tuple[WitnessAt, int, bytes, type[WitnessingError]]] = [
        (w2, 200, good, WitnessAnswerBad),
        (w2, 200, other, WitnessAnswerBad),
        (w1, 200, b"", WitnessAnswerBad),
        (w1, 200, b"\xff", WitnessAnswerBad),
        (w1, 200, good[:-1], WitnessAnswerBad),
        (w1, 200, good.replace(b"A", b"B", 1), WitnessAnswerBad),
        (w1, 200, b"5\n", WitnessAnswerBad),
        (w1, 409, b"5\n", SizeDiffers),
        (w1, 409, b"0\n", SizeDiffers),
        (w1, 409, b"6\n", WitnessAhead),
        (w1, 409, b"05\n", WitnessUnreachable),
        (w1, 409, b"", WitnessUnreachable),
        (w1, 400, b"", WitnessDeclined),
        (w1, 403, b"", WitnessDeclined),
        (w1, 404, b"", WitnessDeclined),
        (w1, 422, b"", WitnessDeclined),
        (w1, 500, b"", WitnessUnreachable),
        (w1, 302, good, WitnessUnreachable),
        (w1, 201, good, WitnessUnreachable),
    ]
    desk = net.desk()
    for witness, status, said, error in rows:
        with pytest.raises(error):
            desk.take(checkpoint, witness, Reply(status, said))
    assert desk.witnessed() is None
    assert not net.folder.exists()


def test_what_a_witness_serves_is_verified(tmp_path: Path) -> None:
    """For the opening check: our signature, our origin, its cosignature; else it is no evidence."""
    net = Net(tmp_path)
    w1, w2 = net.policy.witnesses[:2]
    net.push(5)
    served = net.witnesses["http://w1.example"].latest(origin_hash(ORIGIN))
    assert served is not None
    assert open_latest(served.encode(), SIGNER.verifier, ORIGIN, w1).size == 5
    for note, key, origin, witness in (
        (served, Signer.generate(SIGNER.name).verifier, ORIGIN, w1),
        (served, SIGNER.verifier, "other.example", w1),
        (served, SIGNER.verifier, ORIGIN, w2),
        (head(leaves(5)).note, SIGNER.verifier, ORIGIN, w1),
        ("404", SIGNER.verifier, ORIGIN, w1),
    ):
        with pytest.raises(WitnessAnswerBad):
            open_latest(note.encode(), key, origin, witness)


# ---- rounds ----------------------------------------------------------------------------------------------------------


def test_two_of_three_are_a_quorum(tmp_path: Path) -> None:
    """One down: reached, and said who was missing; two down: not reached, what was witnessed stays."""
    net = Net(tmp_path)
    net.down = {"http://w3.example"}
    assert net.push(5) == (True, {"w3.example": "WITNESS_UNREACHABLE"})
    assert net.held() == (5, ("w1.example", "w2.example"))
    net.down = {"http://w3.example", "http://w2.example"}
    reached, errors = net.push(9)
    assert (reached, set(errors)) == (False, {"w2.example", "w3.example"})
    assert net.held() == (5, ("w1.example", "w2.example"))
    net.down = {"http://w1.example"}
    assert net.push(9)[0]  # the line of w1 was kept, so w2 and w3 are more than enough
    assert net.held() == (9, NAMES)


def test_the_same_checkpoint_gains_lines_and_loses_none(tmp_path: Path) -> None:
    """The late witness's line joins the others; those that are down take none away."""
    net = Net(tmp_path)
    net.down = {"http://w2.example"}
    assert net.push(5)[0]
    net.down = {"http://w1.example", "http://w3.example"}
    assert net.push(5)[0]
    assert net.held() == (5, NAMES)
    net.down = set(net.witnesses)
    assert net.push(5)[0]
    assert net.held() == (5, NAMES)


def test_a_witness_that_was_away_is_asked_from_its_own_size(tmp_path: Path) -> None:
    """What we hold tells its size without asking; where others asked meanwhile, its answer does."""
    net = Net(tmp_path)
    net.push(5)
    net.down = {"http://w3.example"}
    net.push(9)
    net.down, net.asked = set(), []
    assert net.push(14) == (True, {})
    assert len(net.asked) == 3
    net.witnesses["http://w1.example"].answer(body(14, leaves(20)))
    net.asked = []
    assert net.push(25) == (True, {})
    assert len(net.asked) == 4
    assert net.held() == (25, NAMES)


def test_nothing_of_ours_left_still_finds_the_way(tmp_path: Path) -> None:
    """A lost folder: the first answers are conflicts that name the sizes."""
    net = Net(tmp_path)
    net.push(5)
    net.folder = tmp_path / "another"
    assert net.push(9) == (True, {})
    assert net.push(9) == (True, {})


def test_a_backup_and_a_fork_are_told(tmp_path: Path) -> None:
    """A smaller tree than witnessed, another root at its size, another history: each has its code, nothing is kept."""
    net = Net(tmp_path)
    net.push(9)
    net.folder = tmp_path / "another"
    assert net.push(5) == (False, dict.fromkeys(NAMES, "WITNESS_AHEAD"))
    for size, code in ((9, "WITNESS_FORKED"), (12, "WITNESS_DECLINED")):
        hashes = leaves(size, forked_at=4)
        done = net.desk().push(FakeLeaves(hashes), head(hashes), net.post)
        assert [one.error.code for one in done.outcomes if one.error] == [code] * 3
    assert net.desk().witnessed() is None


def test_two_roots_of_ours_at_one_size_are_corruption(tmp_path: Path) -> None:
    """We hold our own signature under the one: the other is never written over it."""
    net = Net(tmp_path)
    net.push(5)
    forked = head(leaves(5, forked_at=2))
    fresh = knowing_witness(tmp_path / "fresh", "w1.example")
    trusted = WitnessAt(CosignatureVerifier.parse(fresh.vkey))
    desk = Witnessing(net.folder, Policy((*net.policy.witnesses[1:], trusted), 2), SIGNER.verifier)
    answer = fresh.answer(body(0, leaves(5, forked_at=2)))
    with pytest.raises(AuditCorrupt):
        desk.take(forked, trusted, Reply(answer.status, answer.body))
    assert net.held()[0] == 5


def test_a_witness_that_lies_about_its_size_does_not_hold_us_up(tmp_path: Path) -> None:
    """Another size at each answer: a few tries, then it counts as away."""
    net = Net(tmp_path)
    sizes = iter(range(1, 100))

    def post(url: str, sent: bytes) -> Reply:
        return Reply(409, b"%d\n" % next(sizes)) if url.startswith("http://w1") else net.post(url, sent)

    done = net.desk().push(FakeLeaves(leaves(50)), head(leaves(50)), post)
    assert done.reached
    assert [one.error.code for one in done.outcomes if one.error] == ["WITNESS_UNREACHABLE"]
    assert next(sizes) == 4


# ---- files -----------------------------------------------------------------------------------------------------------


def test_an_air_gap_by_files_in_any_order(tmp_path: Path) -> None:
    """Requests and answers travel as bytes; answers of an older checkpoint arrive late and lose nothing."""
    net = Net(tmp_path)
    one, two, _ = (net.policy.witnesses[n] for n in range(3))
    desk = net.desk()
    early, late = leaves(5), leaves(9)

    def courier(witness: WitnessAt, hashes: list[bytes]) -> Reply:
        asked = make_request(FakeLeaves(hashes), head(hashes), desk.last_size(witness.verifier)).format()
        return Reply.of_file(net.witnesses[f"http://{witness.verifier.name}"].answer(asked).body)

    answers = [courier(one, early), courier(two, early)]
    assert not desk.take(head(early), one, answers[0])
    assert not desk.take(head(late), one, courier(one, late))
    assert desk.take(head(early), two, answers[1])
    assert net.held() == (5, ("w1.example", "w2.example"))
    assert desk.last_size(one.verifier) == 9
    assert desk.take(head(late), two, courier(two, late))
    assert net.held() == (9, ("w1.example", "w2.example"))
    # The answer to an old request: a conflict, as a file, that names the size.
    stale = net.witnesses["http://w1.example"].answer(body(5, leaves(12))).body
    with pytest.raises(SizeDiffers) as told:
        desk.take(head(leaves(12)), one, Reply.of_file(stale))
    assert told.value.size == 9


def test_a_quorum_that_comes_late_replaces_nothing_larger(tmp_path: Path) -> None:
    """An older checkpoint reaches its quorum after a newer one did: `witnessed` stays at the newer."""
    net = Net(tmp_path, quorum=1)
    one, two, _ = net.policy.witnesses
    desk, old, new = net.desk(), leaves(5), leaves(9)
    first = net.witnesses["http://w1.example"].answer(body(0, new))
    late = net.witnesses["http://w2.example"].answer(body(0, old))
    assert desk.take(head(new), one, Reply(first.status, first.body))
    assert desk.take(head(old), two, Reply(late.status, late.body))
    assert net.held() == (9, ("w1.example",))
    assert desk.last_size(two.verifier) == 5


def test_a_crash_at_any_write_leaves_what_was_witnessed(tmp_path: Path) -> None:
    """Killed at each write of a round: `witnessed` holds its quorum, at 5 or at 9; a later round goes on."""
    for at in range(12):
        for after in (False, True):
            folder = tmp_path / f"{at}{after}"
            folder.mkdir()
            net = Net(folder)
            net.push(5)
            disk = FaultyDisk(net.folder, at=at, after=after, dies=True)
            try:
                net.push(9, net.desk(disk))
            except Died:
                assert net.held()[0] in {5, 9}
            assert net.push(14) == (True, {})
            assert net.held() == (14, NAMES)


def test_what_waits_for_a_quorum_is_bounded(tmp_path: Path) -> None:
    """Witnesses away for long: the newest few checkpoints with one line each, and what was witnessed before."""
    net = Net(tmp_path)
    net.push(2)
    net.down = {"http://w2.example", "http://w3.example"}
    for size in range(3, 3 + COLLECTED_MAX + 10):
        assert not net.push(size)[0]
    kept = sorted(int(path.name) for path in (net.folder / "collected").iterdir())
    assert kept == list(range(13, 3 + COLLECTED_MAX + 10))
    assert net.held() == (2, NAMES)


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text[:-1],
        lambda text: text.replace("\n5\n", "\n6\n"),
        lambda _: "",
        lambda text: parse_note(text).text + "\n" + parse_note(text).signatures[1].format(),
        lambda text: Note(parse_note(text).text, (*parse_note(text).signatures[:1], _forged(text))).format(),
    ],
)
def test_a_changed_file_is_corruption(tmp_path: Path, harm: Callable[[str], str]) -> None:
    """What was kept is verified at each reading."""
    net = Net(tmp_path)
    net.push(5)
    path = net.folder / "witnessed"
    path.write_text(harm(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(AuditCorrupt):
        net.desk().witnessed()


def test_a_file_with_fewer_lines_or_a_stricter_policy_is_no_quorum(tmp_path: Path) -> None:
    """Whoever reads is told; nothing is taken for witnessed that is not by today's policy."""
    net = Net(tmp_path)
    net.push(5)
    path = net.folder / "witnessed"
    whole = parse_note(path.read_text(encoding="utf-8"))
    path.write_text(Note(whole.text, whole.signatures[:2]).format(), encoding="utf-8")
    held = net.desk().witnessed()
    assert held is not None
    assert not held.reached


def _forged(text: str) -> Signature:
    first, second = parse_note(text).signatures[1:3]
    return Signature(first.name, first.key_id, second.data)


def test_the_note_that_is_kept_reads_as_any_checkpoint(tmp_path: Path) -> None:
    """The log's signature first, then the witnesses' in the policy's order; a reader with the policy needs no more."""
    net = Net(tmp_path)
    net.push(5)
    text = (net.folder / "witnessed").read_text(encoding="utf-8")
    assert text.startswith(head(leaves(5)).note)
    assert [s.name for s in parse_note(text).signatures] == [SIGNER.name, *NAMES]


def test_witnesses_are_of_the_policy(tmp_path: Path) -> None:
    """A witness that nobody trusts can cosign as it likes."""
    net = Net(tmp_path)
    stranger: Witness = knowing_witness(tmp_path / "s", "w1.example")
    with pytest.raises(WitnessAnswerBad):
        net.desk().take(head(leaves(5)), net.policy.witnesses[0], Reply(200, stranger.answer(body(0, leaves(5))).body))


# ---- several processes -----------------------------------------------------------------------------------------------


class SlowDisk:
    """A disk that takes its time, so that whoever is not kept out comes in between."""

    def create_same(self, path: Path, data: bytes) -> bool:
        """See audit.durable."""
        return durable.create_same(path, data)

    def replace(self, path: Path, data: bytes) -> None:
        """See audit.durable."""
        time.sleep(0.05)
        durable.replace(path, data)

    def discard(self, path: Path) -> None:
        """See audit.durable."""
        durable.discard(path)

    def make_dirs(self, path: Path) -> None:
        """See audit.durable."""
        durable.make_dirs(path)


def test_a_command_beside_the_service_loses_nothing(tmp_path: Path) -> None:
    """Two desks over one folder, as two processes have them, take answers at once: every cosignature is kept."""
    net = Net(tmp_path, quorum=3)
    hashes = leaves(5)
    asked = head(hashes)
    replies = [net.post(f"{at.url}/add-checkpoint", body(0, hashes)) for at in net.policy.witnesses]

    def take(at: WitnessAt, reply: Reply) -> None:
        net.desk(SlowDisk()).take(asked, at, reply)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(take, net.policy.witnesses, replies))
    assert net.held() == (5, NAMES)


def test_the_newest_that_anybody_cosigned(tmp_path: Path) -> None:
    """Also without a quorum: it says how long our log has been."""
    net = Net(tmp_path)
    assert net.desk().newest() is None
    net.push(4)
    net.down = {f"http://{name}" for name in NAMES[1:]}
    net.push(6)
    newest = net.desk().newest()
    assert newest is not None
    assert (newest.size, net.held()[0]) == (6, 4)
