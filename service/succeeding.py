"""The ceremony by which one log succeeds another: what is asked for, and what is done when somebody outside has signed.

See audit.succession for the files, docs/restore.md for people. Approvals are not copied: they are imported again.
"""

from dataclasses import dataclass

from audit.checkpoint import Checkpoint
from audit.entry import Draft, Kind, format_time
from audit.errors import AuditCorrupt
from audit.log import SEAL_KEY
from audit.note import Verifier
from audit.policy import Policy
from audit.succession import (
    End,
    Hands,
    Mover,
    NothingUsable,
    Reason,
    Statement,
    StatementBad,
    StatementStale,
    open_statement,
    read_statement,
    usable_head,
)
from audit.witnessing import Witnessing
from service import wire, witnessing
from service.config import Config
from service.witnessing import Get


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the log that is to end: its last usable head, and the newest that was witnessed."""

    head: End
    witnessed: End | None


def request(config: Config, reason: Reason, get: Get, log_key: Verifier | None = None) -> Statement:
    """What somebody outside is asked to sign. Makes the new log's key. `log_key`: the old public key, where it is lost.

    Raises SuccessionError; AuditCorrupt or KeyMissing if the log cannot be sealed, which `reason` says it can.
    """
    logs = wire.generations(config)
    logs.refuse_ending()
    known = _known(config, reason, _old_key(config, log_key), get)
    successor = logs.number + 1
    signer = wire.make_key(config, successor)
    now = format_time(wire.now())
    return Statement(known.head, known.witnessed, reason, logs.origin(successor), signer.vkey, now)


def take(
    config: Config, note: str, get: Get, log_key: Verifier | None = None, hands: Mover | None = None
) -> Checkpoint:
    """End the old log and begin the new one, by a signed statement; gives the new head. After a crash: again.

    Raises SuccessionError, AlreadyRunning; what sealing raises; OSError.
    """
    lock = wire.only_one(config.data.folder)
    try:
        logs = wire.generations(config)
        said = read_statement(note)
        ending = next((n for n in (logs.number, logs.number - 1) if n and logs.origin(n + 1) == said.successor), None)
        if ending is None:
            raise StatementBad(f"the statement names another successor than {logs.origin(logs.number + 1)}")
        old = _old_key(config, log_key, ending)
        statement = open_statement(note, wire.restore_keys(config), [old, _new_key(config, ending + 1, said)])
        begun = logs.note(ending)
        if begun is not None and begun != note:
            raise StatementBad("another statement has begun to end this log: take that one")
        if begun is None:
            _refuse_stale(statement, _known(config, statement.reason, old, get))
        logs.freeze(ending, note, lambda: _end(config, statement), hands or Hands())
        with wire.open_log(config) as log:
            return log.head()
    finally:
        lock.close()


def _known(config: Config, reason: Reason, key: Verifier, get: Get) -> Known:
    seen = _seen(config, key, get)
    if reason.sealable:
        if not wire.audit_root(config).is_dir():
            raise NothingUsable("there is no log that could be sealed: the reason is CORRUPTION")
        with wire.open_log(config) as log:
            head = End.of(log.head())
    else:
        head = usable_head(wire.audit_root(config), wire.origin(config), key, seen)
    newest = max(seen, key=lambda one: one.size, default=None)
    return Known(head, None if newest is None else End.of(newest))


def _seen(config: Config, key: Verifier, get: Get) -> list[Checkpoint]:
    """What witnesses cosigned of this log: by what we kept, as far as it can be read, and by what they serve."""
    policy = witnessing.policy_of(config)
    if policy is None:
        return []
    found = [one for _, one in witnessing.copies(policy, key, wire.origin(config), get) if isinstance(one, Checkpoint)]
    try:
        kept = Witnessing(witnessing.folder(config), policy, key).newest()
    except AuditCorrupt:
        kept = None  # the disk that this is about; what the witnesses serve is better
    return [*found, *([] if kept is None else [kept])]


def _old_key(config: Config, given: Verifier | None, number: int | None = None) -> Verifier:
    """The key of the log that ends: the one that is there; else as given; else as the witnesses' policy names it."""
    logs = wire.generations(config)
    found = wire.known_verifier(config, number or logs.number) or given
    if found is None:
        policy: Policy | None = witnessing.policy_of(config)
        named = () if policy is None else policy.logs
        found = next((one for one in named if one.name == logs.origin(number or logs.number)), None)
    if found is None:
        raise NothingUsable("the log's public key is gone too: give it with --log-key, as reviewers have it")
    return found


def _new_key(config: Config, number: int, said: Statement) -> Verifier:
    key = wire.known_verifier(config, number)
    if key is None or key.vkey != said.key:
        raise StatementBad("the statement names another key for the new log than the one that was made here")
    return key


def _refuse_stale(statement: Statement, known: Known) -> None:
    if statement.predecessor != known.head:
        raise StatementStale(f"the log's head is {known.head.size} entries, the statement names another: request again")
    now, then = known.witnessed, statement.witnessed
    if now is not None and (then is None or now.size > then.size or (now.size == then.size and now != then)):
        raise StatementStale(f"witnesses have seen {now.size} entries, the statement names less: request again")


def _end(config: Config, statement: Statement) -> End:
    """Where the old log ends: at its SEAL, where it can still be appended to."""
    if not statement.reason.sealable:
        return statement.predecessor
    with wire.open_ending_log(config) as log:
        body = {"successor": statement.successor, "reason": statement.reason.value}
        log.append(Draft(Kind.SEAL, SEAL_KEY, body))
        return End.of(log.head())
