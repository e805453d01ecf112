"""One transaction of a SQLite file of ours: all of it, or nothing, and the connection can be used again afterwards."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """`db` in autocommit mode, locked for writing until the end. Raises sqlite3.Error.

    A COMMIT that fails (disk full, locked) leaves the transaction open: left so, no other could begin any more.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
