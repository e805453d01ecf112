"""A link to the form: of a base that the configuration takes, and of a call; nothing else becomes one."""

from pathlib import Path

import pytest

from service.config import load
from service.errors import ConfigInvalid
from service.links import decide_link

CALL = "0123456789abcdef" * 2
GOOD = ["http://127.0.0.1:8300", "https://ai.example", "https://ai.example/", "https://ai.example:8443/zhiying/v1/"]
BAD = [
    "", "ai.example", "ftp://ai.example", "javascript:alert(1)", "https://", "https://u:p@ai.example",
    "https://ai.example?x=1", "https://ai.example/#x", "https://ai.example/a b", 'https://ai.example/"><b>',
    "https://ai.example/../x\n", "https://ai.example//x", "https://医院.example",
]  # fmt: skip


@pytest.mark.parametrize("base", GOOD)
def test_a_link_is_base_and_call(tmp_path: Path, base: str) -> None:
    """The path of the form under the base, with one slash between; the configuration takes such a base."""
    assert decide_link(base, CALL) == f"{base.rstrip('/')}/decide/{CALL}"
    path = tmp_path / "zhiying.toml"
    path.write_text(f'[results]\ndecide_at = "{base}"\n')
    assert load(path).results.decide_at == base


@pytest.mark.parametrize("base", BAD)
def test_no_other_base(tmp_path: Path, base: str) -> None:
    """Refused by the function and by the configuration, which names the key."""
    with pytest.raises(ValueError, match="no http or https address"):
        decide_link(base, CALL)
    path = tmp_path / "zhiying.toml"
    escaped = base.replace('"', '\\"').replace("\n", "\\n")
    path.write_text(f'[results]\ndecide_at = "{escaped}"\n', encoding="utf-8")
    with pytest.raises(ConfigInvalid, match=r"results\.decide_at"):
        load(path)


@pytest.mark.parametrize("call", ["", CALL[1:], CALL + "0", CALL.upper(), CALL + "\n", "../../studies/1.2.840.99999.1"])
def test_no_other_call(call: str) -> None:
    """Only the 32 hexadecimal digits of a call, and nothing of what was given comes back."""
    with pytest.raises(ValueError, match=r"^this is no name of a call$"):
        decide_link("https://ai.example", call)


def test_none_by_default() -> None:
    """Nobody is sent anywhere before the site says where."""
    assert load(None).results.decide_at is None
