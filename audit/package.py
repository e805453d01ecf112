"""The file that a reviewer takes away: a zip of stored members with fixed times, so that equal input gives equal bytes.

Nothing is compressed: a stored member has one form only, so no byte of the file is free to differ, and a verifier can
bound what it reads. ``docs/audit-package.md`` is the format for strangers; ``verifier.py`` is its judge.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import BinaryIO, Final

CHUNK: Final = 1024
"""Entries in one member: few enough to hold in memory at any size of entry, enough that names cost nothing."""
LENGTH_BYTES: Final = 2
"""Before each entry in a chunk."""
BYTES_MAX: Final = 2**31 - 1
"""Of a package: beyond it a zip has a second form. Years of a large hospital; export it in periods when it is full."""
MEMBERS_MAX: Final = 0xFFFF - 1
DIRECTORY_BYTES: Final = 1 << 24
"""Kept free for headers and directory: above what so many members need."""
ZIP_TIME: Final = (1980, 1, 1, 0, 0, 0)
UNIX: Final = 3
FILE_MODE: Final = 0o100644


class PackageFull(Exception):
    """The package would grow beyond what its format holds. Whoever writes it turns this into their own error."""


class Writer:
    """Writes members, one after the other, and remembers their digests."""

    def __init__(self, file: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=False)
        self._file = file
        self.digests: dict[str, str] = {}

    def add(self, name: str, data: bytes | Iterable[bytes]) -> None:
        """One member, whole or in pieces as they come: it need not fit in memory. Raises PackageFull, OSError."""
        if len(self.digests) >= MEMBERS_MAX:
            raise PackageFull
        info = zipfile.ZipInfo(name, ZIP_TIME)
        info.create_system = UNIX
        info.external_attr = FILE_MODE << 16
        digest = hashlib.sha256()
        # The header is written twice: the second time with size and sum, in the one form that a verifier takes.
        with self._zip.open(info, "w") as member:
            for piece in [data] if isinstance(data, bytes) else data:
                if self._file.tell() + len(piece) + DIRECTORY_BYTES > BYTES_MAX:
                    raise PackageFull
                member.write(piece)
                digest.update(piece)
        self.digests[name] = f"sha256:{digest.hexdigest()}"

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._zip.close()


def pack_chunk(records: Sequence[tuple[bool, bytes]]) -> bytes:
    """Entries as a C2SP tlog-tiles bundle: length in 16 bits, then the bytes. Length 0: a leaf hash of 32 bytes."""
    return b"".join((len(data) if known else 0).to_bytes(LENGTH_BYTES, "big") + data for known, data in records)


README: Final = """\
# An audit package / 审计包

This file holds the log of what an AI service did, in a form that you can check without trusting whoever gave it to
you, and without installing anything. You need Python 3.9 or later, and a policy file: the public keys that you trust.
Get the keys from the reviewer and the witnesses themselves, never from this package or from whoever handed it to you.

    log hospital.example/audit+xxxxxxxx+...        the key that signs the log
    witness commission.example/w+xxxxxxxx+...      one line for each witness outside the hospital
    quorum 1                                       how many of them must have cosigned
    reviewer reviewer.example/ai+xxxxxxxx+...      who may sign approvals

Best take `verifier.py` from the reviewer too; the one in here is the same file, and can be read in an evening. Put this
zip file (PACKAGE) and your policy (FILE) into an empty folder, take the verifier out, and run it:

    python3 -m zipfile -e PACKAGE opened
    cp opened/verifier.py .
    python3 -I verifier.py PACKAGE --policy FILE

The answer is PASS, FAIL with the place, or INCOMPLETE with what is missing; the exit status is 0 for PASS alone. Read
what it does not prove, too. If you were promised the log until a certain day, add the end of that day, such as
`--period-end 2026-12-31T16:00:00Z`: it is INCOMPLETE if nothing was witnessed since. To see it fail, change any byte:

    python3 -c "d = bytearray(open('PACKAGE', 'rb').read()); d[5000] ^= 1; open('changed.zip', 'wb').write(d)"
    python3 -I verifier.py changed.zip --policy FILE

| Member | Holds |
|---|---|
| `MANIFEST.json` | what was asked for, counts, and the SHA-256 of every other member |
| `entries/N` | entries from index N on, 1024 at most: length in 16 bits, then JSON; length 0: the entry's hash only |
| `checkpoint`, `checkpoints/SIZE` | signed heads of the log's tree (C2SP tlog-checkpoint), with cosignatures |
| `tsa/SIZE.NN.tsr` | time stamps (RFC 3161) over the text of the checkpoint of that size |
| `reconciliation/` | lists of other systems to compare with; the verifier only checks that they are unchanged |
| `sm3/checkpoint` | signed head of the second tree (SM3), where the site keeps one |
| `summary.html`, `tables/` | for people: the period on one page, and rows for a spreadsheet |
| `fhir/N.ndjson`, `dicom-audit/N.xml` | for other systems: the same events as FHIR R4 and DICOM audit messages |
| `phi_scan.json` | what patients' data was looked for in here, and that none was found |

The last three rows are conveniences that the exporter made from the entries. They prove nothing: the entries do.

## 中文

本文件保存一个 AI 服务的行为日志。您无需信任交付者，也无需安装任何软件即可验证。需要 Python 3.9 或更高版本，
以及一个策略文件：您所信任的公钥。公钥应直接向审查方与见证方索取，绝不能取自本包或本包的交付者。

    python3 -m zipfile -e PACKAGE opened
    cp opened/verifier.py .
    python3 -I verifier.py PACKAGE --policy FILE

PACKAGE 是您收到的 zip 文件本身，FILE 是您的策略文件。结果为 PASS（通过）、FAIL（不通过，并指出位置）或 INCOMPLETE
（证据不全，并指出缺少什么）；仅 PASS 时退出状态为 0。输出末尾列明本验证不能证明的事项，请一并阅读。
若约定日志须覆盖至某日，请加上该日结束时刻，如 `--period-end 2026-12-31T16:00:00Z`：其后若无见证，结果为 INCOMPLETE。
改动本包任一字节（命令见上）后再次验证，结果为 FAIL。
筛选范围之外的条目以哈希形式保留：筛选不能掩盖曾有条目存在。
`summary.html`、`tables/`、`fhir/`、`dicom-audit/` 与 `phi_scan.json` 由导出方根据条目生成，仅为方便阅读，不构成证明。
"""
