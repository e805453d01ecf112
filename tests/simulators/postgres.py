"""A PostgreSQL server of its own for tests: an unprivileged user's, in a temporary folder, on a free port of loopback.

It is strict where a hospital's is: passwords are asked for, the service's role may neither make databases nor see
those of others, and the server's clock zone is not UTC. It needs no server of the machine and leaves none behind.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, create_engine, text
from sqlalchemy.exc import OperationalError

ADMIN, ROLE = "administrator", "zhiying"
SYSTEM_USER = "postgres"
"""Whom the server runs as when the tests run as root, whom PostgreSQL refuses; the Debian package makes this user."""
ZONE = "Asia/Shanghai"
START_LIMIT_S = 60.0
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a temporary folder's name may be too long for a socket
    "fsync": "off",  # the tests kill our processes, never this server's machine
    "shared_buffers": "16MB",
    "timezone": ZONE,
}


class PostgresMissing(Exception):
    """No PostgreSQL server is installed: scripts/setup.sh test brings it."""


class Postgres:
    """One server. `down()` and `up()`: as an administrator's restart."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self._secret = secrets.token_hex(8)
        self._server: subprocess.Popen[bytes] | None = None
        self._made = 0
        self._user = SYSTEM_USER if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(folder, self._user)

    def make(self) -> None:
        """Make the empty cluster."""
        secret = self._folder / "secret"
        secret.write_text(self._secret + "\n", encoding="utf-8")
        if self._user is not None:
            shutil.chown(secret, self._user)
        words = ["--username", ADMIN, "--pwfile", str(secret), "--auth", "scram-sha-256"]
        words += ["--encoding", "UTF8", "--locale", "C", "--no-sync"]
        command = [_program("initdb"), "--pgdata", str(self._folder / "data"), *words]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=False, **self._as_user())
        assert done.returncode == 0, done.stdout + done.stderr

    def up(self) -> None:
        """Start it, and wait until it answers."""
        given = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        command = [_program("postgres"), "-D", str(self._folder / "data"), "-p", str(self._port), *given]
        # Should the tests be killed, the kernel ends the server with them.
        guarded = ["setpriv", "--pdeathsig", "INT", *command]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(guarded, cwd=self._folder, stdout=log, stderr=log, **self._as_user())
        ends = time.monotonic() + START_LIMIT_S
        while not self._answers():
            assert self._server.poll() is None, (self._folder / "log").read_text(encoding="utf-8")[-2000:]
            assert time.monotonic() < ends, "PostgreSQL does not answer"
            time.sleep(0.1)

    def down(self) -> None:
        """Stop it at once for whoever is connected ("fast shutdown")."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(60)
            self._server = None

    def database(self) -> str:
        """The URL of a new empty database, as an administrator hands it to a site: its own role's, with password."""
        self._made += 1
        name = f"site{self._made}"
        if self._made == 1:
            self._order(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{self._secret}'")
        self._order(f"CREATE DATABASE {name} OWNER {ROLE}")
        self._order(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
        return self._url(ROLE, name).render_as_string(hide_password=False)

    def tables(self, name: str) -> set[str]:
        """Schema and name of each table in the database of that URL that is not the server's own."""
        query = text("SELECT schemaname || '.' || tablename FROM pg_tables WHERE tableowner = :role")
        engine = create_engine(name.replace("postgresql://", "postgresql+psycopg://"))
        with engine.connect() as connection:
            found = {str(row[0]) for row in connection.execute(query, {"role": ROLE})}
        engine.dispose()
        return found

    def _order(self, statement: str) -> None:
        url = self._url(ADMIN, "postgres").set(drivername="postgresql+psycopg")
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def _answers(self) -> bool:
        try:
            self._order("SELECT 1")
        except OperationalError:
            return False
        return True

    def _url(self, user: str, name: str) -> URL:
        return URL.create("postgresql", user, self._secret, "127.0.0.1", self._port, name)

    def _as_user(self) -> dict[str, object]:
        if self._user is None:
            return {}
        return {"user": self._user, "group": self._user, "extra_groups": []}


@contextmanager
def running_postgres(port: int) -> Iterator[Postgres]:
    """A server on that port, gone at the end with all that it held."""
    with tempfile.TemporaryDirectory(prefix="zhiying-postgres-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder), port)
        server.make()
        server.up()
        try:
            yield server
        finally:
            server.down()


def _program(name: str) -> str:
    """The newest installed one: Debian keeps the server's programs out of the path, a folder for each version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    program = str(found[-1]) if found else shutil.which(name)
    if program is None:
        raise PostgresMissing(name)
    return program
