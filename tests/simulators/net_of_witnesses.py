"""Witnesses of a site, by address and without a network: what `post` and `get` would bring over HTTP."""

from pathlib import Path

from audit.cosignature import Cosigner
from audit.note import Verifier
from audit.policy import Policy
from audit.witness import KEY, Witness
from audit.witnessing import Reply, WitnessUnreachable
from service import wire


class NetOfWitnesses:
    """`down`: addresses that do not answer; `says`: answers in place of a witness's own, by address."""

    def __init__(self, folder: Path, names: tuple[str, ...] = ("w1.example", "w2.example")) -> None:
        self.witnesses: dict[str, Witness] = {}
        for name in names:
            (folder / name).mkdir(parents=True)
            Cosigner.generate(name).save(folder / name / KEY)
            self.witnesses[f"http://{name}"] = Witness(folder / name, Cosigner.load(folder / name / KEY), _now_s)
        self.down: set[str] = set()
        self.says: dict[str, Reply] = {}
        self.asked: list[str] = []

    def add_log(self, origin: str, key: Verifier) -> None:
        """Make a log known to all."""
        for witness in self.witnesses.values():
            witness.add_log(origin, key)

    def policy(self, quorum: int = 2) -> str:
        """The policy's text."""
        lines = [f"witness {one.vkey} {url}\n" for url, one in self.witnesses.items()]
        text = "".join(lines) + f"quorum {quorum}\n"
        Policy.parse(text)
        return text

    def post(self, url: str, body: bytes) -> Reply:
        """As service.witness_client.post."""
        base = self._reach(url.removesuffix("/add-checkpoint"))
        if base in self.says:
            return self.says[base]
        answer = self.witnesses[base].answer(body)
        return Reply(answer.status, answer.body)

    def get(self, url: str) -> Reply:
        """As service.witness_client.get."""
        base, named, last = url.rsplit("/", 2)
        assert last == "checkpoint"
        note = self.witnesses[self._reach(base)].latest(named)
        return Reply(404, b"") if note is None else Reply(200, note.encode())

    def _reach(self, base: str) -> str:
        self.asked.append(base)
        if base in self.down:
            raise WitnessUnreachable("down")
        return base


def _now_s() -> int:
    return int(wire.now().timestamp())
