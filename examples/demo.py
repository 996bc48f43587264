"""Screens three photographs into ./demo/report: a real retina and two synthetic eyes.

make demo
"""

import sys
from functools import partial
from pathlib import Path

from PIL import Image

from foveal.files import write_atomically
from foveal.scans.synthetic import synthesize_eye
from foveal.screening import screen

DEMO = Path(__file__).resolve().parents[1] / "demo"


def write_photographs(folder: Path) -> None:
    """One public-domain photograph, which comes with scikit-image, and two that nobody ever took."""
    from skimage.data import retina

    folder.mkdir(parents=True, exist_ok=True)
    photographs = {
        "real-left-eye": retina(),
        "synthetic-right-eye": synthesize_eye(1, size=1024, laterality="R").image,
        "synthetic-left-eye": synthesize_eye(2, size=1024, laterality="L").image,
    }
    for name, image in photographs.items():
        write_atomically(folder / f"{name}.png", partial(Image.fromarray(image).save, format="PNG"))


def main() -> int:
    """Screen and say where the report is; the exit status is that of `foveal screen`."""
    write_photographs(DEMO / "photographs")
    summary = screen(DEMO / "photographs", DEMO / "report")
    if summary.exit_code == 0:
        print(f"\nThe report is ready. Open it in a browser:\n  {summary.index}")
    return summary.exit_code


if __name__ == "__main__":  # worker processes import this file again
    sys.exit(main())
