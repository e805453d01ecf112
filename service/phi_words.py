"""The words that are patients' in this hospital: looked for as whole words, then forgotten. Pure.

Held in memory only, for one export. Of a name, all its ways of being written are looked for; never a part of it alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

LETTERS_MIN: Final = 4
"""Of a word in Latin letters, or in letters and digits: shorter ones are words and codes of everybody."""
DIGITS_MIN: Final = 6
"""Of a number: shorter ones are counts, milliseconds and years of any log."""
HAN_MIN: Final = 2
"""Of a name in Chinese: shorter than that, there is none."""
PLACEHOLDERS: Final = frozenset(
    {"anon", "anonymous", "anonymized", "demo", "none", "patient", "phantom", "test", "unknown"}
)
"""What stands for a name where there is none."""

_TOKEN: Final = re.compile(r"[0-9]+(?:\.[0-9]+)+|[^\W_]+")
_HAN: Final = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]+")
_BETWEEN: Final = re.compile(r"[\^\s,_.='-]{0,3}|\s{0,8}")


class Dictionary:
    """Looks for `words`, but for those too short to mean anything, and those that are `own_words` of our own texts."""

    def __init__(self, words: Iterable[str], own_words: Iterable[str] = ()) -> None:
        own = PLACEHOLDERS | {token for text in own_words for token in _tokens(text)}
        self._short = self._common = 0
        self._words: set[str] = set()
        self._begins: dict[str, set[tuple[str, ...]]] = {}
        seen: set[str] = set()
        for word in words:
            word = word.strip(" \0").lower()
            if word in seen or not word:
                continue
            seen.add(word)
            if not _telling(word):
                self._short += 1
            elif word in own:
                self._common += 1
            else:
                self._take(word)
        self.size = len(seen) - self._short - self._common
        """How many different words are looked for."""

    @property
    def said(self) -> Mapping[str, int]:
        """Sizes: words looked for, words too short for it, words of our own texts. Never a word."""
        return {"words": self.size, "too_short": self._short, "words_of_our_own": self._common}

    def find(self, text: str) -> Iterator[int]:
        """Where a word stands."""
        if not self.size:
            return
        low = text.lower()
        if len(low) != len(text):
            low = text  # a letter that is two in small: places would move
        found = [(one.group(), one.start(), one.end()) for one in _TOKEN.finditer(low)]
        for at, (token, start, _) in enumerate(found):
            if token in self._words or any(self._follows(low, found, at, more) for more in self._begins.get(token, ())):
                yield start

    def _follows(self, text: str, found: Sequence[tuple[str, int, int]], at: int, more: tuple[str, ...]) -> bool:
        """Whether the other parts of a word come after the one at this place, with no more than a mark between."""
        parts = found[at : at + len(more) + 1]
        return tuple(part for part, _, _ in parts[1:]) == more and all(
            _BETWEEN.fullmatch(text, end, start) for (_, _, end), (_, start, _) in pairwise(parts)
        )

    def _take(self, word: str) -> None:
        for form in _forms(word):
            parts = _tokens(form)
            if len(parts) == 1 and _telling(form):
                self._words.add(parts[0])
            elif parts and _telling(form):
                self._begins.setdefault(parts[0], set()).add(tuple(parts[1:]))


def _forms(word: str) -> set[str]:
    """A name has up to three groups (alphabetic, ideographic, phonetic); Chinese is also written without a caret."""
    groups = {group.strip("^ ") for group in word.split("=") if group.strip("^ ")}
    joined = {"".join(_TOKEN.findall(group)) for group in groups if _HAN.search(group)}
    return groups | joined


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.lower())


def _telling(word: str) -> bool:
    letters = "".join(_TOKEN.findall(word))
    if _HAN.search(letters):
        return len(letters) >= HAN_MIN
    return len(letters) >= (DIGITS_MIN if letters.isdecimal() else LETTERS_MIN)
