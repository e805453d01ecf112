"""Small wheels that stand in for the real ones: a `zhiying` that says little, what it needs, and a pip."""

import base64
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROGRAM = """
import pathlib, sys, tomllib
import tiny_need
def main():
    if sys.argv[1:2] == ["doctor"]:
        said = tomllib.loads(pathlib.Path(sys.argv[3]).read_text(encoding="utf-8"))
        print("doctor of VERSION:", said["data"]["folder"])
        sys.exit(1 if said["site"]["id"] == "unwell" else 0)
    print("zhiying VERSION")
"""
FAKE_PIP = """
import configparser, hashlib, os, pathlib, re, sys, zipfile
said = sys.argv[1:]
wanted = {"install", "--no-index", "--find-links", "--require-hashes", "--only-binary=:all:", "-r", "--no-cache-dir"}
asked = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
if wanted - set(said) or asked != {"PIP_CONFIG_FILE": "/dev/null"} or sys.prefix == sys.base_prefix:
    sys.exit("pip was called in another way than it must be")
house = pathlib.Path(said[said.index("--find-links") + 1])
library = pathlib.Path(sys.prefix, "lib", "python%d.%d" % sys.version_info[:2], "site-packages")
for line in pathlib.Path(said[said.index("-r") + 1]).read_text().splitlines():
    name, version, digest = re.fullmatch(r"(.+)==(.+) --hash=sha256:(.+)", line).groups()
    wheel, = house.glob(f"{name.replace('-', '_')}-{version}-*.whl")
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != digest:
        sys.exit("THESE PACKAGES DO NOT MATCH THE HASHES")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(library)
    for entry in library.glob(f"{name}-{version}.dist-info/entry_points.txt"):
        parser = configparser.ConfigParser()
        parser.read(entry)
        for command, where in parser["console_scripts"].items():
            module, function = where.split(":")
            script = pathlib.Path(sys.prefix, "bin", command)
            script.write_text(f"#!{sys.executable}\\nimport {module}\\n{module}.{function}()\\n")
            script.chmod(0o755)
"""
PIP = "26.3"
MEMBERS = ("install.sh", "zhiying.service", "zhiying.toml")
NEED = f"tiny_need-0.5-py3-none-manylinux_2_17_{platform.machine()}.whl"


def write_wheel(path: Path, files: Mapping[str, str], metadata: str = "", scripts: str = "") -> Path:
    """A wheel with these files; name, version and tags are those of its path."""
    name, version, tag = path.stem.split("-", 2)
    info = f"{name}-{version}.dist-info"
    whole = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n{metadata}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    if scripts:
        whole[f"{info}/entry_points.txt"] = f"[console_scripts]\n{scripts}\n"
    record = ""
    for member, text in whole.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{member},sha256={digest},{len(text.encode())}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**whole, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            # The time is fixed, so that the same wheel has the same digest.
            archive.writestr(zipfile.ZipInfo(member), text)
    return path


def write_program(folder: Path, version: str, program: str = PROGRAM) -> Path:
    """The wheel of a `zhiying` of this version."""
    metadata = "License-Expression: Apache-2.0\nRequires-Dist: tiny-need"
    files = {"stand_in.py": program.replace("VERSION", version)}
    return write_wheel(folder / f"zhiying-{version}-py3-none-any.whl", files, metadata, "zhiying = stand_in:main")


def write_need(folder: Path) -> Path:
    """The wheel that `zhiying` needs, made for glibc 2.17 and newer."""
    return write_wheel(folder / NEED, {"tiny_need.py": ""}, "License: MIT License")


def write_weights(folder: Path) -> Path:
    """The wheel with weights of a model."""
    said = "Classifier: License :: OSI Approved :: BSD License"
    return write_wheel(folder / "tiny_weights-3.1-py3-none-any.whl", {"weights.txt": "1 2 3"}, said)


def write_pip(folder: Path) -> Path:
    """A pip that takes half a second less of a core for each installation, and is strict about how it is called."""
    return write_wheel(folder / f"pip-{PIP}-py3-none-any.whl", {"pip/__main__.py": FAKE_PIP})


def write_real_pip(folder: Path) -> Path:
    """The pip that these tests run with, packed as a wheel again; nothing is downloaded."""
    pip = importlib.metadata.distribution("pip")
    path = folder / f"pip-{pip.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(pip.files or (), key=str):
            if file.parts[0] in {"pip", f"pip-{pip.version}.dist-info"} and file.suffix != ".pyc":
                archive.writestr(zipfile.ZipInfo(str(file)), Path(str(file.locate())).read_bytes())
    return path


def constraints(folder: Path) -> Path:
    """A constraints.txt that pins what stands in."""
    path = folder / "constraints.txt"
    path.write_text(f"tiny.need==0.5\npip=={PIP}\n", encoding="utf-8")
    return path


def staged(stage: Path, version: str, program: str = PROGRAM) -> Path:
    """A folder with all that pack.py has to be given."""
    write_program(stage / "wheels", version, program)
    write_need(stage / "wheels")
    write_pip(stage / "wheels")
    write_weights(stage / "weights")
    for name in MEMBERS:
        (stage / name).write_bytes((DEPLOY / name).read_bytes())
    (stage / "LICENSE").write_text("a licence\n", encoding="utf-8")
    return stage


def pack(stage: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Runs pack.py as bundle.sh does."""
    command = [sys.executable, "-I", str(DEPLOY / "pack.py"), str(stage), str(out), "--commit", "c0ffee", *more]
    pins = ["--constraints", str(constraints(out))]
    return subprocess.run([*command, *pins], capture_output=True, text=True, check=False)


def bundle(folder: Path, version: str, program: str = PROGRAM, *more: str) -> Path:
    """An unpacked bundle of this version."""
    stage = staged(folder / "stage", version, program)
    done = pack(stage, folder, *more)
    assert done.returncode == 0, done.stderr
    return stage


def resum(folder: Path) -> None:
    """Writes SHA256SUMS anew, as somebody would who changes a bundle and its list."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    lines = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in paths)
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def card(folder: Path, weights: Path) -> None:
    """A model's card whose source is this wheel."""
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    source = {"kind": "wheel", "package": "tiny-weights", "package_version": "3.1", "sha256": f"sha256:{digest}"}
    folder.mkdir(parents=True)
    (folder / "source.json").write_text(json.dumps(source), encoding="utf-8")
