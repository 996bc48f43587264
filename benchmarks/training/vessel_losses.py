"""SAUNA's soft labels and losses beside hard labels with BCE + Dice: same network, seeds, patches and steps.

    python benchmarks/training/vessel_losses.py --data ../shared/data --runs runs/losses

Trains from random weights on LES-AV, scores every CHASE_DB1 photograph (another camera, other observers),
and writes docs/evidence/sauna_losses.csv. A killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from itertools import product, repeat
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

from foveal.recipes._sauna_learning import LOSSES
from foveal.recipes.sauna import SaunaSettings, recipe
from foveal.scans.vessel_datasets import read_chase_db1, read_les_av
from foveal.segmentation.evaluation import evaluate_vessels

WEIGHTS = Path(__file__).parents[2] / "src" / "foveal" / "models" / "weights" / "vessels"


def run(loss: str, seed: int, data: Path, runs: Path, steps: int, threads: int) -> pd.DataFrame:
    """Train and score one network; a finished one is read back."""
    torch.set_num_threads(threads)
    folder = runs / f"{loss}-{seed}"
    kept = folder / "scores.csv"
    if kept.exists():
        return pd.read_csv(kept)
    values = json.loads((WEIGHTS / "training.json").read_text())
    training = values["training"] | {"steps": steps, "batch_size": 4, "learning_rate": 3e-3, "seed": seed}
    settings = SaunaSettings(**values | {"loss": loss, "synthetic_eyes": 0, "training": training})
    model = recipe.fit(settings, read_les_av(data / "LES-AV"), folder=folder, progress=False)
    scores = evaluate_vessels(model, read_chase_db1(data / "CHASE_DB1"))
    scores = scores.assign(loss=loss, seed=seed, steps=steps, batch_size=4)
    scores.to_csv(kept, index=False)
    print(loss, seed, scores[["auc", "dice"]].mean().round(4).to_dict(), flush=True)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CHASE_DB1 and LES-AV")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    options = parser.parse_args()
    seeds, losses = zip(*product(range(options.seeds), ("sauna", "bce-dice")), strict=True)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        parts = pool.map(
            run, losses, seeds, *map(repeat, (options.data, options.runs, options.steps, options.threads))
        )
        scores = pd.concat(parts).sort_values(["loss", "seed", "name"])
    scores.round(6).to_csv(LOSSES, index=False)
    print(
        scores.groupby(["loss", "seed"])[["auc", "dice"]].mean().groupby("loss").agg(["mean", "std"]).round(4)
    )


if __name__ == "__main__":
    main()
