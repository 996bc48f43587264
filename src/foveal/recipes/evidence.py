"""Running a recipe's evidence, and the page that keeps it."""

import logging
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from foveal.files import write_atomically
from foveal.machine import describe_environment
from foveal.markdown import table
from foveal.recipes.base import Card, Evidence, Finding, Recipe, Scale, Section

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one run of a recipe's evidence found.

    Attributes:
        card: the recipe's card.
        scale: "quick" or "full".
        seed: seed of every piece of evidence.
        items: findings and sections in the order of their arrival.
        seconds: wall time of the whole run.
        environment: versions and hardware, as `describe_environment` tells them.
    """

    card: Card
    scale: Scale
    seed: int
    items: tuple[Finding | Section, ...]
    seconds: float
    environment: dict[str, str]

    @property
    def findings(self) -> list[Finding]:
        """The findings alone."""
        return [item for item in self.items if isinstance(item, Finding)]

    @property
    def holds(self) -> bool:
        """Whether there are findings and all of them hold."""
        return bool(self.findings) and all(finding.holds for finding in self.findings)


def run_evidence(
    recipe: Recipe[Any], scale: Scale, *, on_item: Callable[[Finding | Section], None] | None = None
) -> Report:
    """Run a recipe's evidence to its end.

    A piece that raises becomes a finding that does not hold, with the error as what was measured.

    Args:
        recipe: whose evidence to run.
        scale: "quick" or "full".
        on_item: called with each finding and section as it arrives.
    """
    start = time.perf_counter()
    items = []
    evidence = partial(recipe.evidence, scale)
    for item in _guarded(evidence, claim="the evidence runs to its end", seed=recipe.seed):
        items.append(item)
        if on_item is not None:
            on_item(item)
    return Report(
        card=recipe.card,
        scale=scale,
        seed=recipe.seed,
        items=tuple(items),
        seconds=time.perf_counter() - start,
        environment=describe_environment(),
    )


def _guarded(
    proof: Callable[[], Finding | Section | Iterable[Evidence]], *, claim: str, seed: int
) -> Iterator[Finding | Section]:
    try:
        _seed_everything(seed)
        made = proof()
        for piece in [made] if isinstance(made, Finding | Section) else made:
            if isinstance(piece, Finding | Section):
                yield piece
            else:
                yield from _guarded(piece, claim=_claim_of(piece), seed=seed)
    except Exception as error:
        logger.debug("%s: raised", claim, exc_info=True)
        yield Finding(claim, "no error", f"{type(error).__name__}: {error}", False)


def _claim_of(proof: Callable[..., Any]) -> str:
    while isinstance(proof, partial):
        proof = proof.func
    written = (getattr(proof, "__doc__", None) or "").strip()
    return written.splitlines()[0].rstrip(".") if written else getattr(proof, "__name__", repr(proof))


def _seed_everything(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries that draw from the global state are seeded as well)
    torch.manual_seed(seed)


def write_page(report: Report, folder: Path) -> Path:
    """Write `folder/<slug>.md` and the pictures of its sections beside it, each atomically.

    Args:
        report: result of a run at scale "full".
        folder: receives the page; made when missing.

    Returns:
        Path of the page.

    Raises:
        ValueError: the report is of a "quick" run; pages keep full evidence only.
    """
    if report.scale != "full":
        raise ValueError(f"scale is {report.scale!r}; evidence pages are written from 'full' runs only")
    folder.mkdir(parents=True, exist_ok=True)
    for section in report.items:
        if isinstance(section, Section) and section.figure is not None:
            write_atomically(folder / _figure_name(report.card, section), section.figure)
    page = folder / f"{report.card.slug}.md"
    write_atomically(page, render_page(report))
    return page


def render_page(report: Report) -> str:
    """The evidence page as Markdown."""
    card, findings = report.card, report.findings
    holding = sum(finding.holds for finding in findings)
    minutes, seconds = divmod(round(report.seconds), 60)
    run = {"seed": str(report.seed), "wall time": f"{minutes} min {seconds} s", **report.environment}
    parts = [
        f"# {card.title}",
        f"Evidence of the recipe `{card.slug}`, written by `foveal verify {card.slug} --full --write`; "
        "not edited by hand.",
        table(
            ["", ""],
            [
                ["paper", f"[{card.paper.citation}]({card.paper.link})"],
                ["task", card.task],
                ["original code", f"{card.original}, licence: {card.licence}"],
                ["how faithful", card.faithfulness],
                ["built from", ", ".join(card.built_from)],
            ],
        ),
        "The paper reports:",
        "\n".join(f"- {figure}" for figure in card.published),
        f"## Findings: {holding} of {len(findings)} hold",
        table(["claim", "expected", "measured", "holds"], [finding_row(finding) for finding in findings]),
    ]
    for section in report.items:
        if isinstance(section, Section):
            parts += [f"## {section.title}", section.body.strip()]
            if section.figure is not None:
                parts.append(f"![{section.title}]({_figure_name(card, section)})")
    parts += ["## How it was run", table(["", ""], [[name, value] for name, value in run.items()])]
    return "\n\n".join(part for part in parts if part) + "\n"


def finding_row(finding: Finding) -> list[str]:
    """Claim, expected, measured and holds ("yes" or "**no**") of a finding, as text."""
    measured = finding.measured if isinstance(finding.measured, str) else f"{finding.measured:.4g}"
    return [finding.claim, finding.expected, measured, "yes" if finding.holds else "**no**"]


def _figure_name(card: Card, section: Section) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-")
    return f"{card.slug}-{words}.png"
