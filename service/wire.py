"""Where a site keeps its things, and how each is opened: for the service and for commands beside it.

The only place that looks at the clock. `service.serving` builds the running service from these.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from audit import durable
from audit.log import AuditLog
from audit.note import Signer, Verifier
from dicom_bridge.inbox import digest_of
from dicom_bridge.ledger import LEDGER_FILE, Ledger
from dicom_bridge.peers import Peer
from dicom_bridge.rules import Rule
from dicom_bridge.spool_index import SpoolIndex
from ethics_review.register import Register
from service import config as configuration
from service.config import Config
from service.errors import KeyMissing, NothingSuch
from service.identity import IdentityMap
from service.keys import PeriodKeys, Pseudonyms
from service.reconcile import Places
from service.store import Store, connect

SOFTWARE = f"zhiying {version('zhiying')}"


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
    return f"{config.site.id}.zhiying/audit"


def log_vkey(config: Config) -> str:
    """The public key of the log, as a verifier line."""
    return _signer(config).vkey


def log_verifier(config: Config) -> Verifier:
    """Checks the log's own signature."""
    return Verifier.parse(log_vkey(config))


def pseudonyms(config: Config) -> Pseudonyms:
    """The site's keyed names, by the key that is made where there is none."""
    return Pseudonyms.load(config.data.folder / "keys" / "pseudonym.key")


def identities(config: Config) -> IdentityMap:
    """Whom the pseudonyms name, and the keys of the months."""
    folder = config.data.folder
    return IdentityMap(folder / "identity", PeriodKeys(folder / "keys" / "identity"))


def _signer(config: Config) -> Signer:
    folder = config.data.folder / "keys"
    durable.make_dirs(folder)
    path = folder / "log.key"
    if not path.exists():
        if audit_root(config).exists():
            # Another key would sign a history that nobody can tie to the old one: a person has to decide.
            raise KeyMissing(f"{path} is gone, but the log is there; bring the key back from the backup")
        Signer.generate(origin(config)).save(path)
    return Signer.load(path)


def database_url(config: Config, name: str) -> str:
    """Of the database `name` ('runs', 'workflows'): a SQLite file, or the site's PostgreSQL for all."""
    if config.database.url is not None:
        return config.database.url
    folder = config.data.folder / "db"
    durable.make_dirs(folder)
    return f"sqlite:///{folder.absolute() / name}.sqlite"


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


@contextmanager
def ledger(path: Path | None) -> Iterator[tuple[Store, SpoolIndex]]:
    """The table of runs and the spool's index, for looking. Opening an Inbox would be taking over the spool."""
    config = settings(path)
    store = Store(connect(database_url(config, "runs")))
    durable.make_dirs(spool(config))
    index = SpoolIndex(spool(config) / "index.sqlite", spool(config) / "studies")
    try:
        yield store, index
    finally:
        index.close()
        store.close()


@contextmanager
def places(config: Config) -> Iterator[Places]:
    """Everything that accounts for an instance, for looking: beside a running service, or without one."""
    outbox_file = config.data.folder / "outbox" / LEDGER_FILE
    store = Store(connect(database_url(config, "runs")))
    index = SpoolIndex(spool(config) / "index.sqlite", spool(config) / "studies")
    # Opening a ledger makes one: where there is none, nothing was ever to be sent.
    sent = Ledger(outbox_file) if outbox_file.exists() else None
    try:
        yield Places(
            studies=spool(config) / "studies",
            index=index,
            runs_of=store.of_study,
            sending=lambda call: sent is not None and sent.get(call) is not None,
            input_digest=lambda study_uid: digest_of(index.instances(study_uid)),
            delivers=config.results.to is not None,
            quarantined=sum(1 for _ in (spool(config) / "quarantine").glob("*.json")),
        )
    finally:
        if sent is not None:
            sent.close()
        index.close()
        store.close()


def open_log(config: Config) -> AuditLog:
    """The log, made where there is none. Raises AuditCorrupt, AuditUnavailable."""
    durable.make_dirs(config.data.folder)
    return AuditLog.open(
        audit_root(config),
        origin=origin(config),
        source=config.site.id,
        signer=_signer(config),
        now=now,
        software=SOFTWARE,
    )


def open_register(config: Config, log: AuditLog) -> Register:
    """The approvals in the log, checked with the keys that this site trusts."""
    trusted = [Verifier.parse(key) for key in config.review.trusted_keys]
    return Register(log, trusted, log_verifier(config))


def spool(config: Config) -> Path:
    """The received images."""
    return config.data.folder / "spool"
