"""Plays the witness who is not the hospital: keeps the log's checkpoints, and refuses another history.

A demonstration, as the reviewer is: a real witness is a health commission or another hospital, on its own machine.
"""

import os
from pathlib import Path

from service.demo.commands import Zhiying, own_environment, program
from service.demo.pacs import LOOPBACK
from service.demo.servers import Servers, answers, free_port

NAME = "demo-witness.example"
PORT = 8344


class DemoWitness:
    """The witness's folder, its key, and where it listens."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._line = folder, folder / "public.line"
        self._port = free_port(PORT)

    def meet(self, zhiying: Zhiying, log_key: str) -> None:
        """Make the key and make the log known, once."""
        if self._line.exists():
            return
        made = zhiying.ask("witness", "keygen", NAME, "--folder", self._folder, configured=False)
        zhiying.ask("witness", "add-log", log_key, "--folder", self._folder, configured=False)
        self._line.write_text(made["vkey"], encoding="ascii")

    @property
    def public_line(self) -> str:
        """Its public key."""
        return self._line.read_text(encoding="ascii")

    @property
    def url(self) -> str:
        """Where it takes checkpoints."""
        return f"http://{LOOPBACK}:{self._port}"

    def start(self, servers: Servers) -> None:
        """Listen."""
        command = [program(), "witness", "serve", "--folder", str(self._folder), "--port", str(self._port)]
        log = self._folder / "witness.log"
        pid = servers.start("zhiying witness", command, log=log, environment=own_environment(os.environ))
        servers.wait_until(pid, lambda: answers(self._port), log=log)
