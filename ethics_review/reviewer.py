"""The reviewer's tool: opens a submission, checks every digest, drafts what the reviewer decides, and signs it.

One file; Python 3.9 or later, no network, nothing to install. Run it on a laptop that no network reaches:

    python3 -I reviewer.py keygen --name NAME --out KEY        a key pair; the public line goes to the hospital
    python3 -I reviewer.py check SUBMISSION                    every digest, and the root that an approval names
    python3 -I reviewer.py show SUBMISSION [DOCUMENT]          what is in it
    python3 -I reviewer.py approve SUBMISSION --terms FILE --out TEXT
    python3 -I reviewer.py act SUBMISSION --event E --from STATE --to STATE --reason CODE --out TEXT
                               [--after DIGEST] [--statement FILE]
    python3 -I reviewer.py sign TEXT --key KEY --out NOTE      a draft, or a signed note that wants a second signature

Take this file from somebody other than whoever gave you the submission. The secret key stays in its file, mode 0600; it
is never printed. Arithmetic in pure Python is not constant time: somebody who can measure this process closely could
learn the key. That is why the laptop is offline, and yours alone.

Exit status: 0 done; 1 the submission is not what it says; 3 the command or a file could not be used.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import hashlib
import io
import json
import os
import re
import stat
import sys
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

APPROVAL, ACT, SUBMISSION = "zhiying-approval/2", "zhiying-act/1", "zhiying.submission/1"
FILES, DOSSIER = "zhiying.files/1", "zhiying.dossier/1"
DONE, BAD, UNUSABLE = 0, 1, 3
TOTAL_BYTES_MAX = 160 << 20  # of a submission, which is held in memory
TEXT_CHARS_MAX = 12_000  # of what is signed: it becomes one entry of the hospital's log
FILE_BYTES_MAX = 1 << 20  # of a draft, a note or a key
ZIP_TIME, FILE_MODE, UNIX = (1980, 1, 1, 0, 0, 0), 0o100644, 3
OWN = ("README.md", "check.json", "reviewer.py", "verifier.py")  # beside the submission, under no digest
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MEMBER = re.compile(
    r"README\.md|(?:check|dossier|submission)\.json|(?:reviewer|verifier)\.py|model/(?:manifest|files)\.json"
    r"|documents/[a-z0-9][a-z0-9_-]{0,63}(?:\.[a-z0-9]{1,8}){0,2}"
)
_CODE = re.compile(r"[A-Z0-9_]{1,64}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
STATES = (
    "NONE", "DRAFT", "SELF_ASSESSED", "SUBMITTED", "UNDER_REVIEW", "EXPERT_REREVIEW", "REVISE", "REJECTED", "APPROVED",
    "APPROVED_WITH_CONDITIONS", "SHADOW", "LIVE", "SUSPENDED", "RETIRED",
)  # fmt: skip
EVENTS = (
    "OPEN", "SELF_ASSESS", "SUBMIT", "BEGIN_REVIEW", "REFER", "PANEL_CLEAR", "PANEL_REJECT", "REVISE", "REJECT",
    "REOPEN", "DEPLOY", "GO_LIVE", "SUSPEND", "RESUME", "RESTRICT", "COUNTERSIGN", "FOLLOW_UP", "RETIRE",
)  # fmt: skip
TERMS = (
    "approval", "criteria_set", "reviewer_org", "valid", "follow_up", "conditions", "monitor", "acceptance",
    "on_breach",
)  # fmt: skip
CONDITIONS = (
    "modality", "body_part", "age_years", "sex", "manufacturer", "site", "slice_spacing_mm", "max_autonomy",
    "care_setting", "reading_mode", "max_calls_day", "require",
)  # fmt: skip


class Wrong(ValueError):
    """A submission or a text that is not what it says."""


class Unusable(Exception):
    """A command or a file that cannot be used."""


def _must(holds: object, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)


# ---- Ed25519 (RFC 8032, section 5.1)
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
_B = (15112221349535400772501151409588531511454012693041857206046113283949847762202, 4 * pow(5, -1, P) % P)
Point = namedtuple("Point", "x y z t")  # extended coordinates: x/z, y/z, and t = xy/z
BASE = Point(_B[0], _B[1], 1, _B[0] * _B[1] % P)


def _add(one: Point, other: Point) -> Point:
    a, b = (one.y - one.x) * (other.y - other.x), (one.y + one.x) * (other.y + other.x)
    c, d = 2 * one.t * other.t % P * D, 2 * one.z * other.z
    e, f, g, h = (b - a) % P, (d - c) % P, (d + c) % P, (b + a) % P
    return Point(e * f % P, g * h % P, f * g % P, e * h % P)


def _times_base(scalar: int) -> bytes:
    """The scalar times the base point, encoded (section 5.1.2)."""
    here = Point(0, 1, 1, 0)
    for bit in range(255, -1, -1):
        # Both are always worked out: the shape of the work shows nothing of the key, though its time may.
        here = _add(here, here)
        here = (here, _add(here, BASE))[scalar >> bit & 1]
    inverse = pow(here.z, -1, P)
    x, y = here.x * inverse % P, here.y * inverse % P
    encoded: int = y | (x & 1) << 255
    return encoded.to_bytes(32, "little")


def _expanded(seed: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | 1 << 254
    return scalar, digest[32:]


def public_key(seed: bytes) -> bytes:
    """The 32 bytes that belong to a secret seed of 32 bytes (section 5.1.5)."""
    scalar, _ = _expanded(seed)
    return _times_base(scalar)


def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    """The 64 bytes of the signature (section 5.1.6); the same for ever."""
    scalar, prefix = _expanded(seed)
    key = _times_base(scalar)
    r = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % L
    point = _times_base(r)
    k = int.from_bytes(hashlib.sha512(point + key + message).digest(), "little") % L
    return point + ((r + k * scalar) % L).to_bytes(32, "little")


# ---- Keys and signed notes (C2SP signed-note)
KIND, PRIVATE, DASH = b"\x01", "PRIVATE+KEY+", "\u2014 "
SIGNATURES_MAX = 100
_NAME = re.compile(r"[^\s+\x00-\x20\x7f]{1,128}")
_SIGNATURE = re.compile(f"{DASH}({_NAME.pattern}) ([A-Za-z0-9+/=]+)")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _key_id(name: str, key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + KIND + key).digest()[:4]


def public_line(name: str, seed: bytes) -> str:
    """What the hospital writes into its trust policy: name+id+base64."""
    key = public_key(seed)
    return f"{name}+{_key_id(name, key).hex()}+{_base64(KIND + key)}"


def secret_line(name: str, seed: bytes) -> str:
    """What stands in the key's file, and nowhere else."""
    return f"{PRIVATE}{name}+{_key_id(name, public_key(seed)).hex()}+{_base64(KIND + seed)}"


def read_key(path: Path) -> tuple[str, bytes]:
    """Name and seed of a key file that only its owner can read. Raises Unusable, whose text never holds the key."""
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise Unusable(f"{path}: open to others; allow it to its owner only (chmod 600)")
    line = _read(path).decode("utf-8", "replace").rstrip("\n")
    name, _, rest = line[len(PRIVATE) :].partition("+")
    try:
        material = base64.b64decode(rest.partition("+")[2].encode("ascii"), validate=True)
    except ValueError:
        material = b""
    seed = material[1:]
    if len(seed) != 32 or not _NAME.fullmatch(name) or line != secret_line(name, seed):
        raise Unusable(f"{path}: not a secret key in the form {PRIVATE}name+id+base64")
    return name, seed


def split_note(data: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    """The text, and (name, key id) of each signature already there; a plain text has none. Raises Wrong."""
    text = data.decode("utf-8")
    _must(not re.search(r"[\x00-\x09\x0b-\x1f]", text) and text.endswith("\n"), "not a text, or its last line is open")
    body, blank, tail = text.rpartition("\n\n")
    if not blank:
        return text, []
    lines = [_SIGNATURE.fullmatch(line) for line in tail[:-1].split("\n")]
    _must(all(lines) and len(lines) < SIGNATURES_MAX, "what follows the empty line is not signatures, or too many")
    found = []
    for line in lines:
        payload = base64.b64decode(line[2].encode("ascii"), validate=True) if line else b""
        _must(line and len(payload) == 68 and _base64(payload) == line[2], "a signature is malformed")
        found += [(line[1], payload[:4])] if line else []
    return body + "\n", found


def signed(data: bytes, name: str, seed: bytes) -> bytes:
    """The note: the text with our signature after those that it has. Raises Wrong for what no reviewer signs."""
    text, there = split_note(data)
    read_text(text)
    key_id = _key_id(name, public_key(seed))
    _must((name, key_id) not in there, "this key has signed it already")
    note = data if there else data + b"\n"
    return note + f"{DASH}{name} {_base64(key_id + ed25519_sign(seed, text.encode()))}\n".encode()


# ---- JSON with one form for one value (RFC 8785, without floats)
def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) >= 2**53:  # ValueError for floats, NaN and Infinity, too
        raise ValueError
    return int(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


_parse = json.JSONDecoder(
    parse_float=_integer, parse_int=_integer, parse_constant=_integer, object_pairs_hook=_once
).decode


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):  # RFC 8785, section 3.2.3: by UTF-16 units
        keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return {key: _ordered(value[key]) for key in keys}
    return [_ordered(each) for each in value] if isinstance(value, list) else value


def canonical(value: Any) -> bytes:
    """The one form of a value."""
    return json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")


def parse(data: bytes, *, exact: bool = True) -> Any:
    """The value; `exact`: only from its canonical bytes. Raises Wrong."""
    try:
        value = _parse(data.decode("utf-8"))
        same = canonical(value) == data or not exact
    except (ValueError, RecursionError):
        raise Wrong("not JSON, or with a key twice, a fraction or a depth that is not allowed") from None
    _must(same, "not in canonical form (RFC 8785)")
    return value


# ---- A submission: a zip in the one form that its writer gives it
def digest(data: bytes) -> str:
    """ "sha256:..." of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def packed(members: dict[str, bytes]) -> bytes:
    """The zip of these members, in their order: stored, with fixed times. Equal members, equal bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=False) as made:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, ZIP_TIME)
            info.create_system, info.external_attr = UNIX, FILE_MODE << 16
            with made.open(info, "w") as member:
                member.write(data)
    return file.getvalue()


def members_of(data: bytes) -> dict[str, bytes]:
    """The members. A zip in any other form, in which two programs could see two things, raises Wrong."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            plain = all(one.compress_type == zipfile.ZIP_STORED and not one.flag_bits & 1 for one in file.infolist())
            _must(plain and sum(one.file_size for one in file.infolist()) <= TOTAL_BYTES_MAX, "members are compressed")
            names = file.namelist()
            _must(
                len(set(names)) == len(names) and all(map(_MEMBER.fullmatch, names)), "a member that none has, or twice"
            )
            found = {name: file.read(name) for name in names}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, OSError):
        raise Wrong("not a zip, or a damaged one") from None
    _must(packed(found) == data, "the zip is not in the one form of a submission")
    return found


Submission = namedtuple("Submission", "root model documents files")


def open_submission(data: bytes) -> Submission:
    """Everything in it compared with its digest. Raises Wrong, which names what differs."""
    files = members_of(data)
    body = _member(files, "submission.json")
    top = parse(body)
    _keys(top, "submission.json", ("schema", "model", "dossier", "documents"))
    _must(top["schema"] == SUBMISSION, "submission.json: of another schema")
    _keys(top["model"], "model", ("name", "version", "digest"))
    dossier = parse(_member(files, "dossier.json"), exact=False)
    _must(digest(files["dossier.json"]) == top["dossier"], "dossier.json: other bytes than were submitted")
    _keys(dossier, "dossier.json", ("schema", "model", "documents"))
    _must(dossier["schema"] == DOSSIER and dossier["model"] == top["model"], "dossier.json: about another model")
    _must(isinstance(dossier["documents"], dict), "dossier.json: documents wanted")
    documents = {}
    for name, one in sorted(dossier["documents"].items()):
        _keys(one, name, ("file", "digest"))
        documents[name] = f"documents/{one['file']}"
        _must(
            digest(_member(files, documents[name])) == one["digest"], f"{_plain(name)}: other bytes than were submitted"
        )
    named = {name: one["digest"] for name, one in dossier["documents"].items()}
    _must(named == top["documents"], "dossier.json and submission.json name other documents")
    listing = parse(_member(files, "model/files.json"))
    _must(digest(files["model/files.json"]) == top["model"]["digest"], "model/files.json: of another model")
    _keys(listing, "model/files.json", ("schema", "files"))
    manifest = _member(files, "model/manifest.json")
    listed = listing["files"].get("manifest.json") if isinstance(listing["files"], dict) else None
    good = listing["schema"] == FILES and listed == {"size": len(manifest), "sha256": digest(manifest)}
    _must(good, "model/manifest.json: not the one that the model's digest covers")
    known = {"submission.json", "dossier.json", "model/files.json", "model/manifest.json", *documents.values(), *OWN}
    _must(set(files) <= known, "a document that dossier.json does not name")
    return Submission(digest(body), top["model"], documents, files)


def _member(files: dict[str, bytes], name: str) -> bytes:
    _must(name in files, f"{_plain(name)}: missing")
    return files[name]


def _keys(value: Any, where: str, keys: tuple[str, ...]) -> None:
    good = isinstance(value, dict) and set(value) == set(keys)
    _must(good, f"{_plain(where)}: exactly {', '.join(keys)} wanted")


def _plain(text: str) -> str:
    """A stranger's text as it may stand on a screen: no control character, nothing that turns writing around."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in text)


# ---- What a reviewer signs
def read_text(text: str) -> dict[str, Any]:
    """The JSON of an approval or an act, if it is one: a header, and one line in canonical form. Raises Wrong."""
    header, _, line = text.partition("\n")
    _must(header in (APPROVAL, ACT), f"only texts that begin with {APPROVAL} or {ACT} are signed")
    _must(len(text) <= TEXT_CHARS_MAX, f"more than {TEXT_CHARS_MAX} characters")
    value = parse(line[:-1].encode("utf-8"))
    _must(line.endswith("\n") and isinstance(value, dict), "one line of JSON wanted")
    return value  # type: ignore[no-any-return]


def approval_text(terms: Any, submission: Submission) -> str:
    """The approval of this submission on these terms, to be signed; the hospital is stricter. Raises Wrong."""
    _keys(terms, "terms", TERMS)
    _must(isinstance(terms["approval"], str) and _ID.fullmatch(terms["approval"]), "approval: letters, digits, . _ -")
    _keys(terms["valid"], "valid", ("from", "to"))
    _keys(terms["follow_up"], "follow_up", ("days", "listed"))
    _keys(terms["conditions"], "conditions", CONDITIONS)
    _must(
        isinstance(terms["monitor"], dict) and isinstance(terms["acceptance"], list),
        "monitor, acceptance: of another form",
    )
    _must(terms["on_breach"] in ("SUSPEND", "RESTRICT"), "on_breach: SUSPEND or RESTRICT wanted")
    try:
        first, last = (datetime.date.fromisoformat(terms["valid"][key]) for key in ("from", "to"))
    except (TypeError, ValueError):
        raise Wrong("valid: days YYYY-MM-DD wanted") from None
    _must(first <= last, "valid: ends before it begins")
    value = {**terms, "model": submission.model, "submission": submission.root}
    return _text(APPROVAL, value)


def act_text(fields: dict[str, Any]) -> str:
    """An act, to be signed. Raises Wrong for what no act is."""
    good = fields["event"] in EVENTS and fields["from"] in STATES and fields["to"] in STATES
    _must(good, f"event: one of {', '.join(EVENTS)}; from, to: one of {', '.join(STATES)}")
    _must(_CODE.fullmatch(fields["reason"]), "reason: a code in capitals wanted")
    _must(fields["after"] is None or _DIGEST.fullmatch(fields["after"]), "after: a digest wanted, or none")
    _must(isinstance(fields["statement"], dict), "statement: a JSON object wanted")
    return _text(ACT, fields)


def _text(header: str, value: dict[str, Any]) -> str:
    text = f"{header}\n{canonical(value).decode('utf-8')}\n"
    _must(len(text) <= TEXT_CHARS_MAX, f"more than {TEXT_CHARS_MAX} characters")
    return text


# ---- Commands
def _read(path: Path, most: int = FILE_BYTES_MAX) -> bytes:
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise Unusable(f"{path}: more than {most} bytes")
    return data


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """A new file; what is there is never overwritten."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def _opened(path: Path) -> Submission:
    return open_submission(_read(path, TOTAL_BYTES_MAX))


def _keygen(given: argparse.Namespace) -> None:
    _must(_NAME.fullmatch(given.name), "name: no spaces, no plus; best a URL without scheme, reviewer.example/ai")
    seed = os.urandom(32)
    _write(given.out, f"{secret_line(given.name, seed)}\n".encode(), 0o600)
    mode = stat.S_IMODE(given.out.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        raise Unusable(f"{given.out}: this disk leaves it open to others; use another")
    _say(given, {"public": public_line(given.name, seed), "secret": str(given.out)}, public_line(given.name, seed))


def _check(given: argparse.Namespace) -> None:
    found = _opened(given.submission)
    value = {"root": found.root, "model": found.model, "documents": sorted(found.documents)}
    lines = [f"{name}: as submitted" for name in sorted(found.documents)]
    model = f"model {found.model['name']} {found.model['version']}: {found.model['digest']}"
    _say(given, value, "\n".join([*lines, model, f"root {found.root}"]))


def _show(given: argparse.Namespace) -> None:
    found = _opened(given.submission)
    wanted = {"manifest": "model/manifest.json", "check": "check.json", **found.documents}
    if given.document is not None:
        _must(given.document in wanted, f"{_plain(given.document)}: one of {', '.join(wanted)} wanted")
        wanted = {given.document: wanted[given.document]}
    for name, member in wanted.items():
        data = found.files.get(member, b"")
        print(f"==== {name} ({member}, {len(data)} bytes)")
        try:
            shown = json.dumps(json.loads(data), ensure_ascii=False, indent=2) if member.endswith(".json") else None
        except (ValueError, RecursionError):
            shown = None
        print(_plain(shown) if shown is not None else f"not shown: {digest(data)}")


def _approve(given: argparse.Namespace) -> None:
    text = approval_text(parse(_read(given.terms), exact=False), _opened(given.submission))
    _drafted(given, text)


def _act(given: argparse.Namespace) -> None:
    statement = {} if given.statement is None else parse(_read(given.statement), exact=False)
    fields = {"event": given.event, "from": given.from_state, "to": given.to, "reason": given.reason}
    model = _opened(given.submission).model
    _drafted(given, act_text({**fields, "after": given.after, "statement": statement, "model": model}))


def _drafted(given: argparse.Namespace, text: str) -> None:
    _write(given.out, text.encode("utf-8"))
    _say(given, {"file": str(given.out), "digest": digest(text.encode("utf-8"))}, f"{given.out}: read it, then sign it")


def _sign(given: argparse.Namespace) -> None:
    data = _read(given.text)
    name, seed = read_key(given.key)
    note = signed(data, name, seed)
    _write(given.out, note)
    text, there = split_note(note)
    value = {"file": str(given.out), "signed_by": [who for who, _ in there], "digest": digest(note)}
    content = json.dumps(read_text(text), ensure_ascii=False, indent=2)
    _say(given, value, f"{_plain(content)}\nsigned by {', '.join(who for who, _ in there)}: {given.out}")


def _say(given: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2) if given.json else text)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The reviewer's tool; see the beginning of this file.")
    commands = parser.add_subparsers(dest="command", required=True)
    made = {}
    for name, does in (
        ("keygen", _keygen),
        ("check", _check),
        ("show", _show),
        ("approve", _approve),
        ("act", _act),
        ("sign", _sign),
    ):
        made[name] = commands.add_parser(name)
        made[name].set_defaults(does=does)
        made[name].add_argument("--json", action="store_true", help="for machines")
        if name not in ("keygen", "sign"):
            made[name].add_argument("submission", type=Path)
    made["keygen"].add_argument("--name", required=True)
    made["show"].add_argument("document", nargs="?")
    made["approve"].add_argument("--terms", type=Path, required=True, help=f"JSON with {', '.join(TERMS)}")
    for name, more in (("event", {}), ("from", {"dest": "from_state"}), ("to", {}), ("reason", {})):
        made["act"].add_argument(f"--{name}", required=True, **more)
    made["act"].add_argument("--after", help="digest of the dossier's last note, from the hospital's `review show`")
    made["act"].add_argument("--statement", type=Path, help="JSON: what the act says besides")
    made["sign"].add_argument("text", type=Path)
    made["sign"].add_argument("--key", type=Path, required=True)
    for name in ("keygen", "approve", "act", "sign"):
        made[name].add_argument("--out", type=Path, required=True, help="a new file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """One command; gives the exit status."""
    given = _arguments(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    try:
        given.does(given)
    except UnicodeDecodeError:
        print("error: not text in UTF-8", file=sys.stderr)
        return BAD
    except ValueError as wrong:
        print(f"error: {_plain(str(wrong))}", file=sys.stderr)
        return BAD
    except Unusable as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return UNUSABLE
    except OSError as wrong:
        print(f"error: {wrong.strerror}: {wrong.filename}", file=sys.stderr)
        return UNUSABLE
    return DONE


if __name__ == "__main__":
    sys.exit(main())
