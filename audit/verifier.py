"""Checks an audit package without trusting whoever made it. One file; Python 3.9 or later, nothing installed, no network.

    python3 -I verifier.py PACKAGE --policy FILE [--period-end ISO] [--max-unwitnessed N] [--json]

The policy holds the public keys that you trust. Get it from the reviewer and the witnesses, never from the package:

    log <key> [origin]    the key that signs the log; the origin is the key's name unless it is given
    witness <key>         a witness outside the hospital (C2SP cosignature/v1)
    quorum <K>            how many of the witnesses must have cosigned
    reviewer <key>        who may sign approvals
    tsa <file>            certificate (PEM) of the time-stamp authority, beside the policy
    heartbeat <seconds>   the longest silence that needs no explanation
    window <seconds>      how far clocks may differ and witnesses lag (900 if not given)

Exit status: 0 PASS, 1 FAIL (something is not as it must be), 2 INCOMPLETE (nothing is wrong in what can be seen, and not
all that is needed can be seen), 3 the command or a file could not be used. Every part says below what it checks.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import functools
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn, Optional

FORMAT = "zhiying.audit-package/1"
CHUNK = 1024
"""Entries in one member; the last member holds the rest."""
PASS, FAIL, INCOMPLETE, FINDING = "PASS", "FAIL", "INCOMPLETE", "FINDING"
STATUS = {PASS: 0, FAIL: 1, INCOMPLETE: 2}
UNUSABLE = 3
SHOWN_MAX = 40
"""Remarks of one sort that are printed in full; all are counted."""
UTC = timezone.utc  # noqa: UP017 - datetime.UTC is of Python 3.11
TIME_FORM = "%Y-%m-%dT%H:%M:%S.%fZ"
DOES_NOT_PROVE = {
    "en": [
        "that what was logged was true when it was logged: a log keeps what it is told",
        "that no AI call was made outside the log: compare the PACS's list of our output UIDs (reconciliation)",
        "that the witnesses are independent: a quorum that acts together with the hospital can vouch for anything",
        "anything about entries that no quorum of witnesses has cosigned, but that the hospital's key signed them",
        "what entries out of scope say: they are here as hashes, so only that they exist and cannot be exchanged",
        "that a denial was right, or that an approval had not been withdrawn by a way that this version cannot read",
        "the period and the filter that MANIFEST.json states: they are the exporter's words",
        "that a result was medically correct",
    ],
    "zh": [
        "不能证明写入日志的内容在写入时是真实的：日志只保存所写入的内容",
        "不能证明没有绕过日志的 AI 调用：请与 PACS 中本系统输出 UID 清单核对（reconciliation）",
        "不能证明见证方相互独立：与医院串通的法定数量见证方可以为任何内容作证",
        "未经法定数量见证方会签的条目：只能证明由医院密钥签名",
        "不能证明范围之外条目的内容：它们仅以哈希出现，只能证明其存在且未被替换",
        "不能证明拒绝是正确的，也不能证明批准未以本版本无法识别的方式被撤回",
        "不能证明 MANIFEST.json 所称的期间与筛选条件：那是导出者的陈述",
        "不能证明结果在医学上正确",
    ],
}


class Malformed(Exception):
    """Something that is not what its standard says. ``where`` is a member of the package or a part of one."""

    def __init__(self, what: str, where: str = "package") -> None:
        super().__init__(what)
        self.what = what
        self.where = where


class Unusable(Exception):
    """The command cannot do its work: a file that cannot be read, a policy that says nothing clear."""


class Remark(NamedTuple):
    """One thing that was seen: how grave, where, what, and the index of the entry if it is about one."""

    verdict: str
    where: str
    what: str
    index: Optional[int]  # noqa: UP045 - evaluated, and Python 3.9 has no X | Y for types


class Report:
    """What was found. The verdict is that of the gravest remark: FAIL, then INCOMPLETE; a FINDING changes nothing."""

    def __init__(self) -> None:
        self.remarks: list[Remark] = []
        self.totals = {FAIL: 0, INCOMPLETE: 0, FINDING: 0}
        self.first_bad: int | None = None
        self.figures: dict[str, Any] = {}

    def add(self, verdict: str, where: str, what: str, index: int | None = None) -> None:
        """Take a remark."""
        self.totals[verdict] += 1
        if verdict == FAIL and index is not None and (self.first_bad is None or index < self.first_bad):
            self.first_bad = index
            self.remarks.insert(0, Remark(verdict, where, what, index))
        elif self.totals[verdict] <= SHOWN_MAX:
            self.remarks.append(Remark(verdict, where, what, index))

    @property
    def verdict(self) -> str:
        """Of the whole."""
        return FAIL if self.totals[FAIL] else INCOMPLETE if self.totals[INCOMPLETE] else PASS

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "verdict": self.verdict,
            "first_bad_index": self.first_bad,
            "totals": self.totals,
            "remarks": [remark._asdict() for remark in self.remarks],
            **self.figures,
            "does_not_prove": DOES_NOT_PROVE,
        }


# ---- Ed25519 (RFC 8032, section 5.1.7), strict: canonical encodings only, S < L, no key of small order.

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]  # extended coordinates X, Y, Z, T with x = X/Z, y = Y/Z, x*y = T/Z
IDENTITY: Point = (0, 1, 1, 0)


def _add(one: Point, other: Point) -> Point:
    a = (one[1] - one[0]) * (other[1] - other[0])
    b = (one[1] + one[0]) * (other[1] + other[0])
    c = 2 * one[3] * other[3] % P * D
    d = 2 * one[2] * other[2]
    e, f, g, h = (b - a) % P, (d - c) % P, (d + c) % P, (b + a) % P
    return e * f % P, g * h % P, f * g % P, e * h % P


def _double(point: Point) -> Point:
    x, y, z, _ = point
    a, b = x * x, y * y
    h = a + b
    e = (h - (x + y) * (x + y)) % P
    g = (a - b) % P
    f = (2 * z * z + g) % P
    return e * f % P, g * h % P, f * g % P, e * h % P


def _decode_point(data: bytes) -> Point | None:
    """RFC 8032, section 5.1.3; None for what is no canonical encoding of a point."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if (v * x * x - u) % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if (v * x * x - u) % P or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


def _encode_point(point: Point) -> bytes:
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _multiples(point: Point) -> tuple[Point, ...]:
    table = [IDENTITY]
    for _ in range(15):
        table.append(_add(table[-1], point))
    return tuple(table)


def _base_point() -> Point:
    point = _decode_point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
    assert point is not None  # noqa: S101 - a constant of the curve
    return point


BASE_MULTIPLES = _multiples(_base_point())


@functools.lru_cache(maxsize=256)
def _negated_multiples(key: bytes) -> tuple[Point, ...] | None:
    point = _decode_point(key)
    if point is None or _encode_point(_double(_double(_double(point)))) == _encode_point(IDENTITY):
        return None
    return _multiples((P - point[0], point[1], 1, P - point[3]))


def ed25519_verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``key`` (32 bytes) signed the message."""
    if len(key) != 32 or len(signature) != 64:
        return False
    s = int.from_bytes(signature[32:], "little")
    table = _negated_multiples(key)
    if s >= L or table is None:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    here = IDENTITY
    for shift in range(252, -1, -4):  # s * B - k * A, four bits of both at a time
        here = _double(_double(_double(_double(here))))
        here = _add(_add(here, BASE_MULTIPLES[s >> shift & 15]), table[k >> shift & 15])
    return _encode_point(here) == signature[:32]


# ---- Signed notes and keys (C2SP signed-note), checkpoints (tlog-checkpoint), cosignatures (tlog-cosignature).

NOTE_KEY, COSIGNATURE_KEY = 0x01, 0x04
NOTE_BYTES_MAX = 1_000_000
SIGNATURES_MAX = 100
SIZE_MAX = 2**40
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]+")
_SIZE = re.compile(r"0|[1-9][0-9]{0,12}")


class Key(NamedTuple):
    """A public key that the policy trusts."""

    name: str
    kind: int
    key: bytes

    @property
    def id(self) -> bytes:
        """The first four bytes of SHA-256(name, newline, type, key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.key).digest()[:4]


class Note(NamedTuple):
    """A signed text; ``signatures`` are (name, key id, payload). Nothing is verified yet."""

    text: str
    signatures: tuple[tuple[str, bytes, bytes], ...]


class Checkpoint(NamedTuple):
    """A tree head, verified. ``times`` are those of witnesses of the policy, earliest first."""

    size: int
    root: bytes
    text: str
    times: tuple[int, ...]


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        raise Malformed("not base64") from None
    if base64.b64encode(data).decode() != text:
        raise Malformed("not canonical base64")
    return data


def parse_key(line: str, kind: int) -> Key:
    """A key written as name+id+base64. Raises Malformed."""
    parts = line.split("+", 2)
    if len(parts) != 3 or not _NAME.fullmatch(parts[0]):
        raise Malformed("a key is written as name+id+base64")
    material = _base64(parts[2])
    if len(material) != 33 or material[0] != kind:
        raise Malformed(f"not a key of type {kind}")
    key = Key(parts[0], kind, material[1:])
    if key.id.hex() != parts[1]:
        raise Malformed("the key's id is not that of the key")
    if _negated_multiples(key.key) is None:
        raise Malformed("not a point of the curve, or one of small order")
    return key


def parse_note(data: bytes) -> Note:
    """A signed note, to the byte. Raises Malformed."""
    try:
        note = data.decode()
    except UnicodeDecodeError:
        raise Malformed("not UTF-8") from None
    if len(data) > NOTE_BYTES_MAX or any(character < " " and character != "\n" for character in note):
        raise Malformed("too long, or holds a control character")
    text, blank, tail = note.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise Malformed("no signatures after an empty line")
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise Malformed("too many signatures")
    signatures = []
    for line in lines:
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != "\u2014" or not _NAME.fullmatch(parts[1]):
            raise Malformed("a signature line is malformed")
        payload = _base64(parts[2])
        if len(payload) < 5:
            raise Malformed("a signature is too short")
        signatures.append((parts[1], payload[:4], payload[4:]))
    return Note(text + "\n", tuple(signatures))


def signed_by(note: Note, key: Key) -> bool:
    """Whether the key signed. A signature in its name that does not verify raises Malformed, beside good ones too."""
    found = False
    for name, key_id, payload in note.signatures:
        if (name, key_id) == (key.name, key.id):
            if not ed25519_verify(key.key, note.text.encode(), payload):
                raise Malformed(f"the signature of {key.name} does not verify")
            found = True
    return found


def cosigned_at(note: Note, key: Key) -> int | None:
    """When this witness cosigned: unix seconds, the earliest of several; None if it did not. Raises Malformed."""
    times = []
    for name, key_id, payload in note.signatures:
        if (name, key_id) == (key.name, key.id):
            time = int.from_bytes(payload[:8], "big")
            message = f"cosignature/v1\ntime {time}\n{note.text}".encode()
            if not 0 < time < 2**36 or not ed25519_verify(key.key, message, payload[8:]):
                raise Malformed(f"the cosignature of {key.name} does not verify")
            times.append(time)
    return min(times) if times else None


def parse_tree_head(text: str) -> tuple[str, int, bytes]:
    """Origin, size and root of a checkpoint's text. Raises Malformed."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not lines[0] or not _SIZE.fullmatch(lines[1]):
        raise Malformed("not the three lines of a checkpoint")
    root = _base64(lines[2])
    if len(root) != 32 or int(lines[1]) > SIZE_MAX:
        raise Malformed("the root or the size is impossible")
    return lines[0], int(lines[1]), root


# ---- JSON with one form for one value (RFC 8785, without floats).

INTEGER_MAX = 2**53 - 1
DEPTH_MAX = 16


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > INTEGER_MAX:
        raise ValueError
    return int(text)


def _refused(_: str) -> NoReturn:
    raise ValueError


_decode_json = json.JSONDecoder(parse_float=_refused, parse_int=_integer, parse_constant=_refused).decode
_encode_ascii = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
_encode_ordered = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def canonical(value: Any) -> bytes:
    """The one form of a value: keys in the order of their UTF-16 code units. Raises ValueError."""
    return _encode_ordered(_ordered(value, 0)).encode()


def _ordered(value: Any, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise ValueError
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return {key: _ordered(value[key], depth + 1) for key in keys}
    return [_ordered(each, depth + 1) for each in value] if isinstance(value, list) else value


def parse_json(data: bytes) -> Any:
    """The value, if these are its canonical bytes. Raises Malformed."""
    try:
        value = _decode_json(data.decode())
        # In ASCII the order of code units is that of characters, and the library's own sorting will do.
        same = (_encode_ascii(value).encode() if data.isascii() else canonical(value)) == data
    except (ValueError, RecursionError):
        raise Malformed("not JSON, or with a number or a depth that is not allowed") from None
    if not same:
        raise Malformed("not in canonical form (RFC 8785)")
    return value


# ---- The package: a zip of stored members, one after the other, in which no byte is free to differ.

MEMBERS = {
    # pattern of the name: bytes that such a member can have at most
    r"MANIFEST\.json": 1 << 26,
    r"README\.md|verifier\.py": 1 << 20,
    r"checkpoint|checkpoints/[0-9]{13}": NOTE_BYTES_MAX,
    r"entries/[0-9]{13}": CHUNK * (2 + 65535),
    r"tsa/[0-9]{13}\.[0-9]{2}\.tsr": 1 << 16,
    r"reconciliation/[a-z0-9][a-z0-9_-]{0,63}\.json": 1 << 26,
}
DIRECTORY_BYTES_MAX = 1 << 24
_CENTRAL = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s2B4HL2L2H")
_END = struct.Struct("<4s4H2LH")
_DAY_ONE = 33  # 1980-01-01 as zip writes it: the time of every member
_MODE = 0o100644 << 16


class Member(NamedTuple):
    """Where a member's bytes are."""

    size: int
    crc: int
    start: int


class Package:
    """The members of a package. Each place has exactly one form; anything else raises Malformed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.members: dict[str, Member] = {}
        end = file.seek(0, os.SEEK_END) - _END.size
        fields = _END.unpack(self._read(end, _END.size))
        count, size, start = fields[4:7]
        if _END.pack(b"PK\5\6", 0, 0, count, count, size, start, 0) != _END.pack(*fields) or start + size != end:
            raise Malformed("not a zip file of our form, or cut short", "zip end")
        if size > DIRECTORY_BYTES_MAX:
            raise Malformed("too large", "zip directory")
        directory = self._read(start, size)
        at = offset = 0
        for _ in range(count):
            at, offset = self._member(directory, at, offset)
        if at != size or offset != start:
            raise Malformed("bytes that belong to no member", "zip directory")

    def _read(self, start: int, size: int) -> bytes:
        data = b""
        if start >= 0:
            self._file.seek(start)
            data = self._file.read(size)
        if len(data) != size:
            raise Malformed("not a zip file, or cut short", "zip")
        return data

    def _member(self, directory: bytes, at: int, offset: int) -> tuple[int, int]:
        """Take the member whose directory line is at ``at``, and whose header must be at ``offset``; give the next."""
        if len(directory) < at + _CENTRAL.size:
            raise Malformed("cut short", "zip directory")
        fields = _CENTRAL.unpack_from(directory, at)
        crc, size, name_bytes = fields[9], fields[11], fields[12]
        raw = directory[at + _CENTRAL.size : at + _CENTRAL.size + name_bytes]
        name = raw.decode("ascii", "replace")
        limit = max((most for pattern, most in MEMBERS.items() if re.fullmatch(pattern, name)), default=-1)
        if limit < size:
            raise Malformed(f"a member that no package has, or larger than it can be: {name[:80]!r}", "zip directory")
        if name in self.members:
            raise Malformed("twice in the package", name)
        form = _CENTRAL.pack(
            *(b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, _DAY_ONE, crc, size, size, len(raw), 0, 0, 0, 0, _MODE, offset)
        )
        local = _LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, 0, _DAY_ONE, crc, size, size, len(raw), 0) + raw
        if not directory.startswith(form + raw, at) or self._read(offset, len(local)) != local:
            raise Malformed("its header or its directory line is not of our form", name)
        self.members[name] = Member(size, crc, offset + len(local))
        return at + len(form) + len(raw), offset + len(local) + size

    def read(self, name: str, report: Report, digests: dict[str, Any] | None = None) -> bytes:
        """A member's bytes. Other bytes than were packed are a FAIL, and are read on, to find the entry."""
        member = self.members.get(name)
        if member is None:
            raise Malformed("missing", name)
        data = self._read(member.start, member.size)
        same = zlib.crc32(data) == member.crc
        if digests is not None:
            same = same and digests.get(name) == "sha256:" + hashlib.sha256(data).hexdigest()
        if not same:
            report.add(FAIL, name, "its bytes are not those that MANIFEST.json names")
        return data


# ---- The policy: what the reader of the package trusts.


class Policy:
    """Keys and limits. Raises Unusable for a line that is not clear."""

    def __init__(self, path: Path) -> None:
        self.log: Key | None = None
        self.origin = ""
        self.witnesses: list[Key] = []
        self.reviewers: list[Key] = []
        self.tsa: Path | None = None
        self.quorum = self.heartbeat_s = 0
        self.window_s = 900
        try:
            lines = path.read_bytes().decode().split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Unusable(f"policy: cannot be read ({type(error).__name__})") from None
        for number, line in enumerate(lines, 1):
            words = line.split()
            if words and not words[0].startswith("#"):
                try:
                    self._take(words, path)
                except (Malformed, ValueError, IndexError) as error:
                    raise Unusable(f"policy, line {number}: {error}") from None
        self._check()

    def _take(self, words: list[str], path: Path) -> None:
        word = words[0]
        if word == "log" and self.log is None and len(words) in {2, 3}:
            self.log = parse_key(words[1], NOTE_KEY)
            self.origin = words[2] if len(words) == 3 else self.log.name
        elif len(words) != 2:
            raise Malformed(f"not understood: {word[:20]}")
        elif word == "witness":
            self.witnesses.append(parse_key(words[1], COSIGNATURE_KEY))
        elif word == "reviewer":
            self.reviewers.append(parse_key(words[1], NOTE_KEY))
        elif word == "tsa" and self.tsa is None:
            self.tsa = path.parent / words[1]
        elif word in {"quorum", "heartbeat", "window"} and re.fullmatch(r"[1-9][0-9]{0,8}", words[1]):
            name = word if word == "quorum" else f"{word}_s"
            setattr(self, name, int(words[1]))
        else:
            raise Malformed(f"not understood: {word[:20]}")

    def _check(self) -> None:
        if self.log is None:
            raise Unusable("policy: no log line")
        keys = [self.log.key, *(key.key for key in self.witnesses), *(key.key for key in self.reviewers)]
        if len(set(keys)) != len(keys):
            raise Unusable("policy: one key in two places; who signs, who witnesses and who reviews must be others")
        if not bool(self.quorum) == bool(self.witnesses) or self.quorum > len(self.witnesses):
            raise Unusable("policy: quorum must be from 1 to the number of witnesses, and absent without any")


# ---- Checkpoints: signed by the log, cosigned by witnesses, stamped by an authority.


def open_checkpoint(data: bytes, policy: Policy) -> Checkpoint:
    """A checkpoint of this log by its key, with the witnesses' times. Raises Malformed."""
    note = parse_note(data)
    origin, size, root = parse_tree_head(note.text)
    if policy.log is None or not signed_by(note, policy.log):
        raise Malformed("not signed by the log's key")
    if origin != policy.origin:
        raise Malformed("a checkpoint of another log")
    times = [time for time in (cosigned_at(note, key) for key in policy.witnesses) if time is not None]
    return Checkpoint(size, root, note.text, tuple(sorted(times)))


def read_checkpoints(package: Package, policy: Policy, report: Report, digests: dict[str, Any]) -> list[Checkpoint]:
    """All of them, smallest first; the last is the exported one. Raises Malformed if that one cannot be believed."""
    newest = _located("checkpoint", package.read("checkpoint", report, digests), policy)
    found = {newest.size: newest}
    for name in package.members:
        if name.startswith("checkpoints/"):
            try:
                older = _located(name, package.read(name, report, digests), policy)
                if name != f"checkpoints/{older.size:013d}" or older.size >= newest.size:
                    raise Malformed("its size is not that of its name, or not below that of the newest", name)
                found[older.size] = older
            except Malformed as wrong:
                report.add(FAIL, wrong.where, wrong.what)
    return [found[size] for size in sorted(found)]


def _located(name: str, data: bytes, policy: Policy) -> Checkpoint:
    try:
        return open_checkpoint(data, policy)
    except Malformed as wrong:
        raise Malformed(wrong.what, name) from None


def check_stamps(
    package: Package, policy: Policy, report: Report, digests: dict[str, Any], checkpoints: Sequence[Checkpoint]
) -> list[tuple[int, int]]:
    """(size of the checkpoint, unix seconds) of every time-stamp token (RFC 3161) that verifies, by ``openssl ts``."""
    texts = {checkpoint.size: checkpoint.text for checkpoint in checkpoints}
    names = [name for name in package.members if name.startswith("tsa/")]
    stamped: list[tuple[int, int]] = []
    if policy.tsa is None:
        if names:
            report.add(FINDING, "tsa", f"{len(names)} time stamps not looked at: the policy names no authority")
        return stamped
    for name in names:
        size = int(name[4:17])
        token = package.read(name, report, digests)
        if size not in texts:
            report.add(FAIL, name, "stamps a checkpoint that is not here")
            continue
        try:
            stamped.append((size, _stamp_time(token, texts[size].encode(), policy.tsa)))
        except Malformed as wrong:
            report.add(FAIL, name, wrong.what)
        except (OSError, subprocess.SubprocessError):
            report.add(INCOMPLETE, name, "not checked: this machine has no usable openssl command")
    if not names:
        report.add(INCOMPLETE, "tsa", "the policy names a time-stamp authority, and the package holds no stamp")
    return stamped


def _stamp_time(token: bytes, text: bytes, authority: Path) -> int:
    """The time in a token over this text; its imprint is of the checkpoint's three lines. Raises Malformed, OSError."""
    # A response begins with a SEQUENCE in its SEQUENCE, a bare token with an OBJECT IDENTIFIER (X.690).
    inner = 2 + (token[1] & 0x7F if len(token) > 1 and token[1] & 0x80 else 0)
    bare = ["-token_in"] if token[inner : inner + 1] == b"\x06" else []
    with tempfile.TemporaryDirectory() as folder:
        stamp, data = Path(folder, "stamp"), Path(folder, "data")
        stamp.write_bytes(token)
        data.write_bytes(text)
        shown = _openssl("-reply", "-in", str(stamp), *bare, "-text")
        match = re.search(rb"Time stamp: (\w{3} [ \d]\d \d\d:\d\d:\d\d)(?:\.\d+)? (\d{4}) GMT", shown or b"")
        if shown is None or match is None:
            raise Malformed("not a time stamp")
        moment = datetime.strptime(b" ".join(match.groups()).decode(), "%b %d %H:%M:%S %Y").replace(tzinfo=UTC)
        # The authority's certificate had to be valid then; it may have run out since.
        then = str(int(moment.timestamp()))
        options = ["-CAfile", str(authority), "-partial_chain", "-attime", then]
        if _openssl("-verify", "-data", str(data), "-in", str(stamp), *bare, *options) is None:
            raise Malformed("not a stamp of the pinned authority over this checkpoint")
    return int(then)


def _openssl(*words: str) -> bytes | None:
    done = subprocess.run(
        ["openssl", "ts", *words],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode != 0 and b"ts: " in done.stderr.lower() and b"invalid command" in done.stderr.lower():
        raise OSError
    return done.stdout if done.returncode == 0 else None


class Windows:
    """Between which times an entry must lie: not before the last timed checkpoint that lacks it, nor after the next."""

    def __init__(self, timed: Sequence[tuple[int, int]], slack_s: int) -> None:
        slack = timedelta(seconds=slack_s)
        bounds = sorted((size, datetime.fromtimestamp(time, UTC)) for size, time in timed)
        # A later checkpoint was made later: the strictest bound counts, from either side.
        self._early = ["", *accumulate(((moment - slack).strftime(TIME_FORM) for _, moment in bounds), max)]
        late = ["~", *accumulate(((moment + slack).strftime(TIME_FORM) for _, moment in reversed(bounds)), min)]
        self._late = late[::-1]
        self._sizes = [*(size for size, _ in bounds), SIZE_MAX + 1]
        self.change_at = 0
        self.early, self.late = "", "~"

    def move(self, index: int) -> None:
        """Set ``early`` and ``late`` for the entry at this index; they hold until ``change_at``."""
        at = bisect_right(self._sizes, index)
        self.early, self.late, self.change_at = self._early[at], self._late[at], self._sizes[at]


# ---- The tree (RFC 6962, section 2.1), built again from the leaves, and compared with every checkpoint.


def _tree_root(hashes: Sequence[bytes]) -> bytes:
    level, sha256 = list(hashes), hashlib.sha256
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        level = [sha256(b"\1" + level[at] + level[at + 1]).digest() for at in range(0, len(level) - 1, 2)] + odd
    return level[0]


class Tree:
    """Roots of full subtrees, largest first, as (leaves, root)."""

    def __init__(self, checkpoints: Sequence[Checkpoint], report: Report) -> None:
        self._peaks: list[tuple[int, bytes]] = []
        self._size = 0
        self._waiting = list(reversed(checkpoints))
        self._good = 0
        self._report = report

    def take(self, leaves: list[bytes]) -> None:
        """The next chunk of leaf hashes; only the last may be shorter than CHUNK."""
        while self._waiting and self._waiting[-1].size <= self._size + len(leaves):
            checkpoint = self._waiting.pop()
            self._compare(checkpoint, leaves[: checkpoint.size - self._size])
        self._size += len(leaves)
        if len(leaves) == CHUNK:
            width, root = CHUNK, _tree_root(leaves)
            while self._peaks and self._peaks[-1][0] == width:
                root = hashlib.sha256(b"\1" + self._peaks.pop()[1] + root).digest()
                width *= 2
            self._peaks.append((width, root))

    def _compare(self, checkpoint: Checkpoint, rest: list[bytes]) -> None:
        parts = [root for _, root in self._peaks] + ([_tree_root(rest)] if rest else [])
        here = parts.pop() if parts else hashlib.sha256(b"").digest()
        while parts:
            here = hashlib.sha256(b"\1" + parts.pop() + here).digest()
        if here == checkpoint.root:
            self._good = checkpoint.size
        else:
            last = max(checkpoint.size - 1, 0)
            what = f"the entries do not make this checkpoint's root; the first bad one is among {self._good} to {last}"
            self._report.add(FAIL, f"checkpoint of size {checkpoint.size}", what, self._good)


def leaves_of(name: str, data: bytes, count: int) -> Iterator[tuple[bool, bytes]]:
    """(True, an entry) or (False, the leaf hash of one out of scope). Raises Malformed unless there are ``count``."""
    at = 0
    for _ in range(count):
        begin = at + 2
        length = int.from_bytes(data[at:begin], "big")
        at = begin + (length or 32)
        if at > len(data) or begin > len(data):
            raise Malformed("holds fewer entries than its place says", name)
        yield length > 0, data[begin:at]
    if at != len(data):
        raise Malformed("holds more than its entries", name)


# ---- Entries: form, order, time, and what one kind demands of another.

SCHEMA = "zhiying.audit/1"
ENVELOPE = frozenset({"schema", "kind", "key", "call", "source", "seq", "time", "body"})
CALL_NEEDED = frozenset({"CALL_INTENT", "CALL_RESULT", "RELEASED"})
CALL_ABSENT = frozenset({"LOG_START", "APPROVAL"})
INTENT, RESULT, CLOSED = 1, 2, 4
_KIND = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_KEY = re.compile(r"[a-z0-9:._-]{1,128}")
_CALL = re.compile(r"[0-9a-f]{32}")
_SOURCE = re.compile(r"[A-Za-z0-9._:/-]{1,64}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


class _Source:
    __slots__ = ("opaque", "seq", "time")

    def __init__(self) -> None:
        self.seq, self.opaque, self.time = 0, 0, ""


class Entries:
    """All entries, in order. Memory: about 100 bytes for each key, and for each call."""

    def __init__(self, policy: Policy, report: Report, windows: Windows) -> None:
        self._policy = policy
        self._report = report
        self._windows = windows
        self._keys: set[bytes] = set()
        self._sources: dict[str, _Source] = {}
        self._calls: dict[bytes, int] = {}
        self._open: dict[bytes, int] = {}
        self._missing_seqs = 0
        self._before: tuple[int, datetime] | None = None
        self.decisions = Decisions(policy, report)
        self.counts: dict[str, int] = {}
        self.opaque = self.outside = self.heartbeats = 0
        self.gap: tuple[float, int, int] = (0.0, 0, 0)

    def hidden(self, index: int) -> None:
        """An entry that is here as a hash."""
        self.opaque += 1
        if index == 0:
            self._report.add(INCOMPLETE, "entry 0", "the log's start is out of scope", 0)

    def take(self, index: int, data: bytes) -> None:
        """An entry's bytes."""
        try:
            entry = parse_json(data)
            moment = self._envelope(entry)
        except Malformed as wrong:
            self._report.add(FAIL, f"entry {index}", wrong.what, index)
            return
        kind, body, call = entry["kind"], entry["body"], entry["call"]
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self._key(index, entry["key"])
        self._order(index, entry["source"], entry["seq"], entry["time"])
        self._moment(index, entry["time"], moment)
        if (kind == "LOG_START") != (index == 0) or (index == 0 and body.get("origin") != self._policy.origin):
            self._report.add(FAIL, f"entry {index}", "a log begins with LOG_START of its own origin, once", index)
        if kind == "APPROVAL":
            self.decisions.approval(index, body)
        elif kind == "CALL_INTENT":
            self.decisions.intent(index, entry["time"], body, hidden=self.opaque > 0)
        if call is not None:
            self._call(index, kind, bytes.fromhex(call))

    def _envelope(self, entry: Any) -> datetime:
        if type(entry) is not dict or entry.keys() != ENVELOPE or entry["schema"] != SCHEMA:
            raise Malformed("not the fields of an entry, or of another schema")
        kind, call, seq, time = entry["kind"], entry["call"], entry["seq"], entry["time"]
        if type(kind) is not str or (kind not in self.counts and not _KIND.fullmatch(kind)):
            raise Malformed("kind: not a name")
        if type(entry["key"]) is not str or not _KEY.fullmatch(entry["key"]):
            raise Malformed("key: not an idempotency key")
        if call is not None and (type(call) is not str or not _CALL.fullmatch(call)):
            raise Malformed("call: not 32 hexadecimal digits")
        if (call is None and kind in CALL_NEEDED) or (call is not None and kind in CALL_ABSENT):
            raise Malformed(f"call: present or absent against the rule of {kind}")
        source = entry["source"]
        if type(source) is not str or (source not in self._sources and not _SOURCE.fullmatch(source)):
            raise Malformed("source: not a name")
        if type(seq) is not int or seq < 0 or type(entry["body"]) is not dict:
            raise Malformed("seq or body: of the wrong type")
        if type(time) is not str or not _TIME.fullmatch(time):
            raise Malformed("time: not UTC with microseconds")
        try:
            return datetime.fromisoformat(time[:-1])
        except ValueError:
            raise Malformed("time: no such moment") from None

    def _key(self, index: int, key: str) -> None:
        digest = hashlib.sha256(key.encode()).digest()[:16]  # of one length, so that memory is known
        if digest in self._keys:
            self._report.add(FAIL, f"entry {index}", "its key is another entry's", index)
        self._keys.add(digest)

    def _order(self, index: int, name: str, seq: int, time: str) -> None:
        source = self._sources.get(name)
        if source is None:
            source = self._sources[name] = _Source()
        missing = seq - source.seq
        if missing:
            # Only entries that are here as hashes can be the missing ones: those since the source's last known entry.
            if missing < 0 or missing > self.opaque - source.opaque:
                self._report.add(FAIL, f"entry {index}", f"seq {seq} of its source where {source.seq} is due", index)
            else:
                self._missing_seqs += missing
                if self._missing_seqs > self.opaque:
                    self._report.add(FAIL, f"entry {index}", "more entries are missing than are hidden", index)
        if time < source.time:
            self._report.add(FAIL, f"entry {index}", "earlier than its source's entry before it", index)
        source.seq, source.opaque, source.time = seq + 1, self.opaque, max(time, source.time)

    def _moment(self, index: int, time: str, moment: datetime) -> None:
        windows = self._windows
        if index >= windows.change_at:
            windows.move(index)
        if not windows.early <= time <= windows.late:
            self.outside += 1
            self._report.add(FAIL, f"entry {index}", "its time is outside its checkpoint's window", index)
        if self._before is not None:
            seconds = (moment - self._before[1]).total_seconds()
            if seconds > self.gap[0]:
                self.gap = (seconds, self._before[0], index)
            limit = self._policy.heartbeat_s
            if limit and seconds > limit:
                self.heartbeats += int(seconds // limit)
                what = f"silence of {seconds:.0f} s before it, heartbeats are due every {limit} s"
                self._report.add(INCOMPLETE, f"entry {index}", what, index)
        self._before = (index, moment)

    def _call(self, index: int, kind: str, call: bytes) -> None:
        state = self._calls.get(call, 0)
        needed = 0 if kind not in {"CALL_RESULT", "RELEASED"} else INTENT if kind == "CALL_RESULT" else INTENT | RESULT
        if state & needed != needed:
            what = f"{kind} without its {'CALL_RESULT' if state & INTENT else 'CALL_INTENT'} before it"
            verdict = INCOMPLETE if self.opaque else FAIL
            self._report.add(verdict, f"entry {index}", what + (", or it is hidden" if self.opaque else ""), index)
        if kind == "CALL_INTENT":
            self._open.setdefault(call, index)
            state |= INTENT
        elif kind in {"CALL_RESULT", "FAILED", "DENIED"}:
            self._open.pop(call, None)
            state |= RESULT if kind == "CALL_RESULT" else CLOSED
        if state:
            self._calls[call] = state

    def finish(self) -> None:
        """What only the end shows."""
        for index in self._open.values():
            what = "a call that was begun and has no result, failure or denial"
            self._report.add(FINDING, f"entry {index}", what + (" in scope" if self.opaque else ""), index)
        seconds, before, after = self.gap
        self._report.figures.update(
            in_scope=sum(self.counts.values()),
            out_of_scope=self.opaque,
            counts=dict(sorted(self.counts.items())),
            largest_gap={"seconds": seconds, "from_index": before, "to_index": after},
            heartbeats_missing=self.heartbeats if self._policy.heartbeat_s else None,
            outside_window=self.outside,
            calls_open=len(self._open),
            decisions=self.decisions.figures,
        )


# ---- Decisions: was what ran approved, by a reviewer's key, for exactly this? Re-evaluated from the logged conditions.

APPROVAL_HEADER = "zhiying-approval/1"
APPROVAL_FIELDS = {"approval", "conditions", "criteria_set", "model", "reviewer_org", "valid"}
CHINA = timezone(timedelta(hours=8))
HOLDS = "HOLDS"
ALWAYS_CHECKED = {"MODEL_DIGEST": "EQUAL", "VALIDITY": "IN_FORCE"}
_PERSONAL = re.compile(r"[0-9]{6,}|[0-9]{4}[-./][0-9]{1,2}[-./][0-9]{1,2}|(?:[0-9]+\.){5,}")
_NUMBER = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,6})?)(?:(\+)|-([0-9]{1,4}))?")


class Approval(NamedTuple):
    """What a reviewer's key allowed. ``starts`` and ``ends`` are times as entries write them; ``ends`` is excluded."""

    model: Any
    policy: str
    starts: str
    ends: str
    conditions: dict[str, Any]


def _token(text: str) -> str:
    """How the log writes a value of an approval's list."""
    return _PERSONAL.sub("_", re.sub(r"[^A-Za-z0-9 ._:/+-]", "_", text))[:64]


def _day(text: Any, days: int) -> str:
    moment = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=CHINA) + timedelta(days=days)
    return moment.astimezone(UTC).strftime(TIME_FORM)


def condition_holds(allowed: Any, observed: str) -> bool:
    """Whether an observed class agrees with one condition of an approval. What is not understood does not."""
    if isinstance(allowed, str):  # a level, such as A1: up to it
        return bool(re.fullmatch(r"[A-Z][0-9]", observed)) and observed[0] == allowed[0] and observed <= allowed
    if not isinstance(allowed, list) or observed in {"", "UNKNOWN"}:
        return False
    number = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,2})?")
    if len(allowed) == 2 and all(number.fullmatch(str(each)) for each in allowed):
        match = _NUMBER.fullmatch(observed)
        if match is None:
            return False
        low = float(match[1])
        high = float("inf") if match[2] else float(match[3] or low)
        # A band such as 70-74 agrees if any value in it is allowed: the log holds nothing finer.
        return low <= float(allowed[1]) and high >= float(allowed[0])
    return allowed == ["*"] or observed in [_token(str(each)) for each in allowed]


class Decisions:
    """Approvals seen so far, and every call's permission weighed against them."""

    def __init__(self, policy: Policy, report: Report) -> None:
        self._policy = policy
        self._report = report
        self._approvals: dict[str, Approval] = {}
        self.figures: dict[str, Any] = {"evaluated": 0, "agree": 0, "differ": 0, "unknown": 0, "differ_at": []}

    def approval(self, index: int, body: dict[str, Any]) -> None:
        """An APPROVAL entry."""
        where = f"entry {index}"
        try:
            text = body.get("note")
            if type(text) is not str or body.get("note_digest") != "sha256:" + hashlib.sha256(text.encode()).hexdigest():
                raise Malformed("approval: the note's digest is another")
            note = parse_note(text.encode())
            if not self._policy.reviewers:
                self._report.add(INCOMPLETE, where, "approval: the policy names no reviewer", index)
            elif not any([signed_by(note, key) for key in self._policy.reviewers]):
                raise Malformed("approval: signed by no reviewer of the policy")
            if self._policy.log is not None and any(
                ed25519_verify(self._policy.log.key, note.text.encode(), payload) for _, _, payload in note.signatures
            ):
                raise Malformed("approval: signed by the log's own key")
            header, _, line = note.text.partition("\n")
            if header != APPROVAL_HEADER:
                self._report.add(INCOMPLETE, where, "approval: of a form that this version cannot read", index)
                return
            name, approval = _approval(parse_json(line[:-1].encode()))
            self._approvals.setdefault(name.lower(), approval)
        except Malformed as wrong:
            self._report.add(FAIL, where, wrong.what, index)
        except (ValueError, TypeError, AttributeError, OverflowError):
            self._report.add(FAIL, where, "approval: its text is not an approval's", index)

    def intent(self, index: int, time: str, body: dict[str, Any], *, hidden: bool) -> None:
        """A CALL_INTENT entry: FAIL where the log's own conditions do not give the permission that was used."""
        figures = self.figures
        name = body.get("approval")
        approval = self._approvals.get(name.lower()) if type(name) is str else None
        if approval is None and hidden:
            figures["unknown"] += 1
            self._report.add(INCOMPLETE, f"entry {index}", "the approval that it names is not in scope", index)
            return
        figures["evaluated"] += 1
        why = "no approval of this name before it" if approval is None else _difference(approval, time, body)
        if why is None:
            figures["agree"] += 1
            return
        figures["differ"] += 1
        if len(figures["differ_at"]) < SHOWN_MAX:
            figures["differ_at"].append(index)
        self._report.add(FAIL, f"entry {index}", f"decision differs: {why}", index)


def _approval(value: Any) -> tuple[str, Approval]:
    """Raises TypeError, ValueError, AttributeError or Malformed for what is no approval."""
    if type(value) is not dict or value.keys() != APPROVAL_FIELDS or type(value["conditions"]) is not dict:
        raise ValueError
    policy = canonical({"valid": value["valid"], "conditions": value["conditions"]})
    starts, ends = _day(value["valid"].get("from"), 0), _day(value["valid"].get("to"), 1)
    conditions = {name.upper(): allowed for name, allowed in value["conditions"].items()}
    digest = "sha256:" + hashlib.sha256(policy).hexdigest()
    return value["approval"].strip(), Approval(value["model"], digest, starts, ends, conditions)


def _difference(approval: Approval, time: str, body: dict[str, Any]) -> str | None:
    """Why this call was not what the approval allows; None if it was."""
    if body.get("model") != approval.model:
        return "another model than the approved one"
    if body.get("policy") != approval.policy:
        return "another policy digest than the approval's"
    if not approval.starts <= time < approval.ends:
        return "the approval was not in force"
    checks = body.get("checks")
    if type(checks) is not list:
        return "no checks"
    seen = set()
    for check in checks:
        if type(check) is not dict or not all(type(check.get(key)) is str for key in ("condition", "outcome", "observed")):
            return "a check without condition, outcome or observation"
        name, observed = check["condition"], check["observed"]
        if name in seen:
            return f"{name} twice"
        seen.add(name)
        if check["outcome"] != HOLDS:
            return f"{name} has the outcome {check['outcome'][:40]}"
        if name in ALWAYS_CHECKED:
            agrees = observed == ALWAYS_CHECKED[name]
        else:
            agrees = name in approval.conditions and condition_holds(approval.conditions[name], observed)
        if not agrees:
            return f"{name} does not hold for what was observed"
        if name == "MAX_AUTONOMY" and observed != body.get("autonomy"):
            return "the autonomy that was checked is not the one that was used"
    lacking = sorted((approval.conditions.keys() | ALWAYS_CHECKED.keys()) - seen)
    return f"not checked: {', '.join(lacking)}" if lacking else None


# ---- The whole.

MANIFEST_FIELDS = {
    *("format", "origin", "size", "period", "filter", "first", "last", "counts", "members", "verifier", "does_not_prove")
}


def _read_manifest(package: Package, report: Report) -> dict[str, Any]:
    data = package.read("MANIFEST.json", report)
    try:
        manifest = parse_json(data)
    except Malformed as wrong:
        raise Malformed(wrong.what, "MANIFEST.json") from None
    if type(manifest) is not dict or manifest.keys() != MANIFEST_FIELDS or manifest["format"] != FORMAT:
        raise Malformed(f"not the fields of {FORMAT}", "MANIFEST.json")
    members, period, size = manifest["members"], manifest["period"], manifest["size"]
    if type(members) is not dict or type(period) is not dict or period.keys() != {"from", "to"} or type(size) is not int:
        raise Malformed("a field of the wrong type", "MANIFEST.json")
    for name in sorted((members.keys() ^ package.members.keys()) - {"MANIFEST.json"}):
        report.add(FAIL, name, "in the package or in MANIFEST.json, and not in both")
    if manifest["verifier"] != members.get("verifier.py"):
        report.add(FAIL, "MANIFEST.json", "the verifier's digest is not that of verifier.py")
    if any(type(text) not in {str, type(None)} for text in period.values()):
        report.add(FAIL, "MANIFEST.json", "period: not times as text")
    words = manifest["filter"]
    if type(words) is not dict or not all(type(text) is str for text in words.values()):
        report.add(FAIL, "MANIFEST.json", "filter: not a map of plain texts")
    return manifest


def _check_entries(package: Package, report: Report, digests: dict[str, Any], entries: Entries, tree: Tree) -> None:
    size = report.figures["size"]
    sha256 = hashlib.sha256
    for first in range(0, size, CHUNK):
        name = f"entries/{first:013d}"
        hashes: list[bytes] = []
        index = first
        try:
            for known, data in leaves_of(name, package.read(name, report, digests), min(CHUNK, size - first)):
                if known:
                    hashes.append(sha256(b"\0" + data).digest())
                    entries.take(index, data)
                else:
                    hashes.append(data)
                    entries.hidden(index)
                index += 1
        except Malformed as wrong:
            report.add(FAIL, wrong.where, wrong.what, index)
            raise
        tree.take(hashes)


def _check_witnesses(
    policy: Policy, report: Report, checkpoints: Sequence[Checkpoint], period_end: str | None, tail_max: int
) -> list[tuple[int, int]]:
    """(size, unix seconds at which a quorum had cosigned) of the checkpoints that have one."""
    size, quorum = checkpoints[-1].size, policy.quorum
    timed = [(one.size, one.times[quorum - 1]) for one in checkpoints if quorum and len(one.times) >= quorum]
    witnessed, at = timed[-1] if timed else (0, None)
    shown = None if at is None else datetime.fromtimestamp(at, UTC).strftime(TIME_FORM)
    report.figures.update(witnessed_size=witnessed, witnessed_at=shown, unwitnessed_tail=size - witnessed)
    if not policy.witnesses:
        report.add(INCOMPLETE, "policy", "names no witness: nobody outside the hospital vouches for this log")
    elif not timed:
        report.add(INCOMPLETE, "checkpoint", f"no checkpoint has cosignatures of {quorum} witnesses of the policy")
    elif size - witnessed > tail_max:
        what = f"{size - witnessed} newest entries without a quorum of witnesses, {tail_max} allowed"
        report.add(INCOMPLETE, "checkpoint", what, witnessed)
    if period_end is not None and timed and (shown or "") < period_end:
        report.add(INCOMPLETE, "checkpoint", f"nothing witnessed at or after the period's end, {period_end}")
    return timed


def _check_claims(report: Report, manifest: dict[str, Any], entries: Entries) -> None:
    """What MANIFEST.json says of the entries must be what they are."""
    if manifest["counts"] != entries.counts:
        report.add(FAIL, "MANIFEST.json", "counts: not those of the entries")
    first, last = manifest["first"], manifest["last"]
    whole = type(first) is int and type(last) is int and 0 <= first <= last < manifest["size"]
    if not whole and not (first is None and last is None):
        report.add(FAIL, "MANIFEST.json", "first and last: not indices of this log")
    texts = manifest["does_not_prove"]
    if type(texts) is not dict or texts.keys() != {"en", "zh"}:
        report.add(FAIL, "MANIFEST.json", "does_not_prove: not in en and zh")


def verify(file: BinaryIO, policy: Policy, period_end: str | None = None, tail_max: int = 0) -> Report:
    """The whole check. ``period_end`` is as entries write time; without it the package's own period counts."""
    report = Report()
    try:
        package = Package(file)
        manifest = _read_manifest(package, report)
        digests = manifest["members"]
        checkpoints = read_checkpoints(package, policy, report, digests)
        size = checkpoints[-1].size
        report.figures.update(origin=policy.origin, size=size, period=manifest["period"], filter=manifest["filter"])
        if (manifest["origin"], manifest["size"]) != (policy.origin, size):
            report.add(FAIL, "MANIFEST.json", "origin or size: not those of the checkpoint")
        wanted = {f"entries/{first:013d}" for first in range(0, min(size, SIZE_MAX), CHUNK)} if size < 2**32 else set()
        found = {name for name in package.members if name.startswith("entries/")}
        for name in sorted(wanted ^ found)[:SHOWN_MAX]:
            report.add(FAIL, name, "entries that are missing, or that no checkpoint has", int(name[8:]))
        end = period_end if period_end is not None else _moment(manifest["period"]["to"], report)
        timed = _check_witnesses(policy, report, checkpoints, end, tail_max)
        stamped = check_stamps(package, policy, report, digests, checkpoints)
        report.figures["stamped_size"] = max((one for one, _ in stamped), default=0)
        entries = Entries(policy, report, Windows([*timed, *stamped], policy.window_s))
        _check_entries(package, report, digests, entries, Tree(checkpoints, report))
        entries.finish()
        _check_claims(report, manifest, entries)
        for name in package.members:
            if name in {"README.md", "verifier.py"} or name.startswith("reconciliation/"):
                package.read(name, report, digests)
    except Malformed as wrong:
        report.add(FAIL, wrong.where, wrong.what)
    return report


def _moment(text: Any, report: Report) -> str | None:
    if text is None:
        return None
    if type(text) is not str or not _TIME.fullmatch(text):
        report.add(FAIL, "MANIFEST.json", "period: not a time as entries write it")
        return None
    return text


def as_text(report: Report) -> str:
    """For people."""
    lines = [report.verdict]
    if report.first_bad is not None:
        lines.append(f"first bad index: {report.first_bad}")
    lines += [f"  {remark.verdict:10} {remark.where}: {remark.what}" for remark in report.remarks]
    hidden = sum(report.totals.values()) - len(report.remarks)
    if hidden > 0:
        lines.append(f"  ... and {hidden} more")
    for name, value in report.figures.items():
        lines.append(f"{name.replace('_', ' ')}: {value if isinstance(value, (str, int)) else json.dumps(value)}")
    lines += ["", "This does not prove / 本验证不能证明:"]
    lines += [f"  - {text}" for text in (*DOES_NOT_PROVE["en"], *DOES_NOT_PROVE["zh"])]
    # What a stranger wrote must not drive the reader's terminal.
    return "\n".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", line) for line in lines)


def _period_end(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        raise Unusable("--period-end: not a time as ISO 8601 writes it") from None
    if moment.tzinfo is None:
        raise Unusable("--period-end: a time with its zone wanted, such as 2026-12-31T24:00:00+08:00 or ...Z")
    return moment.astimezone(UTC).strftime(TIME_FORM)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Unusable(message)


def main(words: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = _Parser(prog="verifier.py", description="Checks an audit package. Exit status 0 only for PASS.")
    parser.add_argument("package", type=Path)
    parser.add_argument("--policy", type=Path, required=True, help="the keys that you trust, not from the package")
    parser.add_argument("--period-end", help="ISO 8601 with zone: the log must be witnessed at or after this time")
    parser.add_argument("--max-unwitnessed", type=int, default=0, help="newest entries that may lack witnesses (0)")
    parser.add_argument("--json", action="store_true")
    for stream in (sys.stdout, sys.stderr):
        getattr(stream, "reconfigure", lambda **_: None)(encoding="utf-8", errors="backslashreplace")
    try:
        given = parser.parse_args(words)
        end = None if given.period_end is None else _period_end(given.period_end)
        policy = Policy(given.policy)
        with given.package.open("rb") as file:
            report = verify(file, policy, end, given.max_unwitnessed)
    except Unusable as wrong:
        print(f"verifier.py: {wrong}", file=sys.stderr)
        return UNUSABLE
    except OSError as error:
        print(f"verifier.py: cannot be read: {error.strerror}", file=sys.stderr)
        return UNUSABLE
    print(json.dumps(report.as_json(), ensure_ascii=False, indent=1) if given.json else as_text(report))
    return STATUS[report.verdict]


if __name__ == "__main__":
    sys.exit(main())
