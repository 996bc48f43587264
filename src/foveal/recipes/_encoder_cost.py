"""What passes through encoders cost: times taken in turn in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any


def seconds_of(work: Mapping[str, Callable[[], Any]], *, rounds: int = 7) -> dict[str, float]:
    """Least wall time of each piece of work over rounds in which all take turns, after one to warm up."""
    for piece in work.values():
        piece()
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, piece in work.items():
            begun = time.perf_counter()
            piece()
            found[name].append(time.perf_counter() - begun)
    return {name: min(times) for name, times in found.items()}
