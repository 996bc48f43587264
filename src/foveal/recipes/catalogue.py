"""The list of recipes as a page (`docs/recipes.md`) and as a part of the README."""

import re
from collections.abc import Iterable
from pathlib import Path

from foveal.files import write_atomically
from foveal.markdown import table
from foveal.recipes.base import Card

_MARKS = ("<!-- recipes -->", "<!-- /recipes -->")


def write_catalogue(cards: Iterable[Card], repository: Path) -> list[Path]:
    """Write the list of recipes into `docs/recipes.md` and between the marks of `README.md`.

    Raises:
        FileNotFoundError: `repository` has no README.md.
        ValueError: the README does not hold the two marks.
    """
    cards = list(cards)
    readme, page = repository / "README.md", repository / "docs" / "recipes.md"
    if not readme.exists():
        raise FileNotFoundError(f"{readme} is missing; run from the root of foveal's repository")
    written = render_into_readme(cards, readme.read_text(encoding="utf-8"))
    page.parent.mkdir(exist_ok=True)
    write_atomically(readme, written)
    write_atomically(page, render_catalogue(cards, page.parent / "evidence"))
    return [page, readme]


def render_into_readme(cards: Iterable[Card], readme: str) -> str:
    """The README with its table of recipes brought up to date.

    Raises:
        ValueError: the text does not hold the two marks once each, in order.
    """
    begin, end = _MARKS
    listed = table(["recipe", "what it is"], [[f"`{card.slug}`", card.title] for card in cards])
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if len(pattern.findall(readme)) != 1:
        raise ValueError(f"README.md must hold {begin} and then {end}, once each")
    return pattern.sub(lambda _: f"{begin}\n{listed}\n{end}", readme)


def render_catalogue(cards: Iterable[Card], evidence: Path) -> str:
    """The page `docs/recipes.md`.

    Args:
        cards: all cards.
        evidence: folder of the evidence pages; only those that exist are linked.
    """
    parts = [
        "# Recipes",
        "Written by `foveal recipes --write`; not edited by hand. `foveal verify RECIPE` runs the "
        "evidence of one in under a minute, `foveal train RECIPE --out FOLDER` trains it.",
    ]
    for card in cards:
        lines = [
            card.task,
            "",
            f"- paper: [{card.paper.citation}]({card.paper.link})",
            f"- original code: {card.original}, licence: {card.licence}",
            f"- how faithful: {card.faithfulness}",
        ]
        if (evidence / f"{card.slug}.md").exists():
            lines.append(f"- [evidence](evidence/{card.slug}.md)")
        parts += [f"## `{card.slug}`: {card.title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"
