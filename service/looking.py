"""The tables beside the log, opened for looking: beside a running service, or without one.

Apart from `service.wire`, so that commands that need the log alone do not wait for the database's library.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audit import durable
from dicom_bridge.inbox import digest_of
from dicom_bridge.ledger import LEDGER_FILE, Ledger
from dicom_bridge.spool_index import SpoolIndex
from service import wire
from service.config import Config
from service.reconcile import Places
from service.store import Store, connect


@contextmanager
def ledger(path: Path | None) -> Iterator[tuple[Store, SpoolIndex]]:
    """The table of runs and the spool's index, for looking. Opening an Inbox would be taking over the spool."""
    config = wire.settings(path)
    store = Store(connect(wire.database_url(config, "runs")))
    durable.make_dirs(wire.spool(config))
    index = SpoolIndex(wire.spool(config) / "index.sqlite", wire.spool(config) / "studies")
    try:
        yield store, index
    finally:
        index.close()
        store.close()


@contextmanager
def places(config: Config) -> Iterator[Places]:
    """Everything that accounts for an instance, for looking: beside a running service, or without one."""
    outbox_file = config.data.folder / "outbox" / LEDGER_FILE
    store = Store(connect(wire.database_url(config, "runs")))
    index = SpoolIndex(wire.spool(config) / "index.sqlite", wire.spool(config) / "studies")
    # Opening a ledger makes one: where there is none, nothing was ever to be sent.
    sent = Ledger(outbox_file) if outbox_file.exists() else None
    try:
        yield Places(
            studies=wire.spool(config) / "studies",
            index=index,
            runs_of=store.of_study,
            sending=lambda call: sent is not None and sent.get(call) is not None,
            input_digest=lambda study_uid: digest_of(index.instances(study_uid)),
            delivers=config.results.to is not None,
            quarantined=sum(1 for _ in (wire.spool(config) / "quarantine").glob("*.json")),
        )
    finally:
        if sent is not None:
            sent.close()
        index.close()
        store.close()
