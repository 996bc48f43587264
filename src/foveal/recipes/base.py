"""What a recipe is: the card of a published system, its settings, its composition and its evidence.

A recipe is one module `foveal/recipes/<slug>.py` (hyphens become underscores) that ends in `recipe = ...`:

    class SaunaSettings(Settings):                           # of foveal.settings
        learning_rate: float = 1e-4

    class Sauna(Recipe[SaunaSettings]):
        card = Card(slug="sauna", ...)
        Settings = SaunaSettings

        def build(self, settings: SaunaSettings) -> "Segmenter":
            from foveal.models.segmenter import Segmenter   # heavy imports live inside the methods
            return Segmenter(...)

        def evidence(self, scale: Scale) -> Iterable[Evidence]:
            yield sign_agrees_with_mask                      # a function that returns a Finding, run guarded
            yield Finding.at_least("thin vessels gain Dice", gains, 0.02)

    recipe = Sauna()

Importing such a module must not import torch, so that cards can be listed at once.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

Scale = Literal["quick", "full"]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Where a system was published.

    Attributes:
        citation: title, venue and year, as one line; authors where the title alone does not find it.
        year: year of publication.
        link: web address, best a DOI or arXiv one.
    """

    citation: str
    year: int
    link: str

    def __post_init__(self) -> None:
        if not self.link.startswith(("https://", "http://")):
            raise ValueError(f"link is {self.link!r}; allowed: an address that begins with https://")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What one published system is, and how closely the recipe follows it.

    Attributes:
        slug: the recipe's name on the command line: lower case, digits, single hyphens.
        title: name of the system and what it is, in one line.
        paper: where it was published.
        task: what a user gets from it, in one sentence.
        published: the figures that the paper reports, one sentence each.
        original: address of the authors' code, or "none released".
        licence: licence of the authors' code (SPDX name where one fits), or "none".
        faithfulness: where the recipe follows the paper and where it departs, and why.
        built_from: parts of foveal and of its libraries that the recipe composes.
    """

    slug: str
    title: str
    paper: Paper
    task: str
    published: tuple[str, ...]
    original: str
    licence: str
    faithfulness: str
    built_from: tuple[str, ...]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.slug):
            raise ValueError(f"slug is {self.slug!r}; allowed: lower-case letters, digits and single hyphens")


@dataclass(frozen=True)
class Finding:
    """One checkable fact: what is claimed, what was expected, what was measured, and whether it holds.

    The class methods compare and word the expectation in one place, so that the two cannot disagree. They
    take one value, or one value a seed; of several the mean is compared and the spread is told. NaN never
    holds.
    """

    claim: str
    expected: str
    measured: float | str
    holds: bool

    @classmethod
    def at_least(cls, claim: str, measured: float | Sequence[float], minimum: float) -> "Finding":
        """A finding that holds when the (mean) measured value is at or above `minimum`."""
        return cls(claim, f">= {minimum:.4g}", _told(measured), _mean(measured) >= minimum)

    @classmethod
    def at_most(cls, claim: str, measured: float | Sequence[float], maximum: float) -> "Finding":
        """A finding that holds when the (mean) measured value is at or below `maximum`."""
        return cls(claim, f"<= {maximum:.4g}", _told(measured), _mean(measured) <= maximum)

    @classmethod
    def close(
        cls, claim: str, measured: float | Sequence[float], target: float, *, tolerance: float
    ) -> "Finding":
        """A finding that holds when the (mean) measured value is within `tolerance` of `target`."""
        holds = abs(_mean(measured) - target) <= tolerance
        return cls(claim, f"{target:.6g} +- {tolerance:.2g}", _told(measured), holds)

    @classmethod
    def fact(cls, claim: str, holds: bool, *, expected: str = "true", measured: str = "") -> "Finding":
        """A finding about something that is either so or not."""
        return cls(claim, expected, measured or str(bool(holds)).lower(), bool(holds))


def _mean(measured: float | Sequence[float]) -> float:
    return fmean(measured) if isinstance(measured, Sequence) else float(measured)


def _told(measured: float | Sequence[float]) -> float | str:
    if not isinstance(measured, Sequence):
        return float(measured)
    mean, count = fmean(measured), len(measured)
    # statistics.stdev cannot take the NaN that a diverged seed leaves behind
    spread = (
        math.sqrt(math.fsum((value - mean) ** 2 for value in measured) / (count - 1)) if count > 1 else 0.0
    )
    return f"{mean:.4g} (sd {spread:.2g}, {count} seed{'s' if count > 1 else ''})"


@dataclass(frozen=True)
class Section:
    """More to read on the evidence page: a table, a discussion, a picture.

    Attributes:
        title: heading, unique on the page.
        body: Markdown below the heading.
        figure: content of a PNG file to show below the body; None for no picture.
    """

    title: str
    body: str = ""
    figure: bytes | None = None


# A function with no argument is a proof: it runs inside a guard, so that one that raises does not end the
# others. The first line of its docstring, else its name, names the claim in that case.
Proof: TypeAlias = Callable[[], Finding | Section | Iterable[Finding | Section]]
Evidence: TypeAlias = Finding | Section | Proof

S = TypeVar("S", bound="BaseModel")


class Recipe(ABC, Generic[S]):
    """One published system, composed from foveal's parts.

    Attributes:
        card: what the system is.
        Settings: pydantic model of every hyper-parameter with the paper's default; it forbids unknown keys.
        seed: seeds `random`, NumPy and torch before each piece of evidence, and is told on the evidence page.
    """

    card: ClassVar[Card]
    Settings: type[S]
    seed: ClassVar[int] = 0

    def __init_subclass__(cls, *, abstract: bool = False, **keywords: Any) -> None:
        """Check a recipe's card and settings; `abstract` classes, which recipes share, have none yet."""
        super().__init_subclass__(**keywords)
        if abstract:
            return
        if not isinstance(getattr(cls, "card", None), Card):
            raise TypeError(f"{cls.__name__}.card is missing; a recipe has `card = Card(...)`")
        settings = getattr(cls, "Settings", None)
        if getattr(settings, "model_config", {}).get("extra") != "forbid":
            raise TypeError(
                f"{cls.__name__}.Settings is {settings!r}; allowed: a pydantic model with extra='forbid', "
                "best a subclass of foveal.settings.Settings"
            )

    @abstractmethod
    def build(self, settings: S) -> Callable[..., Any]:
        """Compose the system: an `nn.Module`, or another callable where there is nothing to train."""

    @abstractmethod
    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """Yield what proves the recipe: findings, sections, or functions that return them.

        Args:
            scale: "quick" ends in under 60 s on two cores; "full" may take 30 minutes.
        """

    def train(self, settings: S, *, data: Path | None, out: Path) -> None:
        """Train the system and save it.

        Args:
            settings: hyper-parameters.
            data: folder of training data; None where the recipe can make its own.
            out: folder that receives checkpoints, logs and the saved model.

        Raises:
            ValueError: the recipe has nothing to train, or `data` is not what it needs.
        """
        raise ValueError(
            f"recipe {self.card.slug!r} has nothing to train; see `foveal verify {self.card.slug}`"
        )
