"""Checks an audit package without trusting whoever made it. One file; Python 3.9 or later, no network, no installing.

    python3 -I verifier.py PACKAGE --policy FILE [--period-end ISO] [--max-unwitnessed N] [--json]

The policy holds the public keys that you trust. Get it from the reviewer and the witnesses, never from the package:

    log <key> [origin]    the key that signs the log; the origin is the key's name unless it is given
    witness <key>         a witness outside the hospital (C2SP cosignature/v1)
    quorum <K>            how many of the witnesses must have cosigned
    reviewer <key>        who may sign approvals and judge what is in use
    person <key> <organisation> <ROLE,...>    who may sign what else: this and the next lines as in the trust policy
    signers <n>, panel <n>, follow-up <days> <days if listed>    2, 5, 365 182 if not given
    organisation ..., criteria ..., minors-under ...    may be there, and are not looked at
    restorer <key>        who may sign that a log goes on from a backup, or after another log
    follows <origin> <size> <root>    the head of the log before this one, from its own package
    sm3 <key>             the log's key under the name <origin>/sm3: the SM3 tree is wanted too
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
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from itertools import accumulate, combinations
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

FORMAT = "zhiying.audit-package/1"
CHUNK = 1024  # entries in one member; the last member holds the rest
PASS, FAIL, INCOMPLETE, FINDING = "PASS", "FAIL", "INCOMPLETE", "FINDING"
STATUS, UNUSABLE = {PASS: 0, FAIL: 1, INCOMPLETE: 2}, 3
SHOWN_MAX = 40  # remarks of one sort that are printed; all are counted
UTC = timezone.utc  # noqa: UP017 - datetime.UTC is of Python 3.11
TIME_FORM = "%Y-%m-%dT%H:%M:%S.%fZ"
DOES_NOT_PROVE = {
    "en": [
        "that what was logged was true, or a result medically correct: a log keeps what it is told",
        "that no AI call was made outside the log: compare the PACS's list of our output UIDs (reconciliation)",
        "that witnesses are independent; of entries that no quorum cosigned, more than that the hospital's key signed",
        "what entries out of scope say: they are here as hashes; honest exports hide no suspension, stop or approval",
        "that the monitor's figures are right: `zhiying review recompute` makes them again, this file does not",
        "that a denial was right that is counted as unknown (what the patient wanted, what an image did not say)",
        "the exporter's words: period, filter, summary.html, tables, fhir, dicom-audit, phi_scan.json, reconciliation",
    ],
    "zh": [
        "不能证明写入日志的内容真实，也不能证明结果在医学上正确：日志只保存所写入的内容",
        "不能证明没有绕过日志的 AI 调用：请与 PACS 中本系统输出 UID 清单核对（reconciliation）",
        "不能证明见证方相互独立；未经法定数量见证方会签的条目，只能证明由医院密钥签名",
        "不能证明范围之外条目的内容：它们仅以哈希出现；诚实的导出不会隐藏暂停、停用与批准",
        "不能证明监测数值正确：指标须用本产品重新计算，本程序不计算",
        "不能证明计为 unknown 的拒绝是正确的（例如患者的意愿、影像未说明的内容）",
        "导出者的陈述：期间、筛选条件、summary.html、tables、fhir、dicom-audit、phi_scan.json 与 reconciliation",
    ],
}
Malformed = ValueError  # what is not as its standard says; Python's own parsers say it so, too
ODD = (ValueError, TypeError, LookupError, AttributeError, OverflowError)  # what reading a stranger's JSON may raise


class Unusable(Exception):
    """A file that cannot be read, or a policy that is not clear."""


def _must(holds: object, otherwise: str) -> None:
    if not holds:
        raise Malformed(otherwise)


Remark = namedtuple("Remark", "verdict where what index")


class Report:
    """What was found. The verdict is that of the gravest remark: FAIL, then INCOMPLETE; a FINDING changes nothing."""

    def __init__(self) -> None:
        self.place = "zip directory"  # the member that is being looked at
        self.remarks: list[Remark] = []
        self.totals = {FAIL: 0, INCOMPLETE: 0, FINDING: 0}
        self.first_bad: int | None = None
        self.figures: dict[str, Any] = {}

    def add(self, verdict: str, where: str | int, what: str, index: int | None = None) -> None:
        """Take a remark; ``where`` is a member, or the index of an entry."""
        self.totals[verdict] += 1
        where, index = (where, index) if isinstance(where, str) else (f"entry {where}", where)
        if verdict == FAIL and index is not None and (self.first_bad is None or index < self.first_bad):
            self.first_bad = index
            self.remarks.insert(0, Remark(verdict, where, what, index))
        elif self.totals[verdict] <= SHOWN_MAX:
            self.remarks.append(Remark(verdict, where, what, index))

    def check(self, holds: object, where: str | int, otherwise: str) -> None:
        """FAIL, unless it holds."""
        if not holds:
            self.add(FAIL, where, otherwise)

    @property
    def verdict(self) -> str:
        """Of the whole."""
        return FAIL if self.totals[FAIL] else INCOMPLETE if self.totals[INCOMPLETE] else PASS

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        said = {"verdict": self.verdict, "first_bad_index": self.first_bad, "totals": self.totals, **self.figures}
        return {**said, "remarks": [remark._asdict() for remark in self.remarks], "does_not_prove": DOES_NOT_PROVE}


# ---- Ed25519 (RFC 8032, section 5.1.7), strict: canonical encodings only, S < L, no key of small order.
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]  # extended coordinates X, Y, Z, T with x = X/Z, y = Y/Z, x*y = T/Z
IDENTITY: Point = (0, 1, 1, 0)
_B = (15112221349535400772501151409588531511454012693041857206046113283949847762202, 4 * pow(5, -1, P) % P)
BASE: Point = (_B[0], _B[1], 1, _B[0] * _B[1] % P)


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
    x = x * ROOT_OF_MINUS_ONE % P if (v * x * x - u) % P else x
    if (v * x * x - u) % P or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


@functools.lru_cache(maxsize=256)
def _negated(key: bytes) -> Point | None:
    """Minus the key's point; None for what is no point, or one of small order."""
    point = _decode_point(key)
    if point is None:
        return None
    x, y, z, _ = functools.reduce(lambda here, _: _add(here, here), range(3), point)  # eight times the point
    return None if x == 0 and y == z else (P - point[0], point[1], 1, P - point[3])


@functools.lru_cache(maxsize=256)
def ed25519_verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``key`` (32 bytes) signed the message."""
    s, minus = int.from_bytes(signature[32:], "little"), _negated(key)
    if (len(key), len(signature)) != (32, 64) or s >= L or minus is None:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    here, table = IDENTITY, (IDENTITY, BASE, minus, _add(BASE, minus))
    for bit in range(252, -1, -1):  # s * B - k * A, one bit of both at a time
        here = _add(here, here)
        here = _add(here, table[(s >> bit & 1) + 2 * (k >> bit & 1)])
    inverse = pow(here[2], -1, P)
    x, y = here[0] * inverse % P, here[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little") == signature[:32]


# ---- Signed notes and keys (C2SP signed-note), checkpoints (tlog-checkpoint), cosignatures (tlog-cosignature).
NOTE_KEY, COSIGNATURE_KEY = 0x01, 0x04
NOTE_BYTES_MAX, SIGNATURES_MAX, SIZE_MAX = 1_000_000, 100, 2**40
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]+")
_SIGNATURE = re.compile(f"\u2014 ({_NAME.pattern}) ([^ ]+)")
_SIZE = re.compile(r"0|[1-9][0-9]{0,11}")
Key = namedtuple("Key", "name kind key id")
Note = namedtuple("Note", "text signatures")  # signatures: (name, key id, payload); not verified
Checkpoint = namedtuple("Checkpoint", "size root text times")  # verified; times of the policy's witnesses, sorted


def _base64(text: str) -> bytes:
    data = base64.b64decode(text.encode("ascii"), validate=True)
    _must(base64.b64encode(data).decode() == text, "not canonical base64")
    return data


def parse_key(line: str, kind: int) -> Key:
    """A key written as name+id+base64; the id is of SHA-256(name, newline, type, key). Raises Malformed."""
    name, _, rest = line.partition("+")
    shown, _, encoded = rest.partition("+")
    material = _base64(encoded)
    key_id = hashlib.sha256(name.encode() + b"\n" + material).digest()[:4]
    _must(_NAME.fullmatch(name) and key_id.hex() == shown, "a key is written as name+id+base64, with its own id")
    _must(len(material) == 33 and material[0] == kind, f"not a key of type {kind}")
    _must(_negated(material[1:]), "not a point of the curve, or one of small order")
    return Key(name, kind, material[1:], key_id)


def parse_note(data: bytes) -> Note:
    """A signed note, to the byte. Raises Malformed."""
    note = data.decode()
    _must(len(data) <= NOTE_BYTES_MAX and not re.search(r"[\x00-\x09\x0b-\x1f]", note), "too long, or not plain text")
    text, blank, tail = note.rpartition("\n\n")
    found = [_SIGNATURE.fullmatch(line) for line in tail[:-1].split("\n")]
    _must(blank and tail[-1:] == "\n" and len(found) <= SIGNATURES_MAX, "no signatures at the end, or too many")
    signatures = [(one[1], _base64(one[2])[:4], _base64(one[2])[4:]) for one in found if one]
    _must(len(signatures) == len(found) and all(one[2] for one in signatures), "a signature line is malformed")
    return Note(text + "\n", signatures)


def signed_at(note: Note, key: Key) -> int | None:
    """When this key signed (unix seconds; 0 if it gives no time), or None. A false signature in its name: Malformed."""
    times = []
    for name, key_id, payload in note.signatures:
        if (name, key_id) == (key.name, key.id):
            time, message, signature = 0, note.text.encode(), payload
            if key.kind == COSIGNATURE_KEY:
                time, signature = int.from_bytes(payload[:8], "big"), payload[8:]
                message = f"cosignature/v1\ntime {time}\n".encode() + message
            _must(time < 2**36 and ed25519_verify(key.key, message, signature), f"a false signature of {key.name}")
            times.append(time)
    return min(times, default=None)


# ---- JSON with one form for one value (RFC 8785, without floats).
def _integer(text: str) -> int:
    _must(len(text) <= 17 and abs(int(text)) < 2**53, "too large")  # ValueError for floats, NaN and Infinity, too
    return int(text)


_decode_json = json.JSONDecoder(parse_float=_integer, parse_int=_integer, parse_constant=_integer).decode
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
MEMBERS = {  # pattern of the name: bytes that such a member can have at most
    r"MANIFEST\.json": 1 << 26,
    r"checkpoint|checkpoints/[0-9]{13}|sm3/checkpoint": NOTE_BYTES_MAX,
    r"entries/[0-9]{13}": CHUNK * (2 + 65535),
    r"tsa/[0-9]{13}\.[0-9]{2}\.tsr": 1 << 16,
    # These are only compared with MANIFEST.json:
    r"README\.md|verifier\.py|summary\.html|phi_scan\.json|reconciliation/[a-z0-9][a-z0-9_-]{0,63}\.json": 1 << 26,
    r"tables/[a-z0-9_-]{1,64}\.csv": 1 << 30,
    r"fhir/[0-9]{13}\.ndjson|dicom-audit/[0-9]{13}\.xml": 1 << 28,
}
MEMBERS_MAX, BYTES_MAX = 0xFFFF - 1, 2**31 - 1  # beyond them a zip has another form
BLOCK = 1 << 23  # bytes that are read at once
_CENTRAL, _LOCAL, _END = struct.Struct("<4s4B4HL2L5H2L"), struct.Struct("<4s2B4HL2L2H"), struct.Struct("<4s4H2LH")
_DAY_ONE, _MODE = 33, 0o100644 << 16  # 1980-01-01 as zip writes it, the time of every member; a plain file
Member = namedtuple("Member", "size crc start")


class Package:
    """The members of a package. Each place has exactly one form; anything else raises Malformed."""

    def __init__(self, file: BinaryIO, report: Report) -> None:
        self._file, self.report = file, report
        self.digests: dict[str, Any] = {}  # of MANIFEST.json, once it is read
        self.members: dict[str, Member] = {}
        directory, at = b"", 0
        _must(file.seek(0, os.SEEK_END) <= BYTES_MAX, "larger than a package can be")
        while (header := self._read(at, _LOCAL.size)).startswith(b"PK\3\4") and len(header) == _LOCAL.size:
            crc, size, _, name_bytes, _ = _LOCAL.unpack(header)[7:]
            raw = self._read(at + _LOCAL.size, name_bytes)
            name = raw.decode("ascii", "replace")
            limit = max((most for pattern, most in MEMBERS.items() if re.fullmatch(pattern, name)), default=-1)
            _must(size <= limit, f"a member that no package has, or larger than it can be: {name[:80]!r}")
            _must(len(self.members) < MEMBERS_MAX and name not in self.members, f"too many, or twice: {name}")
            form = _LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, 0, _DAY_ONE, crc, size, size, len(raw), 0)
            _must(header == form, f"its header is not of our form: {name}")
            entry = (20, 3, 20, 0, 0, 0, 0, _DAY_ONE, crc, size, size, len(raw), 0, 0, 0, 0, _MODE, at)
            directory += _CENTRAL.pack(b"PK\1\2", *entry) + raw
            self.members[name] = Member(size, crc, at + len(form) + len(raw))
            at += len(form) + len(raw) + size
        self.unread, count = set(self.members), len(self.members)
        directory += _END.pack(b"PK\5\6", 0, 0, count, count, len(directory), at, 0)
        _must(self._read(at, len(directory) + 1) == directory, "cut short, or other than its members at the end")

    def _read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        return self._file.read(size)

    def read(self, name: str, *, keep: bool = True) -> bytes:
        """A member's bytes, or none of them if they are only compared: other bytes than were packed are a FAIL."""
        self.report.place = name
        self.unread.discard(name)
        _must(name in self.members, "missing")
        (size, expected, start), digest, crc, kept = self.members[name], hashlib.sha256(), 0, []
        for at in range(start, start + size, BLOCK):
            block = self._read(at, min(BLOCK, start + size - at))
            digest.update(block)
            crc = zlib.crc32(block, crc)
            kept += [block] if keep else []
        same = name == "MANIFEST.json" or self.digests.get(name) == "sha256:" + digest.hexdigest()
        self.report.check(same and crc == expected, name, "its bytes are not those that MANIFEST.json names")
        return b"".join(kept)


# ---- The policy: what the reader of the package trusts.
KEYS = {"witness": COSIGNATURE_KEY, "reviewer": NOTE_KEY, "restorer": NOTE_KEY, "sm3": NOTE_KEY}
MANY = ("witness", "reviewer", "restorer", "person", "organisation", "criteria")  # others are there once
NUMBERS = {"quorum": 0, "heartbeat": 0, "window": 900, "signers": 2, "panel": 5}
FORMS = {  # of what follows a word
    "log": r"\S+(?: \S+)?",
    "follows": rf"\S+ (?:{_SIZE.pattern}) \S+",
    **dict.fromkeys((*KEYS, "tsa", "criteria", "minors-under"), r"\S+"),
    **dict.fromkeys(NUMBERS, r"[1-9][0-9]{0,8}"),
    "signers": "[2-9]|[1-9][0-9]",
    "panel": "[5-9]|[1-9][0-9]",
    "follow-up": "[1-9][0-9]{0,2} [1-9][0-9]{0,2}",
    "person": r"\S+ \S+ [A-Z_]+(?:,[A-Z_]+)*",
    "organisation": r"\S+ \S+",
}


class Policy:
    """Keys and limits. Raises Unusable for a line that is not clear."""

    def __init__(self, path: Path) -> None:
        try:
            self._take(path.read_bytes().decode().split("\n"), path.parent)
        except (OSError, Malformed) as error:
            raise Unusable(f"policy: {error}") from None

    def _take(self, lines: Sequence[str], beside: Path) -> None:
        given: dict[str, list[list[str]]] = {word: [] for word in FORMS}
        for line in lines:
            word, _, rest = " ".join(line.partition(" #")[0].split()).partition(" ")
            if word and not word.startswith("#"):
                known = re.fullmatch(FORMS.get(word, "(?!)"), rest) and (word in MANY or not given[word])
                _must(known, f"a line is not understood, or twice: {word[:20]}")
                given[word].append(rest.split())
        _must(given["log"], "a log line wanted")
        self.log = parse_key(given["log"][0][0], NOTE_KEY)
        self.origin = [self.log.name, *given["log"][0][1:]][-1]
        self.witnesses, reviewers, self.restorers, sm3 = (
            [parse_key(key, kind) for [key] in given[word]] for word, kind in KEYS.items()
        )
        persons = {parse_key(key, NOTE_KEY): (home, {*roles.split(",")}) for key, home, roles in given["person"]}
        self.people = {key: ("", {"REVIEWER"}) for key in reviewers}  # organisation, where it is known, and roles
        for key, (home, roles) in persons.items():
            self.people[key] = (home, roles | self.people.get(key, ("", set()))[1])
        keys = [key.key for key in (self.log, *self.witnesses, *self.restorers, *self.people)]
        once = all(len(set(each)) == len(each) for each in (keys, reviewers)) and len(persons) == len(given["person"])
        _must(once, "one key in two places: who signs, witnesses, reviews, restores are others")
        self.follow_up = [int(days) for days in [*given["follow-up"], ["365", "182"]][0]]
        self.numbers = {word: int([*given[word], [str(least)]][0][0]) for word, least in NUMBERS.items()}
        good = min(1, len(self.witnesses)) <= self.numbers["quorum"] <= len(self.witnesses)
        _must(good, "a quorum from 1 to the number of witnesses wanted, and none without witnesses")
        good = all((key.name, key.key) == (f"{self.origin}/sm3", self.log.key) for key in sm3)
        _must(good, "sm3: the log's own key wanted, under the name <origin>/sm3")
        follows = [{"origin": origin, "size": int(size), "root": root} for origin, size, root in given["follows"]]
        tsa = [beside / name for [name] in given["tsa"]]
        _must(all(path.read_bytes() for path in tsa), "tsa: the file is empty")  # or OSError
        self.sm3, self.follows, self.tsa = ([*each, None][0] for each in (sm3, follows, tsa))


# ---- Checkpoints: signed by the log, cosigned by witnesses, stamped by an authority.
def _checkpoint(package: Package, name: str, key: Key, origin: str, witnesses: Sequence[Key] = ()) -> Checkpoint:
    note = parse_note(package.read(name))
    lines = note.text.split("\n")
    _must(len(lines) == 4 and not lines[3] and _SIZE.fullmatch(lines[1]), "not the three lines of a checkpoint")
    size, root = int(lines[1]), _base64(lines[2])
    _must(signed_at(note, key) is not None, "not signed by the log's key")
    _must(lines[0] == origin and len(root) == 32, "a checkpoint of another log, or its root is impossible")
    times = [signed_at(note, witness) for witness in witnesses]
    return Checkpoint(size, root, note.text, sorted(time for time in times if time))


def read_checkpoints(package: Package, policy: Policy) -> list[Checkpoint]:
    """All of them, smallest first; the last is the exported one. Raises Malformed if that one cannot be believed."""
    newest = _checkpoint(package, "checkpoint", policy.log, policy.origin, policy.witnesses)
    found = {newest.size: newest}
    for name in package.members:
        if name.startswith("checkpoints/"):
            try:
                older = _checkpoint(package, name, policy.log, policy.origin, policy.witnesses)
                _must(name == f"checkpoints/{older.size:013d}", "its size is not that of its name")
                _must(older.size < newest.size, "not older than the newest checkpoint")
                found[older.size] = older
            except Malformed as wrong:
                package.report.add(FAIL, name, str(wrong))
    return [found[size] for size in sorted(found)]


def sm3_tree(package: Package, policy: Policy, size: int) -> Tree | None:
    """The tree with SM3 for SHA-256, to be compared with its own checkpoint; None if it is not wanted, or cannot be."""
    name, report = "sm3/checkpoint", package.report
    if policy.sm3 is None or name not in package.members or "sm3" not in hashlib.algorithms_available:
        if policy.sm3 is not None:
            report.add(INCOMPLETE, name, "the policy asks for it, and it is not here, or this Python has no SM3")
        elif name in package.members:
            report.add(FINDING, name, "not looked at: the policy has no sm3 line")
        return None
    head = _checkpoint(package, name, policy.sm3, policy.sm3.name)
    if head.size != size:
        report.add(INCOMPLETE, name, f"of size {head.size}, where {size} entries are exported")
    return Tree([head], report, name, "sm3")


def check_stamps(package: Package, policy: Policy, checkpoints: Sequence[Checkpoint]) -> list[tuple[int, int]]:
    """(size of the checkpoint, unix seconds) of every time-stamp token (RFC 3161) that verifies, by ``openssl ts``."""
    texts, report = {checkpoint.size: checkpoint.text for checkpoint in checkpoints}, package.report
    names = [name for name in package.members if name.startswith("tsa/")]
    stamped: list[tuple[int, int]] = []
    for name in names:
        token, size = package.read(name), int(name[4:17])
        try:
            _must(size in texts, "stamps a checkpoint that is not here")
            if policy.tsa is not None:
                stamped.append((size, _stamp_time(token, texts[size].encode(), policy.tsa)))
        except Malformed as wrong:
            report.add(FAIL, name, str(wrong))
        except (OSError, subprocess.SubprocessError):
            report.add(INCOMPLETE, name, "not checked: this machine has no usable openssl command")
    if names and policy.tsa is None:
        report.add(FINDING, "tsa", f"{len(names)} time stamps not looked at: the policy names no authority")
    elif policy.tsa is not None and not names:
        report.add(INCOMPLETE, "tsa", "the policy names a time-stamp authority, and the package holds no stamp")
    return stamped


def _stamp_time(token: bytes, text: bytes, authority: Path) -> int:
    """The time in a token over this text; its imprint is of the checkpoint's three lines. Raises Malformed, OSError."""
    with tempfile.TemporaryDirectory() as folder:
        stamp, bare, data = (str(Path(folder, name)) for name in ("stamp", "bare", "data"))
        Path(stamp).write_bytes(token)
        Path(data).write_bytes(text)
        # Of a response only the token in it: what it says beside is signed by nobody, and is not looked at.
        stamp = stamp if _openssl("-reply", "-in", stamp, "-token_out", "-out", bare) is None else bare
        shown = _openssl("-reply", "-in", stamp, "-token_in", "-text")
        times = re.findall(rb"(?m)^Time stamp: (\w{3} [ \d]\d \d\d:\d\d:\d\d)(?:\.\d+)? (\d{4}) GMT", shown or b"")
        _must(times, "not a time stamp")
        moment = datetime.strptime(b" ".join(times[0]).decode(), "%b %d %H:%M:%S %Y").replace(tzinfo=UTC)
        # The authority's certificate had to be valid then; it may have run out since.
        then = ["-attime", str(int(moment.timestamp())), "-partial_chain", "-CAfile", str(authority)]
        verified = _openssl("-verify", "-data", data, "-in", stamp, "-token_in", *then)
        _must(verified is not None, "not a stamp of the pinned authority over this checkpoint")
    return int(moment.timestamp())


def _openssl(*words: str) -> bytes | None:
    there = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(["openssl", "ts", *words], capture_output=True, timeout=60, check=False, env=there)
    if b"nknown option" in done.stderr or b"nvalid command" in done.stderr:
        raise OSError
    return done.stdout if done.returncode == 0 else None


def windows(timed: Sequence[tuple[int, int]], slack_s: int) -> list[tuple[int, str, str]]:
    """(size, early, late), largest size first: when entries below that size, and not below the next, were written.

    Not before any timed checkpoint that lacks the entry, nor after any that has it.
    """
    bounds = sorted(timed)
    sizes, times = [*(size for size, _ in bounds), SIZE_MAX + 1], [time for _, time in bounds]
    early = ["", *(_shown(time - slack_s) for time in accumulate(times, max))]
    late = ["~", *(_shown(time + slack_s) for time in accumulate(reversed(times), min))]
    return list(zip(reversed(sizes), reversed(early), late))  # noqa: B905 - strict is of Python 3.10


def _shown(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime(TIME_FORM)


# ---- The tree (RFC 6962, section 2.1), built again from the leaves, and compared with every checkpoint.
class Tree:
    """Grows by leaf hashes, and compares its root with each checkpoint on the way."""

    def __init__(self, heads: Sequence[Checkpoint], report: Report, where: str = "", algorithm: str = "sha256") -> None:
        self._waiting, self._report, self._where = list(reversed(heads)), report, where
        self.hash = hashlib.sha256 if algorithm == "sha256" else functools.partial(hashlib.new, algorithm)
        self._peaks: list[bytes] = []  # roots of full subtrees, largest first: one for each bit of the size
        self._size = self.good = 0
        self._compare()

    def take(self, leaves: Sequence[bytes]) -> None:
        """The next leaf hashes."""
        for leaf in leaves:
            bits = self._size
            while bits & 1:
                leaf = self.hash(b"\1" + self._peaks.pop() + leaf).digest()
                bits >>= 1
            self._peaks.append(leaf)
            self._size += 1
            self._compare()

    def _compare(self) -> None:
        if self._waiting and self._waiting[-1].size == self._size:
            *peaks, root = self._peaks or [self.hash(b"").digest()]
            for peak in reversed(peaks):
                root = self.hash(b"\1" + peak + root).digest()
            if self._waiting.pop().root == root:
                self.good = self._size
                return
            what = "the entries do not make this checkpoint's root; the first bad one is among"
            where, last = self._where or f"checkpoint of size {self._size}", max(self._size - 1, 0)
            self._report.add(FAIL, where, f"{what} {self.good} to {last}", self.good)


def leaves_of(data: bytes, count: int) -> Iterator[tuple[bool, bytes]]:
    """(True, an entry) or (False, the leaf hash of one out of scope). Raises Malformed unless there are ``count``."""
    at = 0
    for _ in range(count):
        begin = at + 2
        length = int.from_bytes(data[at:begin], "big")
        at = begin + (length or 32)
        _must(at <= len(data), "holds fewer entries than its place says")
        yield length > 0, data[begin:at]
    _must(at == len(data), "holds more than its entries")


# ---- Entries: form, order, time, and what one kind demands of another.
SCHEMA = "zhiying.audit/1"
ENVELOPE = {"schema", "kind", "key", "call", "source", "seq", "time", "boot", "tick_us", "body"}
CALL_NEEDED = {"CALL_INTENT", "CALL_RESULT", "RELEASED", "NOTIFIED", "WITHDRAWN", "HUMAN_DECISION", "CASE"}
_WITHOUT = """LOG_START RESTORE SEAL HEARTBEAT CONFIG EXPORT LOG_READ ERASURE APPROVAL STATE_CHANGE STOP RESUME
    EVALUATION GOLDEN ACCEPTANCE SAFETY_REPORT INCIDENT LOOKBACK OPT_OUT RECONCILED VIEWED"""
CALL_ABSENT = set(_WITHOUT.split())
INTENT, RESULT, SHADOW, OUT = 1, 2, 4, 8
NEEDED = {"CALL_RESULT": 1, "RELEASED": 3, "WITHDRAWN": 3, "NOTIFIED": 11}  # of these, before it
_HEX32 = re.compile(r"[0-9a-f]{32}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
_TEXTS = {"kind": re.compile(r"[A-Z][A-Z0-9_]{0,63}"), "key": re.compile(r"[a-z0-9:._-]{1,128}")}
_TEXTS |= {"source": re.compile(r"[A-Za-z0-9._:/-]{1,64}"), "time": _TIME, "boot": _HEX32}


def _envelope(entry: Any) -> datetime:
    """Its time, if everything but the body is of its form. Raises Malformed."""
    good = type(entry) is dict and entry.keys() == ENVELOPE and entry["schema"] == SCHEMA
    _must(good, "not the fields of an entry, or of another schema")
    for name, form in _TEXTS.items():
        _must(type(entry[name]) is str and form.fullmatch(entry[name]), f"{name}: not of its form")
    call = entry["call"]
    _must(call is None or (type(call) is str and _HEX32.fullmatch(call)), "call: not 32 hexadecimal digits")
    _must(entry["kind"] not in (CALL_NEEDED if call is None else CALL_ABSENT), "call: against the rule of its kind")
    good = all(type(count) is int and count >= 0 for count in (entry["seq"], entry["tick_us"]))
    _must(good and type(entry["body"]) is dict, "seq or body or tick_us: of the wrong type")
    try:
        return datetime.fromisoformat(entry["time"][:-1])
    except ValueError:
        raise Malformed("time: no such moment") from None


def looks(moment: datetime, study: str, reader: str, role: str) -> set[str]:
    """Keys that a look may have: one a day (UTC+8), which is read up to ten minutes before the entry's time."""
    _must(_HEX32.fullmatch(study) and _HEX32.fullmatch(reader) and role.isupper(), "VIEWED: not its two names and role")
    said = (f"{study}:{reader}:{role}:{(moment + timedelta(minutes=late)).date()}" for late in (470, 480))
    return {f"viewed:{hashlib.sha256(each.encode()).hexdigest()[:32]}" for each in said}


class Entries:
    """All entries, in order. Memory: about 100 bytes for each key, and for each call."""

    def __init__(self, policy: Policy, report: Report, timed: Sequence[tuple[int, int]]) -> None:
        self._policy, self._report, self._windows = policy, report, windows(timed, policy.numbers["window"])
        self._keys: set[bytes] = set()
        self._sources: dict[str, tuple[int, int, str]] = {}  # next seq, entries hidden until then, last time
        self._runs: dict[tuple[str, str], tuple[datetime, int, int]] = {}  # first time, first tick, last tick
        self._calls: dict[bytes, tuple[int, str]] = {}  # INTENT, RESULT, SHADOW, OUT; the model's digest
        self._same: dict[tuple[int, str], tuple[int, str]] = {}  # so that a call costs no tuple of its own
        self._open: dict[bytes, int] = {}
        self._before: tuple[int, datetime] | None = None
        self._gap: tuple[float, int, int] = (0.0, 0, 0)
        self._missing_seqs = self._outside = self._heartbeats = 0
        self._sealed: int | None = None
        self._follows: Any = None
        self.review = Review(policy, report)
        self.counts: dict[str, int] = {}
        self.hidden = 0

    def take(self, index: int, data: bytes) -> None:
        """An entry's bytes."""
        try:
            entry = parse_json(data)
            moment = _envelope(entry)
            kind, body, call = entry["kind"], entry["body"], entry["call"]
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self._order(index, entry["key"], entry["source"], entry["seq"], entry["time"])
            self._clock(index, entry["time"], moment, (entry["source"], entry["boot"]), entry["tick_us"])
            _must((kind == "LOG_START") == (index == 0), "a log begins with LOG_START, once")
            _must(kind == "RESTORE" or index != 1 or self._follows is None, "a log after another goes on with RESTORE")
            if kind == "LOG_START":
                self._start(body)
            elif kind == "RESTORE":
                self._restore(index, body)
            elif kind == "SEAL" and self._sealed is None:
                self._sealed = index
            elif kind == "VIEWED":
                _must(entry["key"] in looks(moment, **body), "VIEWED: not the key of its reader, study and day")
            self.review.take(index, kind, entry["time"], body, call, hidden=self.hidden > 0)
            if call is not None:
                self._call(index, kind, bytes.fromhex(call), body)
        except ODD as wrong:
            said = str(wrong) if isinstance(wrong, ValueError) else f"{entry['kind']}: its body is not of its form"
            self._report.add(FAIL, index, said)

    def _order(self, index: int, key: str, source: str, seq: int, time: str) -> None:
        digest = hashlib.sha256(key.encode()).digest()[:16]  # of one length, so that memory is known
        due, hidden_then, time_then = self._sources.get(source, (0, 0, ""))
        self._sources[source] = (seq + 1, self.hidden, max(time, time_then))
        self._report.check(digest not in self._keys, index, "its key is another entry's")
        self._keys.add(digest)
        # Only entries that are here as hashes can be missing ones: those since the source's last known entry.
        self._missing_seqs += max(seq - due, 0)
        if not 0 <= seq - due <= self.hidden - hidden_then or self._missing_seqs > self.hidden:
            self._report.add(FAIL, index, f"seq {seq} of its source where {due} is due")
        self._report.check(time >= time_then, index, "earlier than its source's entry before it")

    def _clock(self, index: int, time: str, moment: datetime, run: tuple[str, str], tick: int) -> None:
        while index >= self._windows[-1][0]:
            self._windows.pop()
        inside = self._windows[-1][1] <= time <= self._windows[-1][2]
        self._outside += not inside
        self._report.check(inside, index, "its time is outside its checkpoint's window")
        before, then = self._before or (index, moment)
        self._before = (index, moment)
        seconds, limit = (moment - then).total_seconds(), self._policy.numbers["heartbeat"]
        self._gap = max(self._gap, (seconds, before, index), key=lambda gap: gap[0])
        if limit and seconds > limit:
            self._heartbeats += int(seconds // limit)
            self._report.add(INCOMPLETE, index, f"silence of {seconds:.0f} s before it, heartbeats due every {limit} s")
        # Wall time against the ticks of one run of the writer, which no setting of its clock moves.
        first, began, last = self._runs.get(run, (moment, tick, tick))
        drift = (moment - first).total_seconds() - (tick - began) / 1e6
        if tick < last or abs(drift) > self._policy.numbers["window"]:
            what = f"by {drift:.0f} s against its ticks" if tick >= last else "its ticks go back"
            self._report.add(FAIL, index, f"its clock was moved: {what}")
            first, began = moment, tick  # so that each move is told once
        self._runs[run] = (first, began, tick)

    def _start(self, body: dict[str, Any]) -> None:
        _must(body.get("origin") == self._policy.origin, "LOG_START: of another origin")
        before, wanted = body.get("predecessor"), self._policy.follows
        types = {name: type(value) for name, value in before.items()} if type(before) is dict else None
        good = before is None or types == {"origin": str, "size": int, "root": str}
        _must(good, "predecessor: not origin, size and root of a log")
        self._follows = before
        if before is not None and wanted is None:
            self._report.add(INCOMPLETE, 0, "the log before this one: verify its own package")
        else:
            _must(before == wanted, "it follows another log than the policy says, or none")

    def _restore(self, index: int, body: dict[str, Any]) -> None:
        header, line, by = self.review.signed(self._policy.restorers, body)
        _must(by or not self._policy.restorers, "the note is signed by no restorer of the policy")
        if not by:
            self._report.add(INCOMPLETE, index, "the note is not checked: the policy names no restorer")
        said = parse_json(line) if header == RESTORE_HEADER else None
        about = [said.get(name) for name in ("predecessor", "successor", "reason")] if type(said) is dict else None
        good = about == [self._follows, self._policy.origin, body.get("reason")]
        _must(good, "its statement is not about this log and the one before it")

    def _call(self, index: int, kind: str, call: bytes, body: dict[str, Any]) -> None:
        state, model = self._calls.get(call, (0, ""))
        if lacks := NEEDED.get(kind, 0) & ~state:
            first = "CALL_INTENT" if lacks & INTENT else "CALL_RESULT" if lacks & RESULT else "RELEASED"
            hidden = ", or it is hidden" if self.hidden else ""
            self._report.add(INCOMPLETE if hidden else FAIL, index, f"{kind} without its {first} before it{hidden}")
        if kind == "CALL_INTENT":
            self._open.setdefault(call, index)
            kept = state if state & RESULT else state & INTENT  # what has run is not run again
            state, model = kept | SHADOW * (body["state"] != "LIVE" or "purpose" in body), body["model"]["digest"]
        elif kind in {"CALL_RESULT", "FAILED", "DENIED"}:
            self._open.pop(call, None)
        elif kind == "RELEASED":
            self._report.check(not state & SHADOW, index, "the result of a call in the shadow was released")
            self.review.released(index, model)
        known = (state | {"CALL_INTENT": INTENT, "CALL_RESULT": RESULT, "RELEASED": OUT}.get(kind, 0), model)
        self._calls[call] = self._same.setdefault(known, known)

    def finish(self, size: int) -> None:
        """What only the end shows."""
        begun = "a call that was begun and has no result, failure or denial" + (" in scope" if self.hidden else "")
        for index in self._open.values():
            self._report.add(FINDING, index, begun)
        if self._sealed is not None and self._sealed + 1 < size:
            self._report.add(FAIL, self._sealed + 1, "after a SEAL nothing may be written")
        if self._follows is not None and "RESTORE" not in self.counts:
            self._report.add(INCOMPLETE, 1, "the RESTORE of a log that follows another is not in scope")
        if "LOG_START" not in self.counts:
            self._report.add(INCOMPLETE, 0, "the log's start is out of scope, or the log is empty")
        figures, (seconds, before, after) = self._report.figures, self._gap
        figures.update(follows=self._follows, in_scope=sum(self.counts.values()), out_of_scope=self.hidden)
        figures.update(counts=dict(sorted(self.counts.items())), decisions=self.review.figures)
        figures["largest_gap"] = {"seconds": seconds, "from_index": before, "to_index": after}
        figures["heartbeats_missing"] = self._heartbeats if self._policy.numbers["heartbeat"] else None
        figures.update(outside_window=self._outside, calls_open=len(self._open))


# ---- The review: each dossier's life is lived again, each decision weighed again from logged conditions.
APPROVAL_HEADER, ACT_HEADER, RESTORE_HEADER = "zhiying-approval/2", "zhiying-act/1", "zhiying.audit/restore/1"
APPROVED = "acceptance approval conditions criteria_set follow_up model monitor on_breach reviewer_org submission valid"
ACT, SWITCH = "after event from model reason statement to", "after event level reason site"
GRANTED = "APPROVED APPROVED_WITH_CONDITIONS"
IN_USE = f"{GRANTED} SHADOW LIVE SUSPENDED"
BEFORE_USE = "DRAFT SELF_ASSESSED SUBMITTED UNDER_REVIEW EXPERT_REREVIEW REVISE"
SAFE = "CLINICAL_OWNER SAFETY_OFFICER"
EVENTS = {  # where it starts, where it ends (nothing: where it was), who must sign, each another person; +: `signers`
    "OPEN": ("NONE", "DRAFT", "DEVELOPER|CLINICAL_OWNER"),
    "SELF_ASSESS": ("DRAFT", "SELF_ASSESSED", "DEVELOPER CLINICAL_OWNER"),
    "SUBMIT": ("SELF_ASSESSED", "SUBMITTED", "SECRETARY"),
    "BEGIN_REVIEW": ("SUBMITTED", "UNDER_REVIEW", "REVIEWER"),
    "REFER": ("UNDER_REVIEW", "EXPERT_REREVIEW", "REVIEWER"),
    "PANEL_CLEAR": ("EXPERT_REREVIEW", "UNDER_REVIEW", "PANELIST"),
    "PANEL_REJECT": ("EXPERT_REREVIEW", "REJECTED", "PANELIST"),
    "REVISE": ("UNDER_REVIEW", "REVISE", "REVIEWER+"),
    "REJECT": ("UNDER_REVIEW", "REJECTED", "REVIEWER+"),
    "REOPEN": ("REVISE", "DRAFT", "DEVELOPER|CLINICAL_OWNER"),
    "DEPLOY": (GRANTED, "SHADOW", "OPS CLINICAL_OWNER"),
    "GO_LIVE": ("SHADOW", "LIVE", SAFE),
    "SUSPEND": (IN_USE, "SUSPENDED", "*"),
    "RESUME": ("SUSPENDED", f"{GRANTED} SHADOW LIVE", SAFE),
    "RESTRICT": (IN_USE, "", "*"),
    "COUNTERSIGN": (IN_USE, "", "REVIEWER"),
    "FOLLOW_UP": (IN_USE, "", "REVIEWER"),
    "RETIRE": (f"{BEFORE_USE} {IN_USE}", "RETIRED", SAFE),
}
FOR_REVIEWER = {"HARM", "CONDITION_BREACH", "EXPIRY", "FOLLOW_UP", "CRITERIA", "SUBGROUP_GAP", "INTEGRITY"}
CHINA = timezone(timedelta(hours=8))  # in whose civil days approvals are valid
ALWAYS = {"MODEL_DIGEST": "EQUAL", "VALIDITY": "IN_FORCE", "STATE": "SHADOW LIVE", "STOP": "NONE", "REQUIRE": "ALL"}
# Times as entries write them, ends excluded; days: to the next follow-up; weighed: what checks saw that hold.
Approval = namedtuple("Approval", "name model policy starts ends days conditions weighed")
_PERSONAL = re.compile(r"[0-9]{6,}|[0-9]{4}[-./][0-9]{1,2}[-./][0-9]{1,2}|(?:[0-9]+\.){5,}")
_NUMBER = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,2})?")
_CLASS = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,6})?)(?:(\+)|-([0-9]{1,4}))?")


def _day(text: Any, days: int) -> str:
    return _shown((datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=CHINA) + timedelta(days=days)).timestamp())


@functools.lru_cache(maxsize=256)
def _later(text: str, **by: int) -> str:
    return (datetime.fromisoformat(text[:-1]) + timedelta(**by)).strftime(TIME_FORM)


def _token(text: Any) -> str:
    return _PERSONAL.sub("_", re.sub(r"[^A-Za-z0-9 ._:/+-]", "_", str(text)))[:64]


def condition_holds(allowed: Any, observed: str, *, surely: bool = False) -> bool:
    """Whether an observed class agrees with one condition of an approval. What is not understood does not.

    A band such as 70-74 agrees if any value in it is allowed, or ``surely`` if all are: the log holds nothing finer.
    """
    if isinstance(allowed, str):  # a level, such as A1: up to it
        return bool(re.fullmatch(r"[A-Z][0-9]", observed)) and observed[0] == allowed[0] and observed <= allowed
    if not isinstance(allowed, list) or observed in {"", "UNKNOWN"}:
        return type(allowed) is int and observed == f"BELOW {allowed}"  # so many calls a day
    if len(allowed) == 2 and all(_NUMBER.fullmatch(str(each)) for each in allowed):
        match = _CLASS.fullmatch(observed)
        if match is None:
            return False
        low, high = float(match[1]), float("inf") if match[2] else float(match[3] or match[1])
        least, most = sorted((low, high), reverse=not surely)
        return least >= float(allowed[0]) and most <= float(allowed[1])
    return allowed == ["*"] or observed in map(_token, allowed)


def _group(condition: str, seen: str) -> tuple[str, str]:
    """The group in which the monitor counts a class: ages by twenty years, slice spacing by millimetres."""
    match = _CLASS.fullmatch(seen)
    if match and condition == "AGE_YEARS":
        low = min(int(float(match[1])) // 20 * 20, 80)
        seen = f"{low}-{low + 19}" if low < 80 else "80+"
    elif match and condition == "SLICE_SPACING_MM" and match[1] == seen:
        seen = next((f"to {edge}" for edge in (1, 2, 3, 5) if float(match[1]) <= edge), "over 5")
    condition, _, seen = _token(f"{condition}:{seen}").partition(":")
    return condition, seen


class Life:
    """One model's dossier, as the entries so far say."""

    def __init__(self, model: Any) -> None:
        self.model, self.state, self.cause, self.before, self.day = model, "NONE", "", "", ""
        self.note: str | None = None  # digest of the newest; the next one names it
        self.approvals: list[Any] = []
        self.judged = ""  # when it was approved or followed up last
        self.began = self.deployed = self.suspended = -1
        self.submission, self.panel, self.cleared = None, list[str](), False
        self.submitters, self.interested, self.reviewing = set[Key](), set[str](), set[str]()
        self.judges = {"REVIEWER": set[str](), "PANELIST": set[str]()}  # their organisations
        self.cut, self.calls, self.pending = set[tuple[str, str]](), set[str](), set[int]()

    def current(self, time: str) -> Any:
        """The newest of the approvals whose validity has begun."""
        return next((one for one in reversed(self.approvals) if one.starts <= time), None)

    def lapse(self, index: int, time: str) -> None:
        """What runs without an approval in force, or a follow-up in time, is suspended without an entry."""
        approval = self.current(time)
        if self.state in {"SHADOW", "LIVE"}:
            if approval is None or time >= approval.ends:
                self.suspend(index, "EXPIRY")
            elif time >= _later(max(approval.starts, self.judged), days=approval.days):
                self.suspend(index, "FOLLOW_UP")

    def suspend(self, index: int, cause: str) -> None:
        """Of two causes the one that is harder to end remains."""
        if self.state != "SUSPENDED":
            self.before, self.cause = self.state, cause
        elif self.cause == "DRILL" or (cause in FOR_REVIEWER and self.cause not in FOR_REVIEWER):
            self.cause = cause
        self.state, self.suspended = "SUSPENDED", index


class Review:
    """All dossiers, stops and approvals; every permission and every refusal is weighed against them."""

    def __init__(self, policy: Policy, report: Report) -> None:
        self._policy, self._report = policy, report
        self._lives: dict[str, Life] = {}
        self._approvals: dict[str, Any] = {}
        self._stops: dict[tuple[str, Any], str] = {}  # (level, site): reason
        self._switches: dict[tuple[str, Any], str] = {}  # digest of the newest note
        self._proofs: dict[Any, tuple[str, Any]] = {}  # what an entry, or a report, shows of a model; None: of any
        self._time, self._hidden = "", False
        self.figures: dict[str, Any] = {"evaluated": 0, "agree": 0, "differ": 0, "unknown": 0, "differ_at": []}

    def take(self, index: int, kind: str, time: str, body: dict[str, Any], call: Any, *, hidden: bool) -> None:
        """An entry; ``hidden``: some before it are. Raises one of ODD for what is not as it must be."""
        self._time, self._hidden = max(self._time, time), hidden
        if kind == "APPROVAL":
            self._approve(index, body)
        elif kind == "STATE_CHANGE":
            self._change(index, body)
        elif kind in {"STOP", "RESUME"}:
            self._switch(index, kind, body)
        elif kind == "CALL_INTENT":
            self._decided(index, lambda: self._intent(index, body, call))
        elif kind == "DENIED" and body["stage"] == "PERMITTED":
            self._decided(index, lambda: self._denial(index, body))
        elif kind in {"EVALUATION", "GOLDEN", "ACCEPTANCE", "SAFETY_REPORT", "INCIDENT"}:
            self._proof(index, kind, body)

    def released(self, index: int, digest: str) -> None:
        """A RELEASED entry of a call of this model."""
        life = self._lives.get(digest)
        if life and life.state == "SUSPENDED" and life.cause in {"HARM", "INTEGRITY"}:
            self._report.add(FINDING, index, f"released while its model was suspended for {life.cause}")

    def signed(self, keys: Iterable[Key], body: dict[str, Any]) -> tuple[str, bytes, list[Key]]:
        """Header and line of the note in an entry, and who of these signed. Raises Malformed."""
        data = str(body.get("note")).encode()
        _must(body.get("note_digest") == f"sha256:{hashlib.sha256(data).hexdigest()}", "the note's digest is another")
        note, own = parse_note(data), self._policy.log.key
        by_log = any(ed25519_verify(own, note.text.encode(), payload) for _, _, payload in note.signatures)
        _must(not by_log, "the note is signed by the log's own key")
        header, _, line = note.text.partition("\n")
        return header, line[:-1].encode(), [key for key in keys if signed_at(note, key) is not None]

    def _seen(self, index: int, holds: object, otherwise: str) -> None:
        """What must hold, but for entries out of scope that may say why it does not seem to."""
        _must(holds or self._hidden, otherwise)
        if not holds:
            self._report.add(INCOMPLETE, index, f"{otherwise}, or what explains it is out of scope")

    def _today(self) -> str:
        return _later(f"{self._time[:13]}:00:00.000000Z", hours=8)[:10]  # of the hour, so that it is known already

    def _life(self, index: int, model: Any) -> Life:
        life = self._lives.get(model["digest"]) or self._lives.setdefault(model["digest"], Life(model))
        _must(life.model == model, "another model of the same digest")
        life.lapse(index, self._time)
        return life

    def _by(self, index: int, seats: Mapping[str, int], signers: Sequence[Key], also: str = "") -> None:
        """Each seat has a person of its own, and nobody else signed. Where the policy names too few: INCOMPLETE."""
        wanted, signed = dict(seats), [self._policy.people[key][1] for key in signers]
        for seat, count in seats.items():
            # Reviewers alone do not make a policy that says who may stop something.
            there = sum(_fits(seat, roles) for home, roles in self._policy.people.values() if home or seat != "*")
            if there < count > sum(_fits(seat, roles) for roles in signed):
                wanted[seat] = there
                what = f"its signatures are not all checked: the policy names {there} of {count} {seat}"
                self._report.add(INCOMPLETE, index, what)
        strange = any(not any(_fits(seat, roles) for seat in (*seats, also)) for roles in signed)
        _must(not strange, "signed by somebody whose part it is not")
        # Hall's theorem: everybody finds a seat if no few of them have too few people together.
        for few in (few for size in range(1, len(wanted) + 1) for few in combinations(wanted, size)):
            fitting = sum(any(_fits(seat, roles) for seat in few) for roles in signed)
            missing = " and ".join(f"{wanted[seat]} {seat}" for seat in few)
            _must(fitting >= sum(wanted[seat] for seat in few), f"not signed by {missing} of the policy")

    def _judged(self, life: Life, signers: Sequence[Key], *, of_panel: bool = False) -> set[str]:
        """The organisations of those who judge: no submitters, no interest, one side of the review only."""
        judges = [key for key in signers if self._policy.people[key][1] & {"REVIEWER", "PANELIST"}]
        _must(life.submitters.isdisjoint(judges), "judged by somebody who submitted it")
        homes = {self._policy.people[key][0] for key in judges} - {""}
        _must(homes.isdisjoint(life.interested), "judged by an organisation with an interest in it")
        other = life.judges["REVIEWER" if of_panel else "PANELIST"]
        _must(homes.isdisjoint(other), "one organisation both reviews and examines again")
        begun = life.reviewing if life.state == "UNDER_REVIEW" else set()
        _must(of_panel or len(homes | begun) <= 1, "reviewers of two organisations")
        life.judges["PANELIST" if of_panel else "REVIEWER"] |= homes
        return homes

    def _approve(self, index: int, body: dict[str, Any]) -> None:
        header, line, signers = self.signed(self._policy.people, body)
        if header != APPROVAL_HEADER:
            self._report.add(INCOMPLETE, index, "approval: of a form that this version cannot read")
            return
        said = parse_json(line)
        _must(" ".join(sorted(said)) == APPROVED, "approval: not its fields")
        self._by(index, {"REVIEWER": self._policy.numbers["signers"]}, signers)
        life, valid, name = self._life(index, said["model"]), said["valid"], said["approval"].lower()
        conditions = {key.upper(): each for key, each in said["conditions"].items()}
        policy = hashlib.sha256(canonical({"valid": valid, "conditions": said["conditions"]})).hexdigest()
        days = min(said["follow_up"]["days"], self._policy.follow_up[said["follow_up"]["listed"]])
        times = (_day(valid["from"], 0), _day(valid["to"], 1))
        approval = Approval(name, said["model"], f"sha256:{policy}", *times, days, conditions, {})
        _must(name not in self._approvals, "approval: its name is another's")
        first = life.state == "UNDER_REVIEW"
        self._seen(index, first or life.state in IN_USE.split(), f"approved where it was {life.state}")
        self._seen(index, said["submission"] == life.submission, "approved for another submission")
        experts = said["follow_up"]["listed"] or conditions["MAX_AUTONOMY"] >= "A3"
        self._seen(index, life.cleared or not experts, "approved where experts must have cleared it")
        homes = self._judged(life, signers)
        _must(homes <= {said["reviewer_org"]}, "approval: its organisation is not that of who signed")
        if first:
            life.state = GRANTED.split()[not conditions["SITE"] == conditions["MANUFACTURER"] == ["*"]]
        life.judged, life.note = self._time, body["note_digest"]
        life.approvals.append(approval)
        self._approvals[name] = approval

    def _change(self, index: int, body: dict[str, Any]) -> None:
        event, end = body["event"], body["to"]
        starts, ends, seats = EVENTS[event]
        life, signers, said = self._life(index, body["model"]), list[Key](), body
        if body["note"] is None:
            _must(event in {"SUSPEND", "RESTRICT"}, f"{event} without a signature")
            what, model = self._proofs.get(body["evidence"], ("", None))
            shown = what in {"SUSPEND", "RESTRICT", "INVARIANT"} and model in {None, life.model["digest"]}
            shown = shown or (body["reason"], body["evidence"]) == ("CRITERIA", None)
            self._seen(index, shown, "its evidence is no entry that asks for it")
        else:
            header, line, signers = self.signed(self._policy.people, body)
            act = parse_json(line)
            _must(header == ACT_HEADER and " ".join(sorted(act)) == ACT, "not an act on a dossier")
            said = act["statement"]
            pair = (said["condition"], said["observed"]) if event == "RESTRICT" else (None, None)
            same = all(act[name] == body[name] for name in ("model", "event", "from", "to", "reason"))
            same = same and (*pair, None) == (body["condition"], body["observed"], body["evidence"])
            _must(same, "it does not say what was signed")
            self._seen(index, act["after"] == life.note, "its note does not follow the dossier's note before it")
            self._sign(index, life, event, seats, signers, said)
        where = body["from"] == life.state and life.state in starts.split()
        self._seen(index, where, f"{event} from {body['from']}, where it was {life.state}")
        _must(end in (ends.split() or [body["from"]]), f"{event} does not end in {end}")
        self._seen(index, event != "RESUME" or end == life.before, f"resumed as {end}, suspended as {life.before}")
        self._guard(index, life, event, end, said)
        self._enact(index, life, body, signers, said)

    def _sign(self, index: int, life: Life, event: str, seats: str, signers: Sequence[Key], said: Any) -> None:
        wanted = {seat.rstrip("+"): self._policy.numbers["signers"] if "+" in seat else 1 for seat in seats.split()}
        if event == "REFER" or seats == "PANELIST":
            panel, people = said["panel"], {key.name: roles for key, (_, roles) in self._policy.people.items()}
            good = len(set(panel)) == len(panel) >= self._policy.numbers["panel"]
            _must(good and all("PANELIST" in people.get(name, {"PANELIST"}) for name in panel), "not a whole panel")
        if seats == "PANELIST":
            self._seen(index, sorted(panel) == sorted(life.panel), "not the panel that it was referred to")
            _must(all(key.name in panel for key in signers), "signed by somebody who is not on the panel")
            wanted["PANELIST"] = -(-2 * len(panel) // 3)
        if event == "RESUME" and life.cause in FOR_REVIEWER:
            wanted["REVIEWER"] = 1
        self._by(index, wanted, signers, "REVIEWER" if event == "RESUME" else "")
        if event == "RESUME" or seats in {"REVIEWER", "REVIEWER+", "PANELIST"}:
            homes = self._judged(life, signers, of_panel=seats == "PANELIST")
            life.reviewing = homes if event == "BEGIN_REVIEW" else life.reviewing

    def _guard(self, index: int, life: Life, event: str, end: str, said: Any) -> None:
        """What must be so besides: shown by an entry that the act names."""
        approval, wanted = life.current(self._time), list[tuple[Any, str, Any]]()
        if event in {"DEPLOY", "GO_LIVE"}:
            _must(approval and self._time < approval.ends, f"{event} without an approval in force")
            if event == "GO_LIVE":
                wanted = [(said["acceptance"], f"MET {approval.name}", -1), (said["drill"], "DRILL", life.deployed)]
        elif event == "RESUME" and end in {"SHADOW", "LIVE"}:
            wanted = [(said["golden"], "MATCH", life.suspended)]
        elif event == "COUNTERSIGN":
            wanted = [(said["report"], "REPORT", "")]
        for proof, what, since in wanted:
            shown, model = self._proofs.get(proof, ("", None))
            good = shown == what and model in {None, life.model["digest"]} and proof >= since
            self._seen(index, good, f"{event}: what it names does not show {what.split()[0]}")

    def _enact(self, index: int, life: Life, body: dict[str, Any], signers: Sequence[Key], said: Any) -> None:
        event, end = body["event"], body["to"]
        life.note = body["note_digest"] or life.note
        if event == "SUSPEND":
            life.suspend(index, body["reason"])
            life.pending -= life.pending if body["reason"] in FOR_REVIEWER else {body["evidence"]}
            return
        if event == "RESUME" and life.cause == "DRILL":
            self._proofs[index] = ("DRILL", life.model["digest"])
        elif event == "RESTRICT":
            life.cut.add((body["condition"], body["observed"]))
        elif event == "FOLLOW_UP":
            life.judged = self._time
        elif event in {"SELF_ASSESS", "SUBMIT"}:
            life.submitters |= {*signers}
            if event == "SUBMIT":
                life.submission, life.cleared, life.reviewing = said["submission"], False, set()
                life.interested |= {*said["coi"]}
        elif event == "REFER":
            life.panel = said["panel"]
        elif event == "PANEL_CLEAR":
            life.cleared = True
        elif event == "DEPLOY":
            life.deployed = index
        if end in {"SHADOW", "LIVE"} and end != life.state:
            life.began = index
        life.state = end

    def _switch(self, index: int, kind: str, body: dict[str, Any]) -> None:
        header, line, signers = self.signed(self._policy.people, body)
        act, place = parse_json(line), (body["level"], body["site"])
        same = act["event"] == kind and all(act[name] == body[name] for name in ("level", "site", "reason"))
        _must(header == ACT_HEADER and " ".join(sorted(act)) == SWITCH and same, "it does not say what was signed")
        _must((place[0] == "SITE") == (place[1] is not None), "neither a site nor the whole service")
        self._seen(index, act["after"] == self._switches.get(place), "its note does not follow the note before it")
        self._switches[place] = body["note_digest"]
        if kind == "STOP":
            self._by(index, {"*": 1}, signers)
            known = self._stops.get(place, body["reason"])
            self._stops[place] = known if known == body["reason"] else ""  # what is more than a drill is none
            return
        self._by(index, dict.fromkeys(SAFE.split(), 1), signers, "REVIEWER")
        self._seen(index, place in self._stops, "nothing is stopped there")
        if self._stops.pop(place, "") == body["reason"] == "DRILL":
            self._proofs[index] = ("DRILL", None)

    def _proof(self, index: int, kind: str, body: dict[str, Any]) -> None:
        life = self._life(index, body["model"]) if body["model"] else Life({"digest": None})
        digest, outcome = life.model["digest"], body.get("outcome")
        if kind == "EVALUATION" and outcome in {"SUSPEND", "RESTRICT"}:
            self._proofs[index] = (outcome, digest)
            grave = body["tier"] == "T0" and body["metric"] != "EVIDENCE_OVERDUE"
            more = life.cause == "DRILL" or (grave and life.cause not in FOR_REVIEWER)  # than it is suspended for
            asks = life.state in {"SHADOW", "LIVE"} or (life.state == "SUSPENDED" and more)
            # What was found of a run before the present one ends nothing.
            if asks and outcome == "SUSPEND" and body["tier"] in {"T0", "T1"} and life.began < body["last"]:
                life.pending |= {index}
        elif kind == "GOLDEN":
            good = outcome in {"MATCH", "OK"}
            self._proofs[index] = ("MATCH" if good else "INVARIANT", digest)
            life.suspended = life.suspended if good else index  # what matched before it counts no more
        elif kind == "ACCEPTANCE" and body["unmet"] == 0:
            self._proofs[index] = (f"MET {body['approval'].lower()}", digest)
        elif kind == "SAFETY_REPORT":
            self._proofs[body["report"]] = ("REPORT", digest)
        elif kind == "INCIDENT":
            self._proofs[index] = ("INVARIANT", digest)

    def _decided(self, index: int, weigh: Callable[[], object]) -> None:
        """Count what weighing it again gives: it raises where the decision differs; false: nobody can tell."""
        unsure = self._report.totals[INCOMPLETE]
        try:
            found = "agree" if weigh() and unsure == self._report.totals[INCOMPLETE] else "unknown"
        except ODD as why:
            found = "differ"
            self.figures["differ_at"] += [index] if self.figures["differ"] < SHOWN_MAX else []
            what = str(why) if isinstance(why, ValueError) else "its body is not of its form"
            self._report.add(FAIL, index, f"decision differs: {what}")
        self.figures[found] += 1
        self.figures["evaluated"] += found != "unknown"

    def _intent(self, index: int, body: dict[str, Any], call: Any) -> bool:
        life, approval = self._life(index, body["model"]), self._approvals.get(str(body["approval"]).lower())
        self._seen(index, approval, "no approval of this name before it")
        if approval is None:
            return False
        today = self._today()
        life.day, life.calls = today, life.calls if life.day == today else set()
        life.calls.add(call)
        seen = _weigh(approval, self._time, body)
        _must(approval is life.current(self._time), "a newer approval counts")
        self._seen(index, body["state"] == seen["STATE"] == life.state, f"the model was {life.state} by then")
        stopped = any(site in {None, body["site"], seen["SITE"]} for _, site in self._stops)
        self._seen(index, not stopped, "it was stopped by then")
        cut = [name for name, one in seen.items() if _is_cut(life, name, one)] if life.cut else []
        _must(not cut, f"a class was cut off: {', '.join(cut)}")
        _must(len(life.calls) <= approval.conditions["MAX_CALLS_DAY"], "more calls than are allowed in a day")
        _must(not life.pending, f"entry {min(life.pending, default=0)} asked for a suspension that did not come")
        return True

    def _denial(self, index: int, body: dict[str, Any]) -> bool:
        """A refusal by the gate; false where the log alone cannot tell."""
        code, name, seen, time = body["code"], str(body["condition"]).upper(), str(body["observed"]), self._time
        if body["model"] is None:
            return False
        life = self._life(index, body["model"])
        mine, today = life.approvals, len(life.calls) if life.day == self._today() else 0
        namesakes = [one for one in self._approvals.values() if one.model["name"] == life.model["name"]]
        # One word may be the vendor of a longer name that is not allowed.
        coarse = name == "MANUFACTURER" and " " not in seen
        of_condition = any(
            not condition_holds(one.conditions.get(name), seen, surely=True)
            or (coarse and one.conditions[name] != ["*"])
            for one in mine
        )
        of_need = any(seen in map(_token, one.conditions["REQUIRE"]) for one in mine)
        right = {
            "NO_APPROVAL": not any(one.starts <= time < one.ends for one in namesakes),
            "MODEL_DIGEST_MISMATCH": life.state == "NONE" and namesakes,
            "APPROVAL_EXPIRED": any(one.ends <= time for one in mine),
            "APPROVAL_NOT_YET_VALID": any(time < one.starts for one in mine),
            "NOT_DEPLOYED": life.state in f"{BEFORE_USE} {GRANTED} REJECTED".split(),
            "SUSPENDED": life.state == "SUSPENDED" or life.pending,
            "RETIRED": life.state == "RETIRED",
            "STOPPED": any(level == seen for level, _ in self._stops),
            "SUBGROUP_CUT_OFF": _is_cut(life, name, seen),
            **dict.fromkeys(("CONDITION_NOT_MET", "ATTRIBUTE_UNKNOWN", "AUTONOMY_EXCEEDED"), of_condition),
            **dict.fromkeys(("REQUIREMENT_NOT_MET", "MINOR_NOT_COVERED"), of_need),
            "CALLS_EXHAUSTED": any(today >= one.conditions["MAX_CALLS_DAY"] for one in mine),
        }
        if code in right:
            self._seen(index, right[code], f"{code} is not what the entries say")
        return code in right


def _fits(seat: str, roles: set[str]) -> bool:
    return seat == "*" or not roles.isdisjoint(seat.split("|"))


def _is_cut(life: Life, condition: str, seen: str) -> bool:
    return not life.cut.isdisjoint({(condition, seen), _group(condition, seen)})


def _weigh(approval: Any, time: str, body: dict[str, Any]) -> dict[str, str]:
    """What was observed, by condition. Raises Malformed, with the reason, unless the approval allows this call."""
    _must(body.get("model") == approval.model, "another model than the approved one")
    _must(body.get("policy") == approval.policy, "another policy digest than the approval's")
    _must(approval.starts <= time < approval.ends, "the approval was not in force")
    checks, same = body.get("checks"), repr((body.get("checks"), body.get("autonomy")))
    seen: dict[str, str] = approval.weighed.get(same) or {}
    for check in checks if type(checks) is list and not seen else []:
        said = check if type(check) is dict else {}
        name, observed = str(said.get("condition")), str(said.get("observed"))
        _must(said.get("outcome") == "HOLDS", f"{name} has the outcome {said.get('outcome')}")
        allowed = ALWAYS[name].split() if name in ALWAYS else approval.conditions.get(name)
        holds = name not in seen and condition_holds(allowed, observed)
        _must(holds, f"{name} does not hold for what was observed, or is there twice")
        _must(name != "MAX_AUTONOMY" or observed == body.get("autonomy"), "another autonomy was checked than was used")
        seen[name] = observed
    lacking = sorted((approval.conditions.keys() | ALWAYS.keys()) - seen.keys())
    _must(not lacking, f"not checked: {', '.join(lacking)}")
    approval.weighed.update({same: seen} if len(approval.weighed) < CHUNK else {})
    return seen


# ---- The whole.
MANIFEST_FIELDS = "counts does_not_prove filter first format last members origin period size verifier"


def _read_manifest(package: Package) -> Any:
    said, report = parse_json(package.read("MANIFEST.json")), package.report
    good = type(said) is dict and " ".join(sorted(said)) == MANIFEST_FIELDS and said["format"] == FORMAT
    _must(good, f"not the fields of {FORMAT}")
    members, period, words, proven = maps = [said[name] for name in ("members", "period", "filter", "does_not_prove")]
    _must(all(type(each) is dict for each in maps), "members, period, filter or does_not_prove: of the wrong type")
    for name in sorted((members.keys() ^ package.members.keys()) - {"MANIFEST.json"}):
        report.add(FAIL, name, "in the package or in MANIFEST.json, and not in both")
    times = [_TIME.fullmatch(str(one)) for one in period.values() if one is not None]
    first, last, size = (said[name] for name in ("first", "last", "size"))
    inside = all(type(one) is int for one in (first, last, size)) and 0 <= first <= last < size
    for what, holds in {
        "period: not from and to, or not times as entries write them": period.keys() == {"from", "to"} and all(times),
        "filter: not a map of plain texts": all(type(text) is str for text in words.values()),
        "the verifier's digest is not that of verifier.py": said["verifier"] == members.get("verifier.py"),
        "does_not_prove: not in en and zh": proven.keys() == {"en", "zh"},
        "first and last: not indices of this log": inside or first is last is None,
    }.items():
        report.check(holds, "MANIFEST.json", what)
    package.digests = members
    return said


def _check_entries(package: Package, size: int, entries: Entries, tree: Tree, sm3: Tree | None) -> None:
    for first in range(0, size, CHUNK):
        index, hashes, others = first, [], []
        try:
            for known, data in leaves_of(package.read(f"entries/{first:013d}"), min(CHUNK, size - first)):
                hashes.append(hashlib.sha256(b"\0" + data).digest() if known else data)
                if known:
                    entries.take(index, data)
                entries.hidden += not known
                if sm3 is not None and not entries.hidden:
                    others.append(sm3.hash(b"\0" + data).digest())
                index += 1
        except Malformed as wrong:
            package.report.add(FAIL, package.report.place, str(wrong), index)
            return  # nothing after it can be placed
        tree.take(hashes)
        if sm3 is not None:
            sm3.take(others)
    if sm3 is not None and entries.hidden:
        package.report.add(INCOMPLETE, "sm3/checkpoint", "not compared: entries out of scope have no SM3 hash here")


def _check_witnesses(quorum: int, report: Report, checkpoints: Sequence[Checkpoint], end: Any, tail_max: int) -> Any:
    """(size, unix seconds at which a quorum had cosigned) of the checkpoints that have one."""
    size = checkpoints[-1].size
    timed = [(one.size, one.times[quorum - 1]) for one in checkpoints if quorum and len(one.times) >= quorum]
    witnessed, shown = (timed[-1][0], _shown(timed[-1][1])) if timed else (0, None)
    report.figures.update(witnessed_size=witnessed, witnessed_at=shown, unwitnessed_tail=size - witnessed)
    if not quorum:
        report.add(INCOMPLETE, "policy", "names no witness: nobody outside the hospital vouches for this log")
    elif not timed:
        report.add(INCOMPLETE, "checkpoint", f"no checkpoint has cosignatures of {quorum} witnesses of the policy")
    elif size - witnessed > tail_max:
        what = f"{size - witnessed} newest entries without a quorum of witnesses, {tail_max} allowed"
        report.add(INCOMPLETE, "checkpoint", what, witnessed)
    if _TIME.fullmatch(str(end)) and (shown or "") < end:
        report.add(INCOMPLETE, "checkpoint", f"nothing witnessed at or after the period's end, {end}")
    return timed


def verify(file: BinaryIO, policy: Policy, period_end: str | None = None, tail_max: int = 0) -> Report:
    """The whole check. ``period_end`` is as entries write time; without it the package's own period counts."""
    report = Report()
    try:
        package = Package(file, report)
        manifest = _read_manifest(package)
        checkpoints = read_checkpoints(package, policy)
        size, end = checkpoints[-1].size, period_end or manifest["period"].get("to")
        report.figures.update(origin=policy.origin, size=size, period=manifest["period"], filter=manifest["filter"])
        same = (manifest["origin"], manifest["size"]) == (policy.origin, size)
        report.check(same, "MANIFEST.json", "origin or size: not those of the checkpoint")
        timed = _check_witnesses(policy.numbers["quorum"], report, checkpoints, end, tail_max)
        stamped = check_stamps(package, policy, checkpoints)
        report.figures["stamped_size"] = max((one for one, _ in stamped), default=0)
        entries, sm3 = Entries(policy, report, [*timed, *stamped]), sm3_tree(package, policy, size)
        _check_entries(package, size, entries, Tree(checkpoints, report), sm3)
        report.figures["sm3_size"] = sm3.good if sm3 else None
        entries.finish(size)
        report.check(manifest["counts"] == entries.counts, "MANIFEST.json", "counts: not those of the entries")
        for name in sorted(package.unread):
            package.read(name, keep=False)
            extra = re.fullmatch(r"entries/0*([0-9]+)", name)
            if extra and int(extra[1]) not in range(0, size, CHUNK):
                report.add(FAIL, name, "entries that no checkpoint has", int(extra[1]))
    except Malformed as wrong:
        report.add(FAIL, report.place, str(wrong))
    return report


def as_text(report: Report) -> str:
    """For people."""
    lines = [report.verdict]
    lines += [] if report.first_bad is None else [f"first bad index: {report.first_bad}"]
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
    _must(moment.tzinfo, "a zone wanted")
    return _shown(moment.timestamp())


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
        with given.package.open("rb") as file:
            report = verify(file, Policy(given.policy), given.period_end, given.max_unwitnessed)
    except (Unusable, OSError) as wrong:
        print(f"verifier.py: {getattr(wrong, 'strerror', None) or wrong}", file=sys.stderr)
        return UNUSABLE
    print(json.dumps(report.as_json(), ensure_ascii=False, indent=1) if given.json else as_text(report))
    return STATUS[report.verdict]


if __name__ == "__main__":
    sys.exit(main())
