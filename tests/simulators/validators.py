"""Judges of DICOM objects that we did not write. Each gives its complaints; a missing judge is an error."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

_PIXELMED = Path("/usr/share/java/pixelmed.jar")
_JUDGE = Path(__file__).with_name("ReportJudge.java")
_SECONDS_MAX = 240  # on a busy machine the slowest of them, with a JVM to start, needs more than two minutes
# dicom3tools of 2022 does not know Device UID in Contributing Equipment (DICOM since 2017, IHE AIR asks for it), nor
# schemes that it lists as private.
_ALLOWED = ("DeviceUID(0018,1002)> - Attribute is not present in standard DICOM IOD",)


class JudgeMissing(Exception):
    """A validator that the tests rely on is not installed: no verdict is not a good verdict."""


def dciodvfy(path: Path) -> list[str]:
    """Error lines of dciodvfy (dicom3tools), without those of the allow-list."""
    done = _run(["dciodvfy", "-new", str(path)])
    lines = [line for line in _lines(done) if line.startswith("Error")]
    errors = [line for line in lines if not any(allowed in line for allowed in _ALLOWED)]
    if done.returncode not in (0, 1) or (done.returncode == 1 and not lines):
        return [*errors, f"dciodvfy ended with {done.returncode}"]
    return errors


def dciodvfy_warnings(path: Path) -> list[str]:
    """Warning lines of dciodvfy, without those of the allow-list."""
    lines = [line for line in _lines(_run(["dciodvfy", "-new", str(path)])) if line.startswith("Warning")]
    return [line for line in lines if not any(allowed in line for allowed in _ALLOWED)]


def sr_validator(path: Path) -> list[str]:
    """Error lines of PixelMed's DicomSRValidator, which knows the templates."""
    return _sr_errors(_report_judge().verdict(path))


class _ReportJudge:
    """One process of it, for all the tests of ours; it ends with us, or when a verdict takes too long."""

    def __init__(self) -> None:
        if not _PIXELMED.is_file():
            raise JudgeMissing("pixelmed.jar")
        limits = [f"-Djdk.xml.xpath{kind}Limit=0" for kind in ("TotalOp", "ExprOp", "ExprGrp")]
        command = ["java", *limits, "-XX:+UseSerialGC", "-Xmx1g", "-cp", str(_PIXELMED), str(_JUDGE)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        atexit.register(self.close)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def verdict(self, path: Path) -> list[str]:
        """The lines that it prints of this file; its last words if it ends instead."""
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answers is not None
        watch = threading.Timer(_SECONDS_MAX, self._process.kill)
        watch.start()
        lines: list[str] = []
        try:
            # To one that has ended meanwhile nothing can be said, and it answers nothing.
            with suppress(BrokenPipeError):
                asked.write(f"{path}\n")
                asked.flush()
            for line in answers:
                if line.rstrip("\n") == f"== {path}":
                    return lines
                lines.append(line.rstrip("\n"))
        finally:
            watch.cancel()
        self.close()
        # The next one asked is a new one.
        _report_judge.cache_clear()
        return lines[-5:]


@cache
def _report_judge() -> _ReportJudge:
    return _ReportJudge()


def _sr_errors(lines: list[str]) -> list[str]:
    if not any("IOD validation complete" in line for line in lines):
        return ["DicomSRValidator did not finish", *lines[:5]]
    return [line for line in lines if "Error" in line or "Exception" in line]


def dsrdump(path: Path) -> list[str]:
    """Why DCMTK cannot read the report; empty when it can."""
    done = _run(["dsrdump", str(path)])
    return [] if done.returncode == 0 else [f"dsrdump ended with {done.returncode}", *_lines(done)[:10]]


def dsrdump_text(path: Path) -> str:
    """The report as DCMTK understands it, in UTF-8."""
    done = _run(["dsrdump", "+U8", str(path)])
    return done.stdout.decode()


def dsr2html_text(path: Path) -> str:
    """The page that DCMTK makes of the report, in UTF-8."""
    done = _run(["dsr2html", "+U8", str(path)])
    return done.stdout.decode()


def dcmqi(program: str, *words: str | Path) -> None:
    """Run one of dcmqi's readers; what it says is in the files that it leaves."""
    done = _run([str(Path(sys.executable).parent / program), *(str(word) for word in words)])
    assert done.returncode == 0, done.stderr.decode()


def dcmpschk(path: Path) -> list[str]:
    """What DCMTK's judge of presentation states complains of, one line each.

    That of 2022 does not know UTF-8: it takes any text with a letter beyond ASCII for none of its value representation.
    """
    done = _run(["dcmpschk", str(path)])
    lines = _lines(done)
    if not any(line.startswith("W: Test ") for line in lines):
        return ["dcmpschk did not finish", *lines[:5]]
    found = [line[3:] for line in lines if line.startswith("W: ") and not line.startswith(("W: Test", "W: Warning"))]
    errors = "\n".join(line[3:] for line in lines if line.startswith("E:")).split("Error: ")[1:]
    for error in errors:
        value = error.partition("Attribute value")[2].partition("Expected")[0]
        if "does not conform" not in error or value.isascii():
            found.append(" ".join(error.split()))
    return found


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    if shutil.which(command[0]) is None:
        raise JudgeMissing(command[0])
    return subprocess.run(command, capture_output=True, timeout=_SECONDS_MAX, check=False)


def _lines(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
