"""The service and its witnesses: it asks them itself, and it does not build on a log that is older than they are.

No inference waits for a witness that is away; it waits when none has been heard for `[audit] unwitnessed_max_h`. A log
that is proven to be older than what was cosigned (a backup was put back), or another history, takes nothing more:
images are received, the rest waits for a person (docs/restore.md). A proof is a checkpoint with our own signature:
a witness that only claims something stops nothing.
"""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Gauge

from audit import durable
from audit.checkpoint import Checkpoint
from audit.entry import Draft, Entry, Kind
from audit.errors import AuditUnavailable
from audit.files import Files
from audit.growth import Standing, TreeView, standing
from audit.layout import CHECKPOINT, HEAD
from audit.log import AuditLog
from audit.note import Verifier
from audit.policy import Policy, PolicyInvalid, WitnessAt
from audit.ticket import Proviso
from audit.witness import origin_hash
from audit.witnessing import (
    Post,
    Reply,
    WitnessAhead,
    WitnessAnswerBad,
    WitnessDeclined,
    Witnessed,
    WitnessForked,
    Witnessing,
    WitnessingError,
    WitnessUnreachable,
    open_latest,
)
from service import wire
from service.config import Config
from service.errors import CommandRefused, ConfigInvalid, NothingSuch
from service.heartbeat import CallLog

POLL_S = 0.05
"""How often to look whether the service has published."""
ROUND_S = 60.0
"""Between two rounds: the log's promise is a checkpoint a minute."""
LAST_ROUND = "last-round"
"""In the folder of the witnesses: what they said last, for a person who asks without the service."""
FOUND, MISSING = 200, 404
FOR_A_PERSON = (WitnessAhead, WitnessForked, WitnessDeclined, WitnessAnswerBad)
"""What asking again does not cure."""
_GRAVE = frozenset(error.code for error in FOR_A_PERSON)

_log = structlog.get_logger()


class AuditBehindWitness(AuditUnavailable):
    """The log is older than what was witnessed. Nothing is appended until a person has decided."""

    code = "AUDIT_BEHIND_WITNESS"

    def __init__(self, ours: int, seen: int) -> None:
        what = f"a backup was put back; the log has {ours} entries, witnesses have seen {seen}"
        super().__init__(f"{what}: zhiying audit succeed request --reason BACKUP (docs/restore.md)")


class AuditForked(AuditUnavailable):
    """The log is another history than what was witnessed. Nothing is appended until a person has decided."""

    code = "AUDIT_FORKED"

    def __init__(self, seen: int) -> None:
        what = f"the log is another history than the {seen} entries that witnesses have seen"
        super().__init__(f"{what}: copy the data folder, then see docs/restore.md")


class Unwitnessed(AuditUnavailable):
    """No quorum of witnesses for too long: no new inference until one is heard."""

    code = "AUDIT_UNWITNESSED"


Get = Callable[[str], Reply]
"""GET a URL, within a few seconds; raises WitnessUnreachable."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """The log, behind somebody who may refuse an entry."""

    log: CallLog
    permit: Callable[[Draft], None]

    def append(self, draft: Draft, proviso: Proviso | None = None) -> Entry:
        """See AuditLog. Raises AuditUnavailable where it is refused: whoever appends waits, and nothing is lost."""
        self.permit(draft)
        return self.log.append(draft, proviso)

    def receipt(self, index: int) -> Checkpoint:
        """See AuditLog."""
        return self.log.receipt(index)


def policy_of(config: Config) -> Policy | None:
    """Whom the site trusts to witness; None where it names nobody. Raises ConfigInvalid."""
    path = config.audit.witnesses
    if path is None:
        return None
    try:
        return Policy.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, PolicyInvalid) as wrong:
        why = wrong.strerror if isinstance(wrong, OSError) else str(wrong)
        raise ConfigInvalid(f"audit.witnesses: {path} is no policy: {why}") from None


def folder(config: Config) -> Path:
    """What witnesses said of today's log."""
    return config.data.folder / "witnessing"


def desk(site: Config, policy: Path | None) -> tuple[Witnessing, Policy]:
    """The hospital's side, for a policy file or the configured one. Raises CommandRefused, AuditError, OSError."""
    if policy is None:
        trusted = policy_of(site)
        if trusted is None:
            raise CommandRefused("which witnesses? Name --policy, or [audit] witnesses in the configuration")
    else:
        try:
            trusted = Policy.parse(policy.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise CommandRefused(f"{policy} is not text") from None
    log = wire.log_verifier(site)
    if trusted.logs and log not in trusted.logs:
        raise CommandRefused("the policy names other logs, not this one")
    return Witnessing(folder(site), trusted, log), trusted


def published(site: Config) -> tuple[Checkpoint, Files]:
    """The newest public checkpoint, and the files that prove it. Raises NothingSuch, AuditCorrupt.

    What is committed is published first: by the service, which takes a second, or by us where none runs.
    """
    files = Files(wire.audit_root(site), wire.origin(site), wire.log_verifier(site), durable)
    head, checkpoint = files.checkpoint(HEAD), files.checkpoint(CHECKPOINT)
    deadline = time.monotonic() + 2 * wire.PUBLISH_S
    while _behind(checkpoint, head) and time.monotonic() < deadline:
        time.sleep(POLL_S)
        checkpoint = files.checkpoint(CHECKPOINT)
    if _behind(checkpoint, head):
        # On a disk that takes no writes, what was published before is good, and the newest there is.
        with suppress(AuditUnavailable), wire.open_log(site) as log:
            log.publish()
        checkpoint = files.checkpoint(CHECKPOINT)
    if checkpoint is None:
        raise NothingSuch("the log has published no checkpoint yet")
    return checkpoint, files


def _behind(checkpoint: Checkpoint | None, head: Checkpoint | None) -> bool:
    return head is not None and (checkpoint is None or checkpoint.size < head.size)


def copies(
    policy: Policy, log: Verifier, origin: str, get: Get
) -> list[tuple[WitnessAt, Checkpoint | WitnessingError | None]]:
    """What each witness with an address holds of the log (None: nothing), or why that is not known. All at once."""

    def ask(witness: WitnessAt) -> Checkpoint | WitnessingError | None:
        try:
            reply = get(f"{witness.url}/{origin_hash(origin)}/checkpoint")
            if reply.status == MISSING:
                return None
            if reply.status != FOUND:
                raise WitnessUnreachable(f"{witness.verifier.name}: answered with status {reply.status}")
            return open_latest(reply.body, log, origin, witness)
        except WitnessingError as error:
            return error

    asked = [witness for witness in policy.witnesses if witness.url is not None]
    with ThreadPoolExecutor(max(1, len(asked))) as pool:
        return list(zip(asked, pool.map(ask, asked), strict=True))


def compare(site: Config, seen: Checkpoint) -> AuditUnavailable | None:
    """The log as it is published now against what was witnessed; None if it grew out of that."""
    head, files = published(site)
    found = standing(head, TreeView(files, head.size).root_at, seen)
    if found is Standing.BEHIND:
        return AuditBehindWitness(head.size, seen.size)
    return AuditForked(seen.size) if found is Standing.FORKED else None


def quorum_at(held: Witnessed, policy: Policy) -> datetime:
    """When the quorum of a checkpoint was complete, by its witnesses' clocks; of several quorums the newest."""
    times = sorted((one.time_s for one in held.cosigned), reverse=True)
    return datetime.fromtimestamp(times[policy.quorum - 1], UTC)


@dataclass(frozen=True, slots=True)
class Looked:
    """What somebody sees who asks without the service.

    Attributes:
        wrong: why the log may take nothing. entries, quorum_at: of the last quorum. each: a witness with an address,
            the code of what is wrong with it, and whether a person has to look.
    """

    wrong: AuditUnavailable | None
    entries: int
    quorum_at: datetime | None
    each: tuple[tuple[str, str | None, bool], ...]


def look(site: Config, policy: Policy, get: Get) -> Looked:
    """Compare the log with what we kept and what each witness serves; changes nothing. Raises AuditError, OSError."""
    kept = desk(site, site.audit.witnesses)[0]
    newest, held = kept.newest(), kept.witnessed()
    wrong = None if newest is None else compare(site, newest)
    said = _last_troubles(site)
    each: list[tuple[str, str | None, bool]] = []
    for witness, found in copies(policy, wire.log_verifier(site), wire.origin(site), get):
        name = witness.verifier.name
        code = found.code if isinstance(found, WitnessingError) else None
        # What it refused in the last round shows only there; what it serves was asked now.
        code = said[name] if said.get(name) in _GRAVE else code
        each.append((name, code, code in _GRAVE))
        if isinstance(found, Checkpoint) and wrong is None:
            wrong = compare(site, found)
    good = held is not None and held.reached
    return Looked(
        wrong,
        held.checkpoint.size if held is not None and good else 0,
        quorum_at(held, policy) if held is not None and good else None,
        tuple(each),
    )


def _last_troubles(site: Config) -> dict[str, str]:
    try:
        troubles = json.loads((folder(site) / LAST_ROUND).read_bytes())["troubles"]
        return {str(name): str(code) for name, code in troubles.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # a note for people: without it, only less is told


class Gauges:
    """For `/metrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.witnessed = Gauge("zhiying_witnessed_entries", "Entries under a quorum of witnesses", registry=registry)
        self.unwitnessed = Gauge(
            "zhiying_unwitnessed_entries", "Published entries that no quorum has cosigned", registry=registry
        )
        self.age = Gauge("zhiying_witness_age_seconds", "Since the last quorum of witnesses", registry=registry)
        self.failing = Gauge(
            "zhiying_witnesses_failing", "Witnesses that did not cosign in the last round", registry=registry
        )


class Watch:
    """A chore that asks the witnesses, and the one who says what may be appended. Its answers are of the last round."""

    def __init__(
        self,
        config: Config,
        log: AuditLog,
        policy: Policy,
        registry: CollectorRegistry,
        post: Post,
        get: Get,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Looks at what is on the disk. Raises CommandRefused (a policy of other logs), AuditError, OSError."""
        self._config, self._log, self._policy = config, log, policy
        self._post, self._get, self._clock = post, get, clock
        self._desk = desk(config, config.audit.witnesses)[0]
        self._gauges = Gauges(registry)
        self._age_max = timedelta(hours=config.audit.unwitnessed_max_h)
        # A log that nobody ever witnessed is as old as its first entry: a new start does not make it young.
        self._since = datetime.fromisoformat(next(log.entries()).time)
        self._due_at, self._done_size = float("-inf"), 0
        self._troubles: dict[str, str] = {}
        self.frozen: AuditUnavailable | None = None

    def look(self) -> None:
        """The opening check: what we kept, then what each witness holds. One that is away is a warning."""
        self._log.publish()
        kept = self._desk.newest()
        if kept is not None:
            self._judge(kept)
        key, origin = wire.log_verifier(self._config), wire.origin(self._config)
        for witness, found in copies(self._policy, key, origin, self._get):
            if isinstance(found, Checkpoint):
                # After its answer: whatever another process had it cosign meanwhile is published now.
                self._log.publish()
                self._judge(found)
            elif found is not None:
                self._note(witness.verifier.name, found)
        self._refresh()

    def __call__(self) -> None:
        """A round, when it is time and something is new. Raises AuditError, OSError: done again at the next call."""
        if self.frozen is not None or self._clock() < self._due_at:
            return
        self._due_at = self._clock() + ROUND_S
        self._log.publish()
        checkpoint, files = published(self._config)
        if checkpoint.size > self._done_size or self._troubles:
            outcomes = self._desk.push(files, checkpoint, self._post).outcomes
            self._troubles = {}
            for one in outcomes:
                if one.error is not None:
                    self._note(one.witness, one.error)
            self._gauges.failing.set(len(self._troubles))
            self._done_size = checkpoint.size
            said = {"time": wire.now().isoformat(), "size": checkpoint.size, "troubles": self._troubles}
            durable.make_dirs(folder(self._config))
            durable.replace(folder(self._config) / LAST_ROUND, json.dumps(said).encode())
            if any(isinstance(one.error, WitnessAhead | WitnessForked | WitnessDeclined) for one in outcomes):
                # What it says is a claim. What it serves has our signature, or none.
                self.look()
        self._refresh()

    def permit(self, draft: Draft) -> None:
        """Raise AuditUnavailable if the entry must wait: all where the log is frozen, new calls where it is alone."""
        if self.frozen is not None:
            raise self.frozen.with_traceback(None)  # one instance, raised often: its traceback must not grow
        if draft.kind is Kind.CALL_INTENT and self._age() > self._age_max:
            hours = self._config.audit.unwitnessed_max_h
            raise Unwitnessed(f"no quorum of witnesses for more than {hours:g} h: no new inference until one is heard")

    def state(self) -> str:
        """For /health: 'ok', or what a person has to look at."""
        if self.frozen is not None:
            return f"{self.frozen.code}: {self.frozen}"
        asking = sorted(f"{code} {name}" for name, code in self._troubles.items() if code in _GRAVE)
        if self._age() > self._age_max:
            asking.insert(0, Unwitnessed.code)
        return "; ".join(asking) or "ok"

    def _judge(self, seen: Checkpoint) -> None:
        wrong = compare(self._config, seen)
        if wrong is not None:
            self.frozen = wrong
            _log.error("audit_frozen", code=wrong.code, size=seen.size)

    def _note(self, name: str, error: WitnessingError) -> None:
        self._troubles = self._troubles | {name: error.code}  # replaced, not changed: others read it meanwhile
        tell = _log.error if isinstance(error, FOR_A_PERSON) else _log.warning
        tell("witness_failed", code=error.code, peer=name)

    def _refresh(self) -> None:
        held = self._desk.witnessed()
        size = 0
        if held is not None and held.reached:
            size = held.checkpoint.size
            self._since = quorum_at(held, self._policy)
        self._gauges.witnessed.set(size)
        self._gauges.unwitnessed.set(max(0, published(self._config)[0].size - size))
        self._gauges.age.set(max(0.0, self._age().total_seconds()))

    def _age(self) -> timedelta:
        return wire.now() - self._since
