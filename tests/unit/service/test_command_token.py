"""The token of a command: where it comes from, what it may be, and that nothing tells it."""

from pathlib import Path

import pytest

from service.commands.token import TOKEN_BYTES_MAX, VARIABLE, TokenInvalid, headers

TOKEN = "k" * 40
OTHER = "o" * 40


def test_a_file_or_the_environment(tmp_path: Path) -> None:
    """The file that is named counts before the environment; without either nothing is sent."""
    file = tmp_path / "token"
    file.write_text(f" {TOKEN}\n", encoding="ascii")
    other = {VARIABLE: OTHER}
    assert headers(None, {}) == headers(None, {VARIABLE: ""}) == {}
    assert headers(file, {}) == headers(file, other) == {"Authorization": f"Bearer {TOKEN}"}
    assert headers(None, other) == {"Authorization": f"Bearer {OTHER}"}


@pytest.mark.parametrize(
    "given", [b"", b"\n", b"kkkk kkkk", b"kkkk\nX-More: kkkk", b"\xe5\xbd\xb1kkkk", b"kkkk\x00kkkk"]
)
def test_what_is_no_token_is_not_sent(tmp_path: Path, given: bytes) -> None:
    """One line of a header and no other; the refusal names the file and repeats nothing of it."""
    file = tmp_path / "token"
    file.write_bytes(given)
    with pytest.raises(TokenInvalid) as refused:
        headers(file)
    assert refused.value.code == "TOKEN_INVALID"
    assert str(file) in str(refused.value)
    assert "kkkk" not in str(refused.value)


def test_no_more_is_read_than_a_token_can_be(tmp_path: Path) -> None:
    """A file that never ends is no token either, and fills no memory."""
    file = tmp_path / "token"
    file.write_bytes(b"k" * (TOKEN_BYTES_MAX + 1))
    assert len(headers(file)["Authorization"]) == len("Bearer ") + TOKEN_BYTES_MAX


def test_a_file_that_is_not_there_is_no_empty_token(tmp_path: Path) -> None:
    """A typing error must not send another token than the one that was meant, or none."""
    with pytest.raises(FileNotFoundError):
        headers(tmp_path / "nothing", {VARIABLE: OTHER})
