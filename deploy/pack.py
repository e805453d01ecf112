"""Packs a folder with wheels into the one file that a hospital carries in; standard library only.

It adds what can be known from the wheels alone: BUNDLE (what the target must have), requirements.txt (each wheel by
version and SHA-256, for pip to check again), sbom.cdx.json (CycloneDX 1.5) and SHA256SUMS of every other member. The
same folder gives the same bytes, so that two people who make the same bundle can compare digests.
"""

import argparse
import email
import email.message
import hashlib
import itertools
import json
import platform
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

BLOCK: Final = 1024**2
GROWTH: Final = 1.5
"""Bytes on the target for each byte in the wheels: compiled modules, whole blocks. Measured: 1.28."""
LICENCE_LINE_MAX: Final = 100
"""Characters: some packages put the whole text of their licence where its name belongs."""
LEGACY: Final = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


class PackRefused(Exception):
    """Nothing was packed; one line with a code says why."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(f"error {code}: {what}")


@dataclass(frozen=True, slots=True)
class Wheel:
    """What a wheel says of itself."""

    path: Path
    name: str  # as PEP 503 normalises it
    version: str
    licence: Mapping[str, Any] | None  # a CycloneDX licence choice
    sha256: str
    unpacked: int  # bytes

    @property
    def glibc(self) -> tuple[int, int]:
        """The oldest glibc that this file runs on, (0, 0) for any: of its tags the one that asks least counts."""
        found = []
        for tag in self.path.stem.split("-")[-1].split("."):
            new = re.match(r"manylinux_(\d+)_(\d+)_", tag)
            old = LEGACY.get(tag.split("_")[0])
            if new is not None:
                found.append((int(new[1]), int(new[2])))
            elif old is not None:
                found.append(old)
        return min(found, default=(0, 0))


def normal(name: str) -> str:
    """A package's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def licence_of(metadata: email.message.Message) -> Mapping[str, Any] | None:
    """The licence as METADATA gives it, by expression, name or classifier; nothing is guessed."""
    expression = str(metadata.get("License-Expression", "")).strip()
    if expression:
        return {"expression": expression}
    name = str(metadata.get("License", "")).strip()
    if name and name.upper() != "UNKNOWN" and "\n" not in name and len(name) <= LICENCE_LINE_MAX:
        return {"license": {"name": name}}
    said = [str(line).split(" :: ") for line in metadata.get_all("Classifier", [])]
    names = [parts[-1] for parts in said if parts[0] == "License" and len(parts) > 1]
    return {"license": {"name": "; ".join(names)}} if names else None


def read_wheel(path: Path) -> Wheel:
    """Raises PackRefused for a file that is no wheel."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [one for one in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", one)]
            if len(inside) != 1:
                raise PackRefused("WHEEL_INVALID", f"{path.name} has no METADATA of its own")
            metadata = email.message_from_bytes(archive.read(inside[0]))
            unpacked = sum(one.file_size for one in archive.infolist())
    except zipfile.BadZipFile:
        raise PackRefused("WHEEL_INVALID", f"{path.name} is no wheel") from None
    name, version = metadata.get("Name"), metadata.get("Version")
    if not name or not version:
        raise PackRefused("WHEEL_INVALID", f"{path.name} has no name or no version")
    return Wheel(path, normal(str(name)), str(version), licence_of(metadata), digest(path), unpacked)


def read_wheels(folder: Path) -> list[Wheel]:
    """The wheels of a folder, by name. Raises PackRefused where one package is there twice."""
    wheels = sorted((read_wheel(path) for path in folder.glob("*.whl")), key=lambda one: one.name)
    for one, other in itertools.pairwise(wheels):
        if one.name == other.name:
            raise PackRefused("WHEEL_TWICE", f"{one.path.name} and {other.path.name}")
    return wheels


def check_pins(wheels: Sequence[Wheel], constraints: Path, own: Sequence[str]) -> None:
    """Every wheel is the version that constraints.txt pins; a site's own wheels may be others. Raises PackRefused.

    A local version is none of the pin's business: 2.13.0+cpu is 2.13.0.
    """
    lines = [line.split("==") for line in constraints.read_text(encoding="utf-8").split()]
    pins = {normal(name): version for name, version in lines}
    for wheel in wheels:
        if wheel.path.name not in own and pins.get(wheel.name) != wheel.version.split("+")[0]:
            wanted = pins.get(wheel.name, "no version of it")
            raise PackRefused("WHEEL_UNPINNED", f"{wheel.path.name}: constraints.txt pins {wanted}")


def component(wheel: Wheel, kind: str) -> dict[str, Any]:
    """A wheel as CycloneDX lists it."""
    purl = f"pkg:pypi/{wheel.name}@{wheel.version.replace('+', '%2B')}"
    listed: dict[str, Any] = {"type": kind, "bom-ref": purl, "name": wheel.name, "version": wheel.version}
    if wheel.licence is not None:
        listed["licenses"] = [wheel.licence]
    return {**listed, "purl": purl, "hashes": [{"alg": "SHA-256", "content": wheel.sha256}]}


def sbom(product: Wheel, wheels: Sequence[Wheel], weights: Sequence[Wheel]) -> str:
    """CycloneDX 1.5 as JSON; no serial number and no time, as both would differ between two equal bundles."""
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(product, "application")},
        "components": [
            *(component(one, "library") for one in wheels if one is not product),
            *(component(one, "machine-learning-model") for one in weights),
        ],
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def facts(product: Wheel, version: str, commit: str, wheels: Sequence[Wheel]) -> str:
    """What install.sh has to know, one `key=value` a line."""
    glibc = max(one.glibc for one in wheels)
    torch = next((one.version for one in wheels if one.name == "torch"), "none")
    values = {
        "name": product.name,
        "version": version,
        "commit": commit,
        "python": "{}.{}".format(*sys.version_info[:2]),
        "machine": platform.machine(),
        "glibc": "{}.{}".format(*glibc),
        "kilobytes": int(sum(one.unpacked for one in wheels) * GROWTH) // 1024,
        "torch": torch,
    }
    return "".join(f"{key}={value}\n" for key, value in values.items())


def members(stage: Path) -> Iterator[Path]:
    """Every file below the folder, in an order that does not depend on the disk. Raises PackRefused for a link."""
    for path in sorted(stage.rglob("*"), key=lambda one: one.relative_to(stage).as_posix()):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise PackRefused("MEMBER_INVALID", f"{path.name} is no file")
        if path.is_file():
            yield path


def pack(stage: Path, out: Path, name: str, seconds: int) -> None:
    """One tar with a single folder `name`, the same bytes for the same members; SHA256SUMS comes first."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = seconds
        member.mode = 0o755 if member.name.endswith(".sh") else 0o644
        return member

    inside = sorted(members(stage), key=lambda path: path.name != "SHA256SUMS")
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in inside:
            archive.add(path, f"{name}/{path.relative_to(stage).as_posix()}", recursive=False, filter=plain)


def make(said: argparse.Namespace) -> Path:
    """Adds what is generated to the folder, and packs it. Raises PackRefused."""
    stage: Path = said.stage
    wheels = read_wheels(stage / "wheels")
    weights = read_wheels(stage / "weights")
    product = next((one for one in wheels if one.name == "zhiying"), None)
    if product is None or not any(one.name == "pip" for one in wheels):
        raise PackRefused("WHEEL_MISSING", "zhiying or pip is not among the wheels")
    check_pins([one for one in wheels if one is not product], said.constraints, said.own)
    version = product.version + (f"+{said.label}" if said.label else "")
    lines = [f"{one.name}=={one.version} --hash=sha256:{one.sha256}\n" for one in wheels if one.name != "pip"]
    (stage / "requirements.txt").write_text("".join(lines), encoding="utf-8")
    (stage / "sbom.cdx.json").write_text(sbom(product, wheels, weights), encoding="utf-8")
    (stage / "BUNDLE").write_text(facts(product, version, said.commit, wheels), encoding="utf-8")
    (stage / "SHA256SUMS").unlink(missing_ok=True)
    sums = [f"{digest(path)}  {path.relative_to(stage).as_posix()}\n" for path in members(stage)]
    (stage / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    name = "zhiying-{}-cp{}{}-linux_{}".format(version, *sys.version_info[:2], platform.machine())
    out: Path = said.out / f"{name}.tar"
    pack(stage, out, name, said.seconds)
    return out


def main() -> int:
    """The command: prints the file's name; 0 only if it was made."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("stage", type=Path, help="a folder with wheels/, weights/ and what else belongs in")
    parser.add_argument("out", type=Path, help="the folder for the tar")
    parser.add_argument("--constraints", type=Path, required=True)
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--seconds", type=int, default=0, help="the time of every member, since 1970")
    parser.add_argument("--label", default="", help="tells this bundle from another one of the same version")
    parser.add_argument("--own", action="append", default=[], help="a wheel that constraints.txt need not pin")
    said = parser.parse_args()
    if said.label and not re.fullmatch(r"[a-z0-9]+(\.[a-z0-9]+)*", said.label):
        parser.error("--label: small letters, digits and single dots")
    try:
        print(make(said))
    except PackRefused as refused:
        print(refused, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
