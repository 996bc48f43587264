"""Parts of the screening tests that other processes must be able to import."""

import os
import signal
from collections.abc import Callable


def make_square() -> Callable[[int], int]:
    return lambda number: number * number


def make_square_or_die() -> Callable[[int], int]:
    """Squares, but the process is killed at 13, as the kernel does when memory runs out."""

    def work(number: int) -> int:
        if number == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    return work


def lost(number: int) -> int:
    return -number


def screen_slowly(source: str, out: str, models: dict[str, str]) -> None:
    """Screen over two processes (for a test that kills this one)."""
    from foveal.screening import ScreenSettings, screen

    screen(source, out, ScreenSettings.model_validate(models | {"workers": 2}), progress=False)
