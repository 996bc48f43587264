"""Small made-up tables of photographs for the tests of comparisons."""

from pathlib import Path

import numpy as np
import pandas as pd


def photographs(patients: int = 24, *, shift: float = 1.0, eyes: int = 2, seed: int = 0) -> pd.DataFrame:
    """Eyes of patients of two groups; density differs by `shift` deviations, and is the same in both eyes."""
    random = np.random.default_rng(seed)
    number = np.arange(patients)
    frame = pd.DataFrame(
        {
            "patient": [f"{patient:03}" for patient in number],
            "height": 1000 + number,
            "vessel_density": 0.1 + 0.01 * (random.normal(size=patients) + shift * (number % 2)),
            "quality": "good",
            "sha256": "0",
            "label": np.where(number % 2, "glaucoma", "healthy"),
            "age": 50 + number,
            "sex": np.where(number % 4 < 2, "f", "m"),
        }
    )
    frame = frame.loc[np.repeat(number, eyes)].reset_index(drop=True)
    frame["laterality"] = np.tile(["L", "R"][:eyes], patients)
    frame["name"] = frame.patient + "_" + frame.laterality
    frame["vessel_crossings"] = random.poisson(12, len(frame)).astype(float)
    return frame


def write(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path
