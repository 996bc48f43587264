"""Throughput, memory and time profile of `foveal screen` on synthetic photographs.

    python benchmarks/screening.py [--count 8] [--write]

For each size of photograph: photographs a minute with all cores, peak memory of all processes together
(proportional set size: shared pages count once), seconds a photograph in each step with one worker on all
threads, and the ratio of the network's time to everything else. `--write` keeps the table in
docs/evidence/screening-speed.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from foveal.machine import describe_environment
from foveal.scans.synthetic import synthesize_eye
from foveal.screening import ScreenSettings, screen

PAGE = Path(__file__).parents[1] / "docs" / "evidence" / "screening-speed.md"
SIZES = ((584, 565), (1400, 1400), (2048, 2048))
MIB = 2**20


class PeakMemory:
    """Polls the proportional set size of this process and its children while a block runs."""

    def __enter__(self) -> PeakMemory:
        self.base, self.peak, self._stop = _memory(), 0, threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._stop.wait(0.05):
            self.peak = max(self.peak, _memory())


def _memory() -> int:
    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # it ended while we looked
            continue
    return total


def write_photographs(folder: Path, shape: tuple[int, int], count: int) -> None:
    """Synthetic eyes of one size as JPEG files, as cameras write them."""
    height, width = shape
    for number in range(count):
        eye = synthesize_eye(number % 4, size=max(shape)).image
        top, left = (eye.shape[0] - height) // 2, (eye.shape[1] - width) // 2
        picture = eye[top : top + height, left : left + width]
        Image.fromarray(np.roll(picture, number // 4, axis=1)).save(
            folder / f"eye-{number:03d}.jpg", quality=92
        )


def run(folder: Path, report: Path, workers: int | None) -> tuple[float, int]:
    """Seconds and peak bytes of one screening run."""
    start = time.perf_counter()
    with PeakMemory() as memory:
        summary = screen(folder, report, ScreenSettings(workers=workers), progress=False)
    if summary.exit_code:
        raise SystemExit(f"screening failed: {summary.error or summary.failures}")
    return time.perf_counter() - start, memory.peak


def steps(report: Path) -> dict[str, float]:
    """Mean seconds of each step over the records, without the first, which compiles and warms up."""
    total: dict[str, list[float]] = defaultdict(list)
    for path in sorted((report / "scans").glob("*.json"))[1:]:
        for name, seconds in json.loads(path.read_text())["seconds"].items():
            total[name].append(seconds)
    return {name: float(np.mean(values)) for name, values in total.items()}


def measure(shape: tuple[int, int], count: int) -> dict[str, object]:
    """All figures of one size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photographs"
        folder.mkdir()
        write_photographs(folder, shape, count)
        single, single_peak = run(folder, Path(name) / "single", workers=1)
        profile = steps(Path(name) / "single")
        parallel, parallel_peak = run(folder, Path(name) / "parallel", workers=None)
    return {
        "size": f"{shape[1]} x {shape[0]}",
        "per_minute": 60 * count / parallel,
        "parallel_peak": parallel_peak / MIB,
        "single": single / count,
        "single_peak": single_peak / MIB,
        "steps": profile,
    }


def page(rows: list[dict], count: int) -> str:
    """The table as Markdown."""
    names = list(rows[0]["steps"])
    lines = [
        "# Speed of `foveal screen`",
        "",
        f"Measured by `python benchmarks/screening.py --count {count} --write` on {count} synthetic "
        "photographs a size.",
        "",
        "| photograph, px | photographs a minute, all cores (start included) | peak memory, all processes | "
        "seconds a photograph, one worker | peak memory, one worker | network's share |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        total = sum(row["steps"].values())
        lines.append(
            f"| {row['size']} | {row['per_minute']:.1f} | {row['parallel_peak']:.0f} MiB | {total:.2f} | "
            f"{row['single_peak']:.0f} MiB | {row['steps']['vessels'] / total:.0%} |"
        )
    lines += ["", "Seconds in each step, one worker with all threads, model load left out:", ""]
    lines += ["| photograph, px | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {row['size']} | " + " | ".join(f"{row['steps'][n]:.3f}" for n in names) + " |" for row in rows
    ]
    lines += ["", *(f"- {key}: {value}" for key, value in describe_environment().items()), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=8, help="photographs of each size")
    parser.add_argument("--write", action="store_true", help=f"keep the page in {PAGE.name}")
    options = parser.parse_args()
    text = page([measure(shape, options.count) for shape in SIZES], options.count)
    print(text)
    if options.write:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
