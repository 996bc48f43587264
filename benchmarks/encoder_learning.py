"""Which encoder learns what from few steps: all of foveal's at about equal size, beside ViT and ResNet-18.

    python benchmarks/encoder_learning.py --data ../shared/data --minutes 25
    python benchmarks/encoder_learning.py --data ../shared/data --minutes 0 --write

PneumoniaMNIST (training to validation images), a subset of CIFAR-10, and for encoders with a pyramid the
vessels of CHASE_DB1 (four children to three others). Each training of one encoder on one data set from one
seed adds a row to docs/evidence/encoders-learning.jsonl; a row that is there is not trained again, so that
a run can be stopped and goes on later. Seeds come last: one that is cut short has whole tables of fewer
seeds. `--write` puts the tables into docs/evidence/encoders-learning.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and numba: each training has one thread

import torch

from encoder_learning_entries import IMAGE_SIZE, NETWORKS, labels, parameter_count, sized, sized_network
from encoder_learning_page import PAGE, ROWS, write_page
from foveal.metrics.discrimination import discrimination
from foveal.recipes._encoder_learning import LearningData, learn
from foveal.recipes.sauna import SaunaSettings
from foveal.recipes.sauna import recipe as sauna
from foveal.scans.labelled_images import read_labelled_images
from foveal.scans.vessel_datasets import read_vessel_cases
from foveal.segmentation.evaluation import evaluate_vessels
from foveal.training.labelled_samples import LabelledSamples

TASKS = ("pneumonia", "cifar", "vessels")
FILES = {
    "pneumonia": ("pneumoniamnist/pneumoniamnist_trainval.npz", "val", 1),
    "cifar": ("cifar10_subset/cifar10_subset.npz", "test", 3),
}
TEST_CHILDREN = ("05", "06", "07")
VESSELS = {"diameter": 320, "patch": 96, "batch": 8, "sigma": 16.0}


@dataclass(frozen=True)
class Job:
    """One training. Rows are told apart by all of it but `data`."""

    task: str
    encoder: str
    seed: int
    steps: int
    batch_size: int
    parameters: int
    learning_rate: float
    data: str

    @property
    def key(self) -> tuple[Any, ...]:
        return tuple(value for name, value in asdict(self).items() if name != "data")


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    for seed in range(options.seeds):
        for task in options.tasks:
            rows = labels() + (list(NETWORKS) if task == "vessels" else [])
            for encoder in options.encoders or rows:
                steps = options.vessel_steps if task == "vessels" else options.steps
                batch = VESSELS["batch"] if task == "vessels" else options.batch_size
                yield Job(
                    task,
                    encoder,
                    seed,
                    steps,
                    int(batch),
                    options.parameters,
                    options.learning_rate,
                    str(options.data),
                )


def run(job: Job) -> dict[str, Any]:
    """Train and score; what an encoder cannot do is told in the row's `error`."""
    torch.set_num_threads(1)
    row = {name: value for name, value in asdict(job).items() if name != "data"}
    began = time.perf_counter()
    try:
        row |= _vessels(job) if job.task == "vessels" else _classes(job)
    except Exception as error:  # one encoder must not end the table of the others
        row["error"] = f"{type(error).__name__}: {error}"
    return row | {"seconds": round(time.perf_counter() - began, 1), "torch": str(torch.__version__)}


@cache
def learning_data(root: str, task: str) -> LearningData:
    """Images at 32 px in memory."""
    file, test, channels = FILES[task]
    splits = read_labelled_images(Path(root) / file).splits
    parts = []
    for name in ("train", test):
        loaded = splits[name].load(size=IMAGE_SIZE, channels=channels)
        samples = LabelledSamples(loaded, size=IMAGE_SIZE, channels=channels)
        parts += [torch.cat(list(samples.batches(512))), samples.labels]
    return LearningData(*parts)


def _classes(job: Job) -> dict[str, Any]:
    entry, data = sized(job.encoder, job.parameters), learning_data(job.data, job.task)
    channels = FILES[job.task][2]
    learned = learn(
        lambda: entry.make(channels),
        data,
        steps=job.steps,
        batch_size=job.batch_size,
        learning_rate=job.learning_rate,
        seed=job.seed,
    )
    figures = discrimination(learned.probabilities, learned.labels)
    return {
        "settings": entry.settings,
        "size": parameter_count(learned.model.encoder),
        "training_seconds": round(learned.seconds, 1),
        **{name: round(value, 4) for name, value in figures._asdict().items()},
    }


def _vessels(job: Job) -> dict[str, Any]:
    if job.encoder in NETWORKS:
        made = sized_network(job.encoder, job.parameters)
        network: dict[str, Any] = {"network": "vm-unet", "network_settings": made}
    else:
        entry = sized(job.encoder, job.parameters)
        encoder = entry.make(3)
        if len(encoder.pyramid_channels) < 2 or max(encoder.pyramid_strides) > VESSELS["patch"] // 2:
            return {"skipped": "no pyramid of several levels for the U-Net's decoder"}
        made = entry.settings
        network = {"encoder": entry.name, "encoder_settings": {"in_channels": 3, **made}}
    cases = read_vessel_cases(Path(job.data))
    cases = [case for case in cases if case.dataset == "CHASE_DB1"]
    test = [case for case in cases if case.patient.endswith(TEST_CHILDREN)]
    training = {
        "steps": job.steps,
        "batch_size": job.batch_size,
        "learning_rate": job.learning_rate,
        "weight_decay": 0.05,
        "warmup_fraction": 0.1,
        "gradient_clip": 1.0,
        "seed": job.seed,
        "tensorboard": False,
    }
    settings = SaunaSettings(
        loss="bce-dice",
        **network,
        working_diameter=VESSELS["diameter"],
        contrast_sigma=VESSELS["sigma"],
        patch_size=VESSELS["patch"],
        training=training,
    )
    began = time.perf_counter()
    model = sauna.fit(settings, [c for c in cases if c not in test], folder=None, progress=False)
    seconds = time.perf_counter() - began
    scores = evaluate_vessels(model, test, views=1, scales=(1.0,))
    return {
        "settings": made,
        "size": parameter_count(model),
        "training_seconds": round(seconds, 1),
        "dice": round(float(scores.dice.mean()), 4),
        "auc": round(float(scores.auc.mean()), 4),
    }


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def train_missing(options: argparse.Namespace) -> None:
    """Train what has no row yet, until it is all done or the time is up."""
    names = [name for name in Job.__dataclass_fields__ if name != "data"]
    done = {tuple(row[name] for name in names) for row in read_rows(options.rows)}
    missing = [job for job in jobs(options) if job.key not in done]
    ends = time.monotonic() + 60 * options.minutes
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    print(f"{len(done)} rows are there, {len(missing)} to go", flush=True)
    waiting, running = iter(missing), set[Future[dict[str, Any]]]()
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        while True:
            while len(running) < options.workers and time.monotonic() < ends:
                job = next(waiting, None)
                if job is None:
                    break
                running.add(pool.submit(run, job))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                row = future.result()
                with options.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                told = {k: row[k] for k in ("auc", "accuracy", "dice", "skipped", "error") if k in row}
                print(
                    row["task"],
                    row["encoder"],
                    f"seed {row['seed']}",
                    told,
                    f"{row['seconds']} s",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--encoders", nargs="+", help="all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--vessel-steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--parameters", type=int, default=200_000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--minutes", type=float, default=25.0, help="after which no training begins")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE}")
    options = parser.parse_args()
    train_missing(options)
    if options.write:
        print(f"wrote {write_page(read_rows(options.rows), PAGE)}")


if __name__ == "__main__":
    main()
