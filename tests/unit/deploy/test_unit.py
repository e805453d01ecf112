"""The systemd unit, and the configuration that a new site starts with."""

import shutil
import subprocess
from pathlib import Path

from service.config import load
from tests.simulators import wheelhouse

UNIT = wheelhouse.DEPLOY / "zhiying.service"


def _settings() -> dict[str, str]:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_hardened() -> None:
    """The service may write its data folder alone, has no rights and gets none, and comes back after a crash."""
    settings = _settings()
    wanted = {
        "User": "zhiying",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "ReadWritePaths": "/var/lib/zhiying",
        "CapabilityBoundingSet": "",
        "Restart": "on-failure",
        "UMask": "0077",
        "ExecStart": "/opt/zhiying/current/bin/zhiying serve",
        "Environment": "ZHIYING_CONFIG=/etc/zhiying/zhiying.toml",
    }
    assert {key: settings.get(key) for key in wanted} == wanted


def test_leaves_torch_and_the_device_alone() -> None:
    """What would break torch, a GPU or the models' own wall against the network is not asked for."""
    assert not {"MemoryDenyWriteExecute", "PrivateDevices", "SystemCallFilter", "PrivateNetwork"} & set(_settings())


def test_systemd_understands_it(tmp_path: Path) -> None:
    """systemd finds no fault in the unit, where it is here to be asked."""
    shutil.copy(UNIT, tmp_path / "zhiying.service")
    program = tmp_path / "zhiying"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    text = UNIT.read_text(encoding="utf-8").replace("/opt/zhiying/current/bin/zhiying", str(program))
    (tmp_path / "zhiying.service").write_text(text, encoding="utf-8")
    asked = shutil.which("systemd-analyze")
    if asked is not None:
        command = [asked, "verify", "--man=no", "--recursive-errors=no", str(tmp_path / "zhiying.service")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "zhiying.service" not in done.stderr, done.stderr


def test_example_is_a_configuration(tmp_path: Path) -> None:
    """The example is read by the service as it stands, and so are the lines that it offers; it opens nothing."""
    example = (wheelhouse.DEPLOY / "zhiying.toml").read_text(encoding="utf-8")
    settings = load(wheelhouse.DEPLOY / "zhiying.toml")
    assert settings.data.folder == Path("/var/lib/zhiying")
    assert settings.dicom.host == settings.http.host == "127.0.0.1"
    assert settings.peers == ()
    head, *offered = example.split("\n# [")
    offers = "".join("\n[" + text.replace("\n# ", "\n") for text in offered)
    whole = tmp_path / "zhiying.toml"
    whole.write_text(head + offers, encoding="utf-8")
    settings = load(whole)
    assert settings.dicom.host == "0.0.0.0"  # noqa: S104 - what a site must choose by itself
    assert settings.results.to == settings.peers[0].name == "pacs"
    assert settings.review.trust == Path("/etc/zhiying/trust.policy")
