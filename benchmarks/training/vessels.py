"""Score the shipped vessel model's training on eyes it has not seen, and keep every image's scores.

    python benchmarks/training/vessels.py --data ../shared/data --runs runs/vessels

Two protocols, each training anew from the model pretrained on synthetic eyes:
leave-one-dataset-out (trained on one data set, scored on the other) and cross-validation (three folds of
patients over both data sets). Prints the means beside a published peer, and writes
docs/evidence/sauna_scores.csv. A killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from foveal.files import write_atomically
from foveal.models import Segmenter
from foveal.recipes._sauna_learning import GOALS, SCORES
from foveal.recipes.sauna import SaunaSettings, recipe
from foveal.scans.manifest import split_patients
from foveal.scans.vessel_datasets import VesselCase, read_vessel_cases
from foveal.segmentation.evaluation import evaluate_vessels

WEIGHTS = Path(__file__).parents[2] / "src" / "foveal" / "models" / "weights" / "vessels"
PEER = {"CHASE_DB1": (0.973, 0.783), "LES-AV": (0.948, 0.758)}


@dataclass(frozen=True)
class Round:
    """One training and the photographs that it is scored on."""

    name: str
    protocol: str
    train: frozenset[str]
    test: frozenset[str]


def rounds(cases: list[VesselCase], folds: int = 3) -> list[Round]:
    """Rounds of both protocols; sets hold patients."""
    patients = {
        name: frozenset(c.patient for c in cases if c.dataset == name) for name in {c.dataset for c in cases}
    }
    plan = [
        Round(
            f"without-{name}",
            "leave-one-dataset-out",
            frozenset().union(*(patients[o] for o in patients if o != name)),
            patients[name],
        )
        for name in sorted(patients)
    ]
    table = pd.DataFrame(
        {
            "path": [c.name for c in cases],
            "patient": [c.patient for c in cases],
            "dataset": [c.dataset for c in cases],
        }
    )
    fold = split_patients(table, folds=folds, seed=0, stratify="dataset")
    for k in sorted(fold.unique()):
        test = frozenset(table.patient[fold == k])
        plan.append(Round(f"fold-{k}", "cross-validation", frozenset(table.patient) - test, test))
    return plan


def run(job: Round, data: Path, runs: Path, settings: SaunaSettings, threads: int) -> pd.DataFrame:
    """Train, save and score one round; what is finished is read back (delete scores.csv to score anew)."""
    torch.set_num_threads(threads)
    kept = runs / job.name / "scores.csv"
    if kept.exists():
        return pd.read_csv(kept)
    cases = read_vessel_cases(data)
    saved = runs / job.name / "model"
    if saved.is_dir():
        model = Segmenter.from_pretrained(saved)
    else:
        train = [c for c in cases if c.patient in job.train]
        model = recipe.fit(settings, train, folder=runs / job.name, progress=False)
        model.save_pretrained(saved)
    scores = evaluate_vessels(model, [c for c in cases if c.patient in job.test])
    scores.insert(0, "protocol", job.protocol)
    write_atomically(kept, partial(scores.to_csv, index=False))  # its existence says that the round is done
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CHASE_DB1 and LES-AV")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs; killed ones go on")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--only", nargs="*", help="names of rounds; all by default")
    options = parser.parse_args()
    start = options.runs / "synthetic" / "model"
    if not start.is_dir():
        pretraining = SaunaSettings(**json.loads((WEIGHTS / "pretraining.json").read_text()))
        recipe.train(pretraining, data=None, out=options.runs / "synthetic")
    settings = json.loads((WEIGHTS / "training.json").read_text())
    settings = SaunaSettings(**settings | {"start_from": str(start)})
    plan = [r for r in rounds(read_vessel_cases(options.data)) if not options.only or r.name in options.only]
    parts = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        futures = {
            pool.submit(run, r, options.data, options.runs, settings, options.threads): r for r in plan
        }
        for future in as_completed(futures):
            parts.append(future.result())
            means = parts[-1].groupby("dataset")[["auc", "dice"]].mean().round(4)
            print(futures[future].name, means.to_dict("index"), flush=True)
    scores = pd.concat(parts).sort_values(["protocol", "dataset", "name"])
    if not options.only:
        write_atomically(SCORES, partial(scores.round(6).to_csv, index=False))
    table = Table("protocol", "data set", "images", "AUC (goal, peer)", "Dice (goal, peer)")
    for (protocol, dataset), (auc, dice) in GOALS.items():
        rows = scores[(scores.protocol == protocol) & (scores.dataset == dataset)]
        if len(rows):
            peer = PEER[dataset]
            table.add_row(
                protocol,
                dataset,
                str(len(rows)),
                f"{rows.auc.mean():.4f} ({auc}, {peer[0]})",
                f"{rows.dice.mean():.4f} ({dice}, {peer[1]})",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
