"""Where a site keeps its things, and how each is opened: for the service and for commands beside it.

The only place that looks at the clock. `service.serving` builds the running service from these.
"""

import fcntl
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO

from audit import durable, succession
from audit.canonical import JsonValue
from audit.entry import Draft, Entry, Kind
from audit.layout import HEAD
from audit.log import AuditLog
from audit.note import Signer, Verifier
from audit.succession import Generations, StatementBad
from dicom_bridge.peers import Peer
from dicom_bridge.rules import Rule
from ethics_review.errors import TrustInvalid
from ethics_review.parties import NOBODY, Trust, parse_trust
from ethics_review.register import Register
from service import config as configuration
from service.config import Config
from service.errors import AlreadyRunning, KeyMissing, NothingSuch
from service.keys import Pseudonyms

PUBLIC = ".vkey"
RESTORE_KEY = "restore"
"""The one key of a RESTORE entry."""
SOFTWARE = f"zhiying {version('zhiying')}"
PUBLISH_S = 1.0
"""How long other software may wait for an entry's tiles; a study logs six entries, which then share their syncs."""


def now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


def settings(path: Path | None) -> Config:
    """Read the configuration."""
    return configuration.load(path)


# ---- where things are ------------------------------------------------------------------------------------------------


def audit_root(config: Config) -> Path:
    """The log."""
    return config.data.folder / "audit"


def origin(config: Config) -> str:
    """The log's name in its checkpoints (C2SP tlog-checkpoint: a schemeless URL)."""
    logs = generations(config)
    return logs.origin(logs.number)


def generations(config: Config) -> Generations:
    """The log of today and those that it succeeded."""
    return Generations(config.data.folder, f"{config.site.id}.zhiying/audit")


def log_vkey(config: Config) -> str:
    """The public key of the log, as a verifier line."""
    return _signer(config).vkey


def log_verifier(config: Config) -> Verifier:
    """Checks the log's own signature."""
    return Verifier.parse(log_vkey(config))


def pseudonyms(config: Config) -> Pseudonyms:
    """The site's keyed names, by the key that is made where there is none."""
    return Pseudonyms.load(config.data.folder / "keys" / "pseudonym.key")


def known_verifier(config: Config, number: int) -> Verifier | None:
    """A generation's public key by what is on the disk, also when the private one is gone; None if nothing is."""
    path = key_path(config, number)
    if path.exists():
        return Signer.load(path).verifier
    public = path.with_suffix(PUBLIC)
    return Verifier.parse(public.read_text(encoding="utf-8").strip()) if public.exists() else None


def key_path(config: Config, number: int) -> Path:
    """The private key of a generation of the log; beside it lies the public one, for when this one is gone."""
    return config.data.folder / "keys" / ("log.key" if number == 1 else f"log.{number}.key")


def make_key(config: Config, number: int) -> Signer:
    """The key of a generation, made where there is none."""
    path = key_path(config, number)
    signer = Signer.load(path, create=True, name=generations(config).origin(number))
    public = path.with_suffix(PUBLIC)
    if not public.exists():
        durable.create_same(public, f"{signer.vkey}\n".encode())
    return signer


def _signer(config: Config) -> Signer:
    number = generations(config).number
    path = key_path(config, number)
    # Another key would sign a history that nobody can tie to the old one: a person has to decide.
    if not path.exists() and (number > 1 or audit_root(config).exists()):
        what = "bring it back from the backup, or see `zhiying audit succeed`"
        raise KeyMissing(f"{path} is gone, but the log is there; {what}")
    return make_key(config, number)


def database_url(config: Config, name: str) -> str:
    """Of the database `name` ('runs', 'workflows'): a SQLite file, or the site's PostgreSQL for all."""
    if config.database.url is not None:
        return config.database.url
    folder = config.data.folder / "db"
    durable.make_dirs(folder)
    return f"sqlite:///{folder.absolute() / name}.sqlite"


def only_one(folder: Path) -> IO[str]:
    """Hold the data folder for this process; the kernel lets go however it ends. Raises AlreadyRunning."""
    lock = (folder / "serve.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise AlreadyRunning(f"another zhiying serves {folder}") from None
    return lock


def peers(config: Config) -> dict[str, Peer]:
    """The systems that the configuration names, by name."""
    return {section.name: config.peer(section) for section in config.peers}


def rules(config: Config) -> tuple[Rule, ...]:
    """The site's rules, in order."""
    return tuple(Rule.of(section.model_dump()) for section in config.rules)


def charsets(config: Config) -> dict[str, str]:
    """AE title -> the character set that it writes under a false name, or under none."""
    return {one.ae_title: one.assumed_charset for one in config.peers if one.assumed_charset is not None}


# ---- for commands beside a running service ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Site:
    """What a command needs to read the log or to add an approval to it."""

    log: AuditLog
    register: Register
    now: Callable[[], datetime]


@contextmanager
def offline(path: Path | None) -> Iterator[Site]:
    """The log and the register, whether or not the service runs. Makes the log where there is none."""
    with offline_of(settings(path)) as site:
        yield site


def existing_log(path: Path | None) -> Config:
    """The configuration of a site that has a log. Raises NothingSuch: looking must not make one."""
    config = settings(path)
    if not audit_root(config).is_dir():
        raise NothingSuch(f"there is no log in {config.data.folder}; is this the right configuration?")
    return config


@contextmanager
def offline_of(config: Config) -> Iterator[Site]:
    """As `offline`, for a configuration that has been read."""
    log = open_log(config)
    try:
        yield Site(log=log, register=open_register(config, log), now=now)
    finally:
        log.close()


def open_log(config: Config) -> AuditLog:
    """The log, made where there is none. Raises AuditCorrupt, AuditUnavailable, SuccessionError."""
    durable.make_dirs(config.data.folder)
    logs = generations(config)
    logs.refuse_ending()
    before = logs.number - 1
    if before and not (audit_root(config) / HEAD).exists():
        _restored(config, logs, before)  # no log begins by a note that somebody put there
    log = _open(config, logs.end(before).body if before else None)
    try:
        if before and log.find(RESTORE_KEY) is None:
            log.append(_restored(config, logs, before))
    except BaseException:
        log.close()
        raise
    return log


def earlier(config: Config, log: AuditLog) -> Iterator[Entry]:
    """The entries of the logs that this one succeeds, newest log first, each log proven by the one after it.

    Raises AuditError, OSError at one that is damaged; those before it are proven by nothing then.
    """
    logs, start = generations(config), next(log.entries())
    for number in range(logs.number - 1, 0, -1):
        found = logs.entries(number, succession.End.parse(start.body["predecessor"]))
        yield from found
        start = found[0]


def open_ending_log(config: Config) -> AuditLog:
    """As `open_log`, for whoever seals a log that has been told to end."""
    number = generations(config).number
    return _open(config, generations(config).end(number - 1).body if number > 1 else None)


def _open(config: Config, predecessor: dict[str, JsonValue] | None) -> AuditLog:
    return AuditLog.open(
        audit_root(config),
        origin=origin(config),
        source=config.site.id,
        signer=_signer(config),
        now=now,
        software=SOFTWARE,
        predecessor=predecessor,
        publish_s=PUBLISH_S,
        sm3=config.audit.sm3,
    )


def _restored(config: Config, logs: Generations, before: int) -> Draft:
    """The second entry of a log that succeeds another. The statement is verified once more: it lay on our disk."""
    note = logs.note(before) or ""
    statement = succession.open_statement(note, restore_keys(config), [_signer(config).verifier])
    if (statement.successor, statement.key) != (origin(config), log_vkey(config)):
        raise StatementBad(f"the statement that ended log {before} names another successor, or another key")
    digest = f"sha256:{hashlib.sha256(note.encode()).hexdigest()}"
    return Draft(Kind.RESTORE, RESTORE_KEY, {"note": note, "note_digest": digest, "reason": statement.reason.value})


def restore_keys(config: Config) -> list[Verifier]:
    """Who may let a log end."""
    return [Verifier.parse(key) for key in config.audit.restore_keys]


def open_register(config: Config, log: AuditLog) -> Register:
    """Where every dossier stands by the log, checked with the trust policy of today."""
    path = remembered_path(config)
    remembered = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
    return Register(log, trust(config), log_verifier(config), remembered=remembered)


def trust(config: Config) -> Trust:
    """Whom this site trusts. Raises TrustInvalid, OSError."""
    if config.review.trust is None:
        return NOBODY
    try:
        return parse_trust(config.review.trust.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise TrustInvalid("TRUST_INVALID", 0, f"{config.review.trust} is not text") from None


def remembered_path(config: Config) -> Path:
    """Where the register's replay is kept, for a quick start. Only a cache."""
    return config.data.folder / "register.snapshot"


def remember(config: Config, register: Register) -> int:
    """Keep where the register stands now, signed like the log; gives its size. Raises AuditUnavailable, OSError."""
    taken = register.snapshot()
    if taken is None:
        return 0
    size, text = taken
    durable.replace(remembered_path(config), _signer(config).sign(text).encode("utf-8"))
    return size


def spool(config: Config) -> Path:
    """The received images."""
    return config.data.folder / "spool"
