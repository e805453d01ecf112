"""Checks an audit package without trusting whoever made it. One file; Python 3.9 or later, no network, no installing.

    python3 -I verifier.py PACKAGE --policy FILE [--period-end ISO] [--max-unwitnessed N] [--json]

The policy holds the public keys that you trust. Get it from the reviewer and the witnesses, never from the package:

    log <key> [origin]    the key that signs the log; the origin is the key's name unless it is given
    witness <key>         a witness outside the hospital (C2SP cosignature/v1)
    quorum <K>            how many of the witnesses must have cosigned
    reviewer <key>        who may sign approvals
    tsa <file>            certificate (PEM) of the time-stamp authority, beside the policy
    heartbeat <seconds>   the longest silence that needs no explanation
    window <seconds>      how far clocks may differ and witnesses lag (900 if not given)

Exit status: 0 PASS; 1 FAIL, something is not as it must be; 2 INCOMPLETE, nothing wrong is seen, but not all that is
needed can be seen; 3 the command or a file could not be used.
"""

from __future__ import annotations

import argparse
import base64
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
from collections import namedtuple
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

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
    """Something that is not what its standard says, and the member in which it is."""

    def __init__(self, what: str, where: str = "package") -> None:
        super().__init__(what)
        self.what, self.where = what, where


class Unusable(Exception):
    """A file that cannot be read, or a policy that is not clear."""


Remark = namedtuple("Remark", "verdict where what index")


class Report:
    """What was found. The verdict is that of the gravest remark: FAIL, then INCOMPLETE; a FINDING changes nothing."""

    def __init__(self) -> None:
        self.remarks: list[Remark] = []
        self.totals = {FAIL: 0, INCOMPLETE: 0, FINDING: 0}
        self.first_bad: int | None = None
        self.figures: dict[str, Any] = {}

    def add(self, verdict: str, where: str, what: str, index: int | None = None) -> None:
        """Take a remark; ``index`` is that of the entry which it is about."""
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
        said = {"verdict": self.verdict, "first_bad_index": self.first_bad, "totals": self.totals}
        remarks = [remark._asdict() for remark in self.remarks]
        return {**said, "remarks": remarks, **self.figures, "does_not_prove": DOES_NOT_PROVE}


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


def _eightfold(point: Point) -> Point:
    for _ in range(3):
        point = _add(point, point)
    return point


def _multiples(point: Point) -> tuple[Point, ...]:
    return tuple(accumulate([point] * 15, _add, initial=IDENTITY))


_B = (15112221349535400772501151409588531511454012693041857206046113283949847762202, 4 * pow(5, -1, P) % P)
BASE_MULTIPLES = _multiples((_B[0], _B[1], 1, _B[0] * _B[1] % P))


@functools.lru_cache(maxsize=256)
def _negated_multiples(key: bytes) -> tuple[Point, ...] | None:
    point = _decode_point(key)
    if point is None or _encode_point(_eightfold(point)) == _encode_point(IDENTITY):
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
        here = _eightfold(_add(here, here))
        here = _add(_add(here, BASE_MULTIPLES[s >> shift & 15]), table[k >> shift & 15])
    return _encode_point(here) == signature[:32]


# ---- Signed notes and keys (C2SP signed-note), checkpoints (tlog-checkpoint), cosignatures (tlog-cosignature).

NOTE_KEY, COSIGNATURE_KEY = 0x01, 0x04
NOTE_BYTES_MAX, SIGNATURES_MAX, SIZE_MAX = 1_000_000, 100, 2**40
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]+")
Key = namedtuple("Key", "name kind key id")
Note = namedtuple("Note", "text signatures")  # signatures: (name, key id, payload); not verified
Checkpoint = namedtuple("Checkpoint", "size root text times")  # verified; times of the policy's witnesses, sorted


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        raise Malformed("not base64") from None
    if base64.b64encode(data).decode() != text:
        raise Malformed("not canonical base64")
    return data


def parse_key(line: str, kind: int) -> Key:
    """A key written as name+id+base64; the id is of SHA-256(name, newline, type, key). Raises Malformed."""
    parts = line.split("+", 2)
    if len(parts) != 3 or not _NAME.fullmatch(parts[0]):
        raise Malformed("a key is written as name+id+base64")
    material = _base64(parts[2])
    key_id = hashlib.sha256(parts[0].encode() + b"\n" + material).digest()[:4]
    if len(material) != 33 or material[0] != kind or key_id.hex() != parts[1]:
        raise Malformed(f"not a key of type {kind}, or not with its own id")
    if _negated_multiples(material[1:]) is None:
        raise Malformed("not a point of the curve, or one of small order")
    return Key(parts[0], kind, material[1:], key_id)


def parse_note(data: bytes) -> Note:
    """A signed note, to the byte. Raises Malformed."""
    try:
        note = data.decode()
    except UnicodeDecodeError:
        raise Malformed("not UTF-8") from None
    if len(data) > NOTE_BYTES_MAX or any(character < " " and character != "\n" for character in note):
        raise Malformed("too long, or holds a control character")
    text, blank, tail = note.rpartition("\n\n")
    lines = tail[:-1].split("\n")
    if not blank or not tail.endswith("\n") or len(lines) > SIGNATURES_MAX:
        raise Malformed("no signatures after an empty line, or too many")
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


def signed_at(note: Note, key: Key) -> int | None:
    """When this key signed (unix seconds; 0 if it gives no time), or None. A false signature in its name: Malformed."""
    times = []
    for name, key_id, payload in note.signatures:
        if (name, key_id) == (key.name, key.id):
            time, message, signature = 0, note.text.encode(), payload
            if key.kind == COSIGNATURE_KEY:
                time, signature = int.from_bytes(payload[:8], "big"), payload[8:]
                message = f"cosignature/v1\ntime {time}\n".encode() + message
            if time >= 2**36 or not ed25519_verify(key.key, message, signature):
                raise Malformed(f"the signature of {key.name} does not verify")
            times.append(time)
    return min(times, default=None)


# ---- JSON with one form for one value (RFC 8785, without floats).

INTEGER_MAX = 2**53 - 1


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > INTEGER_MAX:
        raise ValueError
    return int(text)


def _refused(_: str) -> NoReturn:
    raise ValueError


_decode_json = json.JSONDecoder(parse_float=_refused, parse_int=_integer, parse_constant=_refused).decode
_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


def canonical(value: Any) -> bytes:
    """The one form of a value. Keys are ASCII here, where the order of UTF-16 units is that of characters."""
    return _encode_json(value).encode()


def parse_json(data: bytes) -> Any:
    """The value, if these are its canonical bytes. Raises Malformed."""
    try:
        value = _decode_json(data.decode())
        if canonical(value) == data:
            return value
    except (ValueError, RecursionError):
        raise Malformed("not JSON, or with a number or a depth that is not allowed") from None
    raise Malformed("not in canonical form (RFC 8785)")


# ---- The package: a zip of stored members, one after the other, in which no byte is free to differ.

MEMBERS = {
    # pattern of the name: bytes that such a member can have at most
    r"MANIFEST\.json": 1 << 26,
    r"README\.md|verifier\.py": 1 << 20,
    r"checkpoint|checkpoints/[0-9]{13}": NOTE_BYTES_MAX,
    r"entries/[0-9]{13}": CHUNK * (2 + 65535),
    r"tsa/[0-9]{13}\.[0-9]{2}\.tsr": 1 << 16,
    r"reconciliation/[a-z0-9][a-z0-9_-]{0,63}\.json": 1 << 26,
    r"summary\.html|tables/[a-z0-9][a-z0-9_-]{0,63}\.csv|phi_scan\.json|sm3/checkpoint": 1 << 30,
    r"fhir/[0-9]{13}\.ndjson|dicom-audit/[0-9]{13}\.xml": 1 << 28,
}
DIRECTORY_BYTES_MAX = 1 << 24
_CENTRAL = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s2B4HL2L2H")
_END = struct.Struct("<4s4H2LH")
_DAY_ONE = 33  # 1980-01-01 as zip writes it: the time of every member
_MODE = 0o100644 << 16


Member = namedtuple("Member", "size crc start")


class Package:
    """The members of a package. Each place has exactly one form; anything else raises Malformed."""

    def __init__(self, file: BinaryIO, report: Report) -> None:
        self._file = file
        self.report = report
        self.digests: dict[str, Any] = {}  # of MANIFEST.json, once it is read
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
        self._file.seek(max(start, 0))
        data = self._file.read(size)
        if start < 0 or len(data) != size:
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

    def read(self, name: str) -> bytes:
        """A member's bytes. Other bytes than were packed are a FAIL, and are read on, to find the entry."""
        if name not in self.members:
            raise Malformed("missing", name)
        member = self.members[name]
        data = self._read(member.start, member.size)
        same = name == "MANIFEST.json" or self.digests.get(name) == "sha256:" + hashlib.sha256(data).hexdigest()
        if zlib.crc32(data) != member.crc or not same:
            self.report.add(FAIL, name, "its bytes are not those that MANIFEST.json names")
        return data


# ---- The policy: what the reader of the package trusts.


class Policy:
    """Keys and limits. Raises Unusable for a line that is not clear."""

    def __init__(self, path: Path) -> None:
        self.logs: list[tuple[Key, str]] = []
        self.witnesses: list[Key] = []
        self.reviewers: list[Key] = []
        self.tsa: Path | None = None
        self.numbers = {"quorum": 0, "heartbeat": 0, "window": 900}
        try:
            for line in path.read_bytes().decode().split("\n"):
                words = line.split()
                if words and not words[0].startswith("#"):
                    self._take(words, path)
        except (OSError, ValueError, Malformed) as error:
            raise Unusable(f"policy: {error}") from None
        if len(self.logs) != 1:
            raise Unusable("policy: one log line wanted")
        self.log, self.origin = self.logs[0]
        keys = [key.key for key in (self.log, *self.witnesses, *self.reviewers)]
        if len(set(keys)) != len(keys):
            raise Unusable("policy: one key in two places; who signs, who witnesses and who reviews must be others")
        if not min(1, len(self.witnesses)) <= self.numbers["quorum"] <= len(self.witnesses):
            raise Unusable("policy: a quorum from 1 to the number of witnesses wanted, and none without witnesses")

    def _take(self, words: list[str], path: Path) -> None:
        word, value = words[0], words[-1]
        if word == "log" and len(words) in {2, 3}:
            key = parse_key(words[1], NOTE_KEY)
            self.logs.append((key, value if len(words) == 3 else key.name))
        elif len(words) != 2:
            raise Malformed(f"a line is not understood: {word[:20]}")
        elif word in {"witness", "reviewer"}:
            keys, kind = (self.witnesses, COSIGNATURE_KEY) if word == "witness" else (self.reviewers, NOTE_KEY)
            keys.append(parse_key(value, kind))
        elif word == "tsa" and self.tsa is None:
            self.tsa = path.parent / value
            self.tsa.read_bytes()  # or OSError
        elif word in self.numbers and re.fullmatch(r"[1-9][0-9]{0,8}", value):
            self.numbers[word] = int(value)
        else:
            raise Malformed(f"a line is not understood: {word[:20]}")


# ---- Checkpoints: signed by the log, cosigned by witnesses, stamped by an authority.


def _checkpoint(package: Package, name: str, policy: Policy) -> Checkpoint:
    try:
        note = parse_note(package.read(name))
        lines = note.text.split("\n")
        if len(lines) != 4 or lines[3] or not re.fullmatch(r"0|[1-9][0-9]{0,11}", lines[1]):
            raise Malformed("not the three lines of a checkpoint")
        size, root = int(lines[1]), _base64(lines[2])
        if signed_at(note, policy.log) is None:
            raise Malformed("not signed by the log's key")
        if lines[0] != policy.origin or len(root) != 32:
            raise Malformed("a checkpoint of another log, or its root is impossible")
        if name not in {"checkpoint", f"checkpoints/{size:013d}"}:
            raise Malformed("its size is not that of its name")
        times = [signed_at(note, key) for key in policy.witnesses]
        return Checkpoint(size, root, note.text, sorted(time for time in times if time))
    except Malformed as wrong:
        raise Malformed(wrong.what, name) from None


def read_checkpoints(package: Package, policy: Policy) -> list[Checkpoint]:
    """All of them, smallest first; the last is the exported one. Raises Malformed if that one cannot be believed."""
    newest = _checkpoint(package, "checkpoint", policy)
    found = {newest.size: newest}
    for name in package.members:
        if name.startswith("checkpoints/"):
            try:
                older = _checkpoint(package, name, policy)
                if older.size >= newest.size:
                    raise Malformed("not older than the newest checkpoint", name)
                found[older.size] = older
            except Malformed as wrong:
                package.report.add(FAIL, wrong.where, wrong.what)
    return [found[size] for size in sorted(found)]


def check_stamps(package: Package, policy: Policy, checkpoints: Sequence[Checkpoint]) -> list[tuple[int, int]]:
    """(size of the checkpoint, unix seconds) of every time-stamp token (RFC 3161) that verifies, by ``openssl ts``."""
    texts = {checkpoint.size: checkpoint.text for checkpoint in checkpoints}
    names = [name for name in package.members if name.startswith("tsa/")]
    stamped: list[tuple[int, int]] = []
    for name in names:
        token, size = package.read(name), int(name[4:17])
        try:
            if size not in texts:
                raise Malformed("stamps a checkpoint that is not here")
            if policy.tsa is not None:
                stamped.append((size, _stamp_time(token, texts[size].encode(), policy.tsa)))
        except Malformed as wrong:
            package.report.add(FAIL, name, wrong.what)
        except (OSError, subprocess.SubprocessError):
            package.report.add(INCOMPLETE, name, "not checked: this machine has no usable openssl command")
    if names and policy.tsa is None:
        package.report.add(FINDING, "tsa", f"{len(names)} time stamps not looked at: the policy names no authority")
    elif policy.tsa is not None and not names:
        package.report.add(INCOMPLETE, "tsa", "the policy names a time-stamp authority, and the package holds no stamp")
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
        if match is None:
            raise Malformed("not a time stamp")
        moment = datetime.strptime(b" ".join(match.groups()).decode(), "%b %d %H:%M:%S %Y").replace(tzinfo=UTC)
        # The authority's certificate had to be valid then; it may have run out since.
        then = ["-attime", str(int(moment.timestamp())), "-partial_chain", "-CAfile", str(authority)]
        if _openssl("-verify", "-data", str(data), "-in", str(stamp), *bare, *then) is None:
            raise Malformed("not a stamp of the pinned authority over this checkpoint")
    return int(moment.timestamp())


def _openssl(*words: str) -> bytes | None:
    there = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(["openssl", "ts", *words], capture_output=True, timeout=60, check=False, env=there)
    if b"nknown option" in done.stderr or b"nvalid command" in done.stderr:
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
        self._waiting = list(reversed(checkpoints))
        self._size = self._good = 0
        self._report = report

    def take(self, leaves: list[bytes]) -> None:
        """The next chunk of leaf hashes; only the last may be shorter than CHUNK."""
        while self._waiting and self._waiting[-1].size <= self._size + len(leaves):
            checkpoint = self._waiting.pop()
            rest = leaves[: checkpoint.size - self._size]
            parts = [root for _, root in self._peaks] + ([_tree_root(rest)] if rest else [])
            here = parts.pop() if parts else hashlib.sha256(b"").digest()
            while parts:
                here = hashlib.sha256(b"\1" + parts.pop() + here).digest()
            last = f"among {self._good} to {max(checkpoint.size - 1, 0)}"
            if here == checkpoint.root:
                self._good = checkpoint.size
            else:
                what = f"the entries do not make this checkpoint's root; the first bad one is {last}"
                self._report.add(FAIL, f"checkpoint of size {checkpoint.size}", what, self._good)
        self._size += len(leaves)
        if len(leaves) == CHUNK:
            width, root = CHUNK, _tree_root(leaves)
            while self._peaks and self._peaks[-1][0] == width:
                root = hashlib.sha256(b"\1" + self._peaks.pop()[1] + root).digest()
                width *= 2
            self._peaks.append((width, root))


def leaves_of(name: str, data: bytes, count: int) -> Iterator[tuple[bool, bytes]]:
    """(True, an entry) or (False, the leaf hash of one out of scope). Raises Malformed unless there are ``count``."""
    at = 0
    for _ in range(count):
        begin = at + 2
        length = int.from_bytes(data[at:begin], "big")
        at = begin + (length or 32)
        if at > len(data):
            raise Malformed("holds fewer entries than its place says", name)
        yield length > 0, data[begin:at]
    if at != len(data):
        raise Malformed("holds more than its entries", name)


# ---- Entries: form, order, time, and what one kind demands of another.

SCHEMA = "zhiying.audit/1"
ENVELOPE = frozenset({"schema", "kind", "key", "call", "source", "seq", "time", "boot", "tick_us", "body"})
CALL_NEEDED = frozenset({"CALL_INTENT", "CALL_RESULT", "RELEASED"})
CALL_ABSENT = frozenset({"LOG_START", "APPROVAL"})
INTENT, RESULT = 1, 2
_CALL = re.compile(r"[0-9a-f]{32}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
_TEXTS = (
    *(("kind", re.compile(r"[A-Z][A-Z0-9_]{0,63}")), ("key", re.compile(r"[a-z0-9:._-]{1,128}"))),
    *(("source", re.compile(r"[A-Za-z0-9._:/-]{1,64}")), ("time", _TIME)),
)


class Entries:
    """All entries, in order. Memory: about 100 bytes for each key, and for each call."""

    def __init__(self, policy: Policy, report: Report, windows: Windows) -> None:
        self._policy, self._report, self._windows = policy, report, windows
        self._keys: set[bytes] = set()
        self._sources: dict[str, tuple[int, int, str]] = {}  # next seq, entries hidden until then, last time
        self._calls: dict[bytes, int] = {}
        self._open: dict[bytes, int] = {}
        self._before: tuple[int, datetime] | None = None
        self._gap: tuple[float, int, int] = (0.0, 0, 0)
        self._missing_seqs = self._outside = self._heartbeats = 0
        self.decisions = Decisions(policy, report)
        self.counts: dict[str, int] = {}
        self.hidden = 0

    def take(self, index: int, data: bytes) -> None:
        """An entry's bytes."""
        try:
            entry = parse_json(data)
            moment = self._envelope(entry)
            kind, body, call = entry["kind"], entry["body"], entry["call"]
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self._order(index, entry["key"], entry["source"], entry["seq"], entry["time"])
            self._moment(index, entry["time"], moment)
            if (kind == "LOG_START") != (index == 0) or (index == 0 and body.get("origin") != self._policy.origin):
                raise Malformed("a log begins with LOG_START of its own origin, once")
            if kind == "APPROVAL":
                self.decisions.approval(index, body)
            elif kind == "CALL_INTENT":
                self.decisions.intent(index, entry["time"], body, hidden=self.hidden > 0)
            if call is not None:
                self._call(index, kind, bytes.fromhex(call))
        except Malformed as wrong:
            self._report.add(FAIL, f"entry {index}", wrong.what, index)

    def _envelope(self, entry: Any) -> datetime:
        if type(entry) is not dict or entry.keys() != ENVELOPE or entry["schema"] != SCHEMA:
            raise Malformed("not the fields of an entry, or of another schema")
        for name, form in _TEXTS:
            if type(entry[name]) is not str or not form.fullmatch(entry[name]):
                raise Malformed(f"{name}: not of its form")
        kind, call, seq = entry["kind"], entry["call"], entry["seq"]
        if call is not None and (type(call) is not str or not _CALL.fullmatch(call)):
            raise Malformed("call: not 32 hexadecimal digits")
        if kind in (CALL_NEEDED if call is None else CALL_ABSENT):
            raise Malformed(f"call: present or absent against the rule of {kind}")
        if type(seq) is not int or seq < 0 or type(entry["body"]) is not dict:
            raise Malformed("seq or body: of the wrong type")
        try:
            return datetime.fromisoformat(entry["time"][:-1])
        except ValueError:
            raise Malformed("time: no such moment") from None

    def _order(self, index: int, key: str, source: str, seq: int, time: str) -> None:
        digest = hashlib.sha256(key.encode()).digest()[:16]  # of one length, so that memory is known
        due, hidden_then, time_then = self._sources.get(source, (0, 0, ""))
        self._sources[source] = (seq + 1, self.hidden, max(time, time_then))
        size = len(self._keys)
        self._keys.add(digest)
        if len(self._keys) == size:
            self._report.add(FAIL, f"entry {index}", "its key is another entry's", index)
        # Only entries that are here as hashes can be missing ones: those since the source's last known entry.
        self._missing_seqs += max(seq - due, 0)
        if not 0 <= seq - due <= self.hidden - hidden_then or self._missing_seqs > self.hidden:
            self._report.add(FAIL, f"entry {index}", f"seq {seq} of its source where {due} is due", index)
        if time < time_then:
            self._report.add(FAIL, f"entry {index}", "earlier than its source's entry before it", index)

    def _moment(self, index: int, time: str, moment: datetime) -> None:
        if index >= self._windows.change_at:
            self._windows.move(index)
        if not self._windows.early <= time <= self._windows.late:
            self._outside += 1
            self._report.add(FAIL, f"entry {index}", "its time is outside its checkpoint's window", index)
        before, then = self._before or (index, moment)
        self._before = (index, moment)
        seconds, limit = (moment - then).total_seconds(), self._policy.numbers["heartbeat"]
        self._gap = max(self._gap, (seconds, before, index), key=lambda gap: gap[0])
        if limit and seconds > limit:
            self._heartbeats += int(seconds // limit)
            what = f"silence of {seconds:.0f} s before it, heartbeats are due every {limit} s"
            self._report.add(INCOMPLETE, f"entry {index}", what, index)

    def _call(self, index: int, kind: str, call: bytes) -> None:
        state = self._calls.get(call, 0)
        needed = {"CALL_RESULT": INTENT, "RELEASED": INTENT | RESULT}.get(kind, 0)
        if state & needed != needed:
            what = f"{kind} without its {'CALL_RESULT' if state & INTENT else 'CALL_INTENT'} before it"
            hidden = ", or it is hidden" if self.hidden else ""
            self._report.add(INCOMPLETE if hidden else FAIL, f"entry {index}", what + hidden, index)
        if kind == "CALL_INTENT":
            self._open.setdefault(call, index)
        elif kind in {"CALL_RESULT", "FAILED", "DENIED"}:
            self._open.pop(call, None)
        self._calls[call] = state | {"CALL_INTENT": INTENT, "CALL_RESULT": RESULT}.get(kind, 0)

    def finish(self) -> None:
        """What only the end shows."""
        for index in self._open.values():
            what = "a call that was begun and has no result, failure or denial"
            self._report.add(FINDING, f"entry {index}", what + (" in scope" if self.hidden else ""), index)
        self._report.figures.update(
            in_scope=sum(self.counts.values()),
            out_of_scope=self.hidden,
            counts=dict(sorted(self.counts.items())),
            largest_gap={"seconds": self._gap[0], "from_index": self._gap[1], "to_index": self._gap[2]},
            heartbeats_missing=self._heartbeats if self._policy.numbers["heartbeat"] else None,
            outside_window=self._outside,
            calls_open=len(self._open),
            decisions=self.decisions.figures,
        )


# ---- Decisions: was what ran approved, by a reviewer's key, for exactly this? Weighed again from logged conditions.

APPROVAL_HEADER = "zhiying-approval/1"
APPROVAL_FIELDS = {"approval", "conditions", "criteria_set", "model", "reviewer_org", "valid"}
CHINA = timezone(timedelta(hours=8))  # in whose civil days approvals are valid
ALWAYS_CHECKED = {"MODEL_DIGEST": "EQUAL", "VALIDITY": "IN_FORCE"}
Approval = namedtuple("Approval", "model policy starts ends conditions")  # times as entries write them; ends excluded
_PERSONAL = re.compile(r"[0-9]{6,}|[0-9]{4}[-./][0-9]{1,2}[-./][0-9]{1,2}|(?:[0-9]+\.){5,}")
_NUMBER = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,2})?")
_CLASS = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,6})?)(?:(\+)|-([0-9]{1,4}))?")


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
    if len(allowed) == 2 and all(_NUMBER.fullmatch(str(each)) for each in allowed):
        match = _CLASS.fullmatch(observed)
        if match is None:
            return False
        # A band such as 70-74 agrees if any value in it is allowed: the log holds nothing finer.
        high = float("inf") if match[2] else float(match[3] or match[1])
        return float(match[1]) <= float(allowed[1]) and high >= float(allowed[0])
    return allowed == ["*"] or observed in [_token(str(each)) for each in allowed]


class Decisions:
    """Approvals seen so far, and every call's permission weighed against them."""

    def __init__(self, policy: Policy, report: Report) -> None:
        self._policy, self._report = policy, report
        self._approvals: dict[str, Approval] = {}
        self.figures: dict[str, Any] = {"evaluated": 0, "agree": 0, "differ": 0, "unknown": 0, "differ_at": []}

    def approval(self, index: int, body: dict[str, Any]) -> None:
        """An APPROVAL entry. Raises Malformed for one that is none, or that nobody signed who may."""
        text = str(body.get("note"))
        if body.get("note_digest") != "sha256:" + hashlib.sha256(text.encode()).hexdigest():
            raise Malformed("approval: the note's digest is another")
        note = parse_note(text.encode())
        if any(ed25519_verify(self._policy.log.key, note.text.encode(), payload) for _, _, payload in note.signatures):
            raise Malformed("approval: signed by the log's own key")
        if not self._policy.reviewers:
            self._report.add(INCOMPLETE, f"entry {index}", "approval: the policy names no reviewer", index)
        elif all(time is None for time in [signed_at(note, key) for key in self._policy.reviewers]):
            raise Malformed("approval: signed by no reviewer of the policy")
        header, _, line = note.text.partition("\n")
        if header != APPROVAL_HEADER:
            self._report.add(INCOMPLETE, f"entry {index}", "approval: of a form that this version cannot read", index)
            return
        try:
            said = parse_json(line[:-1].encode())
            valid, conditions = said["valid"], {name.upper(): each for name, each in said["conditions"].items()}
            policy = hashlib.sha256(canonical({"valid": valid, "conditions": said["conditions"]})).hexdigest()
            starts, ends = _day(valid["from"], 0), _day(valid["to"], 1)
            approval = Approval(said["model"], "sha256:" + policy, starts, ends, conditions)
            if said.keys() != APPROVAL_FIELDS:
                raise ValueError
            self._approvals.setdefault(said["approval"].lower(), approval)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
            raise Malformed("approval: its text is not an approval's") from None

    def intent(self, index: int, time: str, body: dict[str, Any], *, hidden: bool) -> None:
        """A CALL_INTENT entry: FAIL where the log's own conditions do not give the permission that was used."""
        approval = self._approvals.get(str(body.get("approval")).lower())
        if approval is None and hidden:
            self.figures["unknown"] += 1
            self._report.add(INCOMPLETE, f"entry {index}", "the approval that it names is not in scope", index)
            return
        why = "no approval of this name before it" if approval is None else _difference(approval, time, body)
        self.figures["evaluated"] += 1
        self.figures["agree" if why is None else "differ"] += 1
        if why is not None:
            if len(self.figures["differ_at"]) < SHOWN_MAX:
                self.figures["differ_at"].append(index)
            self._report.add(FAIL, f"entry {index}", f"decision differs: {why}", index)


def _difference(approval: Approval, time: str, body: dict[str, Any]) -> str | None:
    """Why this call was not what the approval allows; None if it was."""
    if body.get("model") != approval.model:
        return "another model than the approved one"
    if body.get("policy") != approval.policy:
        return "another policy digest than the approval's"
    if not approval.starts <= time < approval.ends:
        return "the approval was not in force"
    seen = set()
    checks = body.get("checks")
    for check in checks if type(checks) is list else []:
        said = check if type(check) is dict else {}
        name, outcome, observed = (str(said.get(key)) for key in ("condition", "outcome", "observed"))
        if outcome != "HOLDS":
            return f"{name} has the outcome {outcome}"
        allowed = [ALWAYS_CHECKED[name]] if name in ALWAYS_CHECKED else approval.conditions.get(name)
        if not condition_holds(allowed, observed) or name in seen:
            return f"{name} does not hold for what was observed, or is there twice"
        if name == "MAX_AUTONOMY" and observed != body.get("autonomy"):
            return "the autonomy that was checked is not the one that was used"
        seen.add(name)
    lacking = sorted((approval.conditions.keys() | ALWAYS_CHECKED.keys()) - seen)
    return f"not checked: {', '.join(lacking)}" if lacking else None


# ---- The whole.

MANIFEST_FIELDS = "counts does_not_prove filter first format last members origin period size verifier"


def _read_manifest(package: Package) -> dict[str, Any]:
    manifest = parse_json(package.read("MANIFEST.json"))
    if type(manifest) is not dict or " ".join(sorted(manifest)) != MANIFEST_FIELDS or manifest["format"] != FORMAT:
        raise Malformed(f"not the fields of {FORMAT}", "MANIFEST.json")
    members, period, words = manifest["members"], manifest["period"], manifest["filter"]
    first, last, proven = manifest["first"], manifest["last"], manifest["does_not_prove"]
    if not all(type(each) is dict for each in (members, period, words)) or period.keys() != {"from", "to"}:
        raise Malformed("period, filter or members: of the wrong type", "MANIFEST.json")
    for name in sorted((members.keys() ^ package.members.keys()) - {"MANIFEST.json"}):
        package.report.add(FAIL, name, "in the package or in MANIFEST.json, and not in both")
    good = {
        "period: not times as entries write them": all(one is None or _is_time(one) for one in period.values()),
        "filter: not a map of plain texts": all(type(text) is str for text in words.values()),
        "the verifier's digest is not that of verifier.py": manifest["verifier"] == members.get("verifier.py"),
        "does_not_prove: not in en and zh": type(proven) is dict and proven.keys() == {"en", "zh"},
        "first and last: not indices of this log": (first is None and last is None)
        or (all(type(one) is int for one in (first, last, manifest["size"])) and 0 <= first <= last < manifest["size"]),
    }
    for what, holds in good.items():
        if not holds:
            package.report.add(FAIL, "MANIFEST.json", what)
    package.digests = members
    return manifest


def _is_time(text: Any) -> bool:
    return type(text) is str and _TIME.fullmatch(text) is not None


def _check_entries(package: Package, size: int, entries: Entries, tree: Tree) -> None:
    starts = range(0, size, CHUNK)
    found = {int(name[8:]) for name in package.members if name.startswith("entries/")}
    for first in sorted(found - {*starts[: len(package.members)]}):
        package.report.add(FAIL, f"entries/{first:013d}", "entries that no checkpoint has", first)
    for first in starts:
        name, index = f"entries/{first:013d}", first
        hashes: list[bytes] = []
        try:
            for known, data in leaves_of(name, package.read(name), min(CHUNK, size - first)):
                hashes.append(hashlib.sha256(b"\0" + data).digest() if known else data)
                if known:
                    entries.take(index, data)
                else:
                    entries.hidden += 1
                index += 1
        except Malformed as wrong:
            # Nothing after it can be placed.
            package.report.add(FAIL, wrong.where, wrong.what, index)
            return
        tree.take(hashes)


def _check_witnesses(
    quorum: int, report: Report, checkpoints: Sequence[Checkpoint], period_end: str | None, tail_max: int
) -> list[tuple[int, int]]:
    """(size, unix seconds at which a quorum had cosigned) of the checkpoints that have one."""
    size = checkpoints[-1].size
    timed = [(one.size, one.times[quorum - 1]) for one in checkpoints if quorum and len(one.times) >= quorum]
    witnessed, at = timed[-1] if timed else (0, 0)
    shown = datetime.fromtimestamp(at, UTC).strftime(TIME_FORM) if timed else None
    report.figures.update(witnessed_size=witnessed, witnessed_at=shown, unwitnessed_tail=size - witnessed)
    if not quorum:
        report.add(INCOMPLETE, "policy", "names no witness: nobody outside the hospital vouches for this log")
    elif not timed:
        report.add(INCOMPLETE, "checkpoint", f"no checkpoint has cosignatures of {quorum} witnesses of the policy")
    elif size - witnessed > tail_max:
        what = f"{size - witnessed} newest entries without a quorum of witnesses, {tail_max} allowed"
        report.add(INCOMPLETE, "checkpoint", what, witnessed)
    if period_end is not None and (shown or "") < period_end:
        report.add(INCOMPLETE, "checkpoint", f"nothing witnessed at or after the period's end, {period_end}")
    return timed


def verify(file: BinaryIO, policy: Policy, period_end: str | None = None, tail_max: int = 0) -> Report:
    """The whole check. ``period_end`` is as entries write time; without it the package's own period counts."""
    report = Report()
    try:
        package = Package(file, report)
        manifest = _read_manifest(package)
        end = period_end or manifest["period"]["to"]
        checkpoints = read_checkpoints(package, policy)
        size = checkpoints[-1].size
        report.figures.update(origin=policy.origin, size=size, period=manifest["period"], filter=manifest["filter"])
        if (manifest["origin"], manifest["size"]) != (policy.origin, size):
            report.add(FAIL, "MANIFEST.json", "origin or size: not those of the checkpoint")
        end = end if _is_time(end) else None
        timed = _check_witnesses(policy.numbers["quorum"], report, checkpoints, end, tail_max)
        stamped = check_stamps(package, policy, checkpoints)
        report.figures["stamped_size"] = max((one for one, _ in stamped), default=0)
        entries = Entries(policy, report, Windows([*timed, *stamped], policy.numbers["window"]))
        _check_entries(package, size, entries, Tree(checkpoints, report))
        entries.finish()
        if "LOG_START" not in entries.counts:
            report.add(INCOMPLETE, "entry 0", "the log's start is out of scope, or the log is empty", 0)
        if manifest["counts"] != entries.counts:
            report.add(FAIL, "MANIFEST.json", "counts: not those of the entries")
        for name in package.members:
            if not name.startswith(("MANIFEST.json", "checkpoint", "entries/", "tsa/")):
                package.read(name)
    except Malformed as wrong:
        report.add(FAIL, wrong.where, wrong.what)
    return report


def as_text(report: Report) -> str:
    """For people."""
    lines = [report.verdict]
    if report.first_bad is not None:
        lines.append(f"first bad index: {report.first_bad}")
    lines += [f"  {remark.verdict:10} {remark.where}: {remark.what}" for remark in report.remarks]
    if sum(report.totals.values()) > len(report.remarks):
        lines.append(f"  ... and {sum(report.totals.values()) - len(report.remarks)} more")
    for name, value in report.figures.items():
        lines.append(f"{name.replace('_', ' ')}: {value if isinstance(value, (str, int)) else json.dumps(value)}")
    lines += ["", "This does not prove / 本验证不能证明:"]
    lines += [f"  - {text}" for text in (*DOES_NOT_PROVE["en"], *DOES_NOT_PROVE["zh"])]
    # What a stranger wrote must not drive the reader's terminal.
    return "\n".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", line) for line in lines)


def _period_end(text: str) -> str:
    moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    if moment.tzinfo is None:
        raise ValueError
    return moment.astimezone(UTC).strftime(TIME_FORM)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Unusable(message)


def main(words: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status."""
    parser = _Parser(prog="verifier.py", description="Checks an audit package. Exit status 0 only for PASS.")
    parser.add_argument("package", type=Path)
    parser.add_argument("--policy", type=Path, required=True, help="the keys that you trust, not from the package")
    parser.add_argument("--period-end", type=_period_end, help="ISO 8601 with zone: when the log must be witnessed")
    parser.add_argument("--max-unwitnessed", type=int, default=0, help="newest entries that may lack witnesses (0)")
    parser.add_argument("--json", action="store_true")
    for stream in (sys.stdout, sys.stderr):
        getattr(stream, "reconfigure", lambda **_: None)(encoding="utf-8", errors="backslashreplace")
    try:
        given = parser.parse_args(words)
        policy = Policy(given.policy)
        with given.package.open("rb") as file:
            report = verify(file, policy, given.period_end, given.max_unwitnessed)
    except (Unusable, OSError) as wrong:
        print(f"verifier.py: {getattr(wrong, 'strerror', None) or wrong}", file=sys.stderr)
        return UNUSABLE
    print(json.dumps(report.as_json(), ensure_ascii=False, indent=1) if given.json else as_text(report))
    return STATUS[report.verdict]


if __name__ == "__main__":
    sys.exit(main())
