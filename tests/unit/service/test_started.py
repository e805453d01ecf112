"""What a process says of itself when it begins to work: code, settings, libraries; no secret; once."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from audit.entry import Draft, Entry, Kind
from audit.errors import AuditUnavailable
from service import started
from service.config import Config, load
from service.started import Started, code_digest, settings_digest
from tests.simulators.audit_log import open_log

URL = "postgresql://zhiying:{}@db.example:5432/zhiying"


@dataclass(slots=True)
class Full:
    """A log whose disk is full for `refusals` appends."""

    refusals: int
    drafts: list[Draft] = field(default_factory=list)

    def append(self, draft: Draft) -> Entry:
        """See AuditLog."""
        self.drafts.append(draft)
        if len(self.drafts) <= self.refusals:
            raise AuditUnavailable("the disk refuses", 28)
        return Entry(0, "s", 0, "", "b0" * 16, 0, draft.kind, draft.key, draft.body)


def test_it_is_said_once(tmp_path: Path) -> None:
    """However often the chore comes round, one process has one entry, and the next process another."""
    with open_log(tmp_path / "log") as log:
        for _ in range(2):
            chore = Started(log, Config(), "zhiying 0.1.0")
            chore()
            chore()
        entries = [entry for entry in log.entries() if entry.kind is Kind.CONFIG]

    assert len(entries) == 2
    assert entries[0].body == entries[1].body
    runtime = entries[0].body["runtime"]
    assert {"python", "torch", "monai", "pydicom"} <= set(dict(runtime))  # type: ignore[arg-type]


def test_a_full_disk_puts_it_off() -> None:
    """The same entry is tried again, and not another one."""
    log = Full(refusals=2)
    chore = Started(log, Config(), "zhiying 0.1.0")
    for _ in range(2):
        with pytest.raises(AuditUnavailable):
            chore()
    chore()
    chore()

    assert len(log.drafts) == 3
    assert len({draft.content for draft in log.drafts}) == 1


def test_settings_are_told_apart_and_the_password_is_not(tmp_path: Path) -> None:
    """Another setting is another digest; another password is not: nothing of it can be tried out."""

    def digest(text: str) -> str:
        path = tmp_path / "c.toml"
        path.write_text(text, encoding="utf-8")
        return settings_digest(load(path))

    first, second, other = (
        digest(f'[database]\nurl = "{url}"\n')
        for url in (URL.format("one"), URL.format("two"), URL.format("one").replace("db.", "other."))
    )

    assert first == second != other
    assert len({first, digest(""), digest('[site]\nid = "another"\n'), digest("[http]\nport = 8301\n")}) == 4


def test_the_code_is_all_of_the_code() -> None:
    """Each of the six folders is in the digest, which is the same at every look."""
    names = {name for name, _ in started._sources()}

    assert code_digest() == code_digest()
    assert {name.partition("/")[0] for name in names} == set(started.FOLDERS)
    assert {"audit/log.py", "service/started.py", "dicom_bridge/report.py"} <= names
