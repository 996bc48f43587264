"""Markdown of the pages that foveal writes."""

from __future__ import annotations


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; bars and line breaks in the cells are made harmless."""
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in [head, *rows]]
    cells.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
