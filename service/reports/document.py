"""What a report is made of, however it is written: headings, paragraphs, tables, pictures of lines and words. Pure."""

from dataclasses import dataclass
from typing import Final, Literal

Language = Literal["zh", "en"]
LANGUAGES: Final[tuple[Language, ...]] = ("zh", "en")

Words = tuple[str, str]
"""The same in Chinese and in English."""


def pick(words: Words, language: Language) -> str:
    """The words of one language."""
    return words[LANGUAGES.index(language)]


@dataclass(frozen=True, slots=True)
class Heading:
    """Begins a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text; `strong` for what must not be missed."""

    text: str
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a head; columns in `numbers` stand to the right. An empty head: the first column is one."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Line:
    """From (x, y) to (x2, y2), in points; y grows downwards. `weight`: its width in points."""

    x: float
    y: float
    x2: float
    y2: float
    weight: float = 0.8
    colour: str = "#444444"
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Dot:
    """A filled circle."""

    x: float
    y: float
    radius: float = 2.6
    colour: str = "#0b5394"


@dataclass(frozen=True, slots=True)
class Label:
    """Words that begin, are centred, or end at (x, y), their base line."""

    x: float
    y: float
    text: str
    anchor: Literal["start", "middle", "end"] = "start"


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing of width x height points; `title` says what it shows to whoever cannot see it."""

    title: str
    width: float
    height: float
    shapes: tuple[Line | Dot | Label, ...]

    @property
    def lines(self) -> tuple[Line, ...]:
        """For whoever draws kind by kind; what comes later lies above."""
        return tuple(shape for shape in self.shapes if isinstance(shape, Line))

    @property
    def dots(self) -> tuple[Dot, ...]:
        """See `lines`."""
        return tuple(shape for shape in self.shapes if isinstance(shape, Dot))

    @property
    def labels(self) -> tuple[Label, ...]:
        """See `lines`."""
        return tuple(shape for shape in self.shapes if isinstance(shape, Label))


Block = Heading | Paragraph | Table | Picture


@dataclass(frozen=True, slots=True)
class Document:
    """One report in one language."""

    language: Language
    title: str
    blocks: tuple[Block, ...]

    @property
    def kinds(self) -> tuple[tuple[str, Block], ...]:
        """Each block with the name of its kind, for the template."""
        return tuple((type(block).__name__, block) for block in self.blocks)
