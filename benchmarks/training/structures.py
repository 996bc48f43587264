"""Train the small networks of arteries and veins, landmarks and lesions; make the shipped weights again.

    python benchmarks/training/structures.py artery-vein landmarks lesions --data DATA --runs runs/structures

Artery and vein: trained once, on the usual half of LES-AV, beginning with a vessel network that has seen no
eye of LES-AV (`--start`, made by `benchmarks/training/vessels.py`); the other half is for scoring.
Landmarks and lesions: three folds of IDRiD's patients, and once more on all of them: the shipped weights.
Lesions begin with the shipped vessel network, which has seen no photograph of IDRiD, and are trained on eyes
without lesions as well. A network with a pretraining.json beside its training.json is trained in two stages.
Each round saves RUNS/NETWORK/ROUND/model; a killed run goes on where it stopped.
`benchmarks/structures.py`, `benchmarks/landmarks.py` and `benchmarks/lesions.py` score them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pandas as pd
import torch

from foveal.models import Segmenter
from foveal.models.pretrained import read_config
from foveal.scans.manifest import split_patients
from foveal.scans.structure_datasets import (
    LES_AV_TRAINING,
    StructureCase,
    iterate_idrid,
    iterate_without_lesions,
    read_les_av_kinds,
    sorted_files,
)
from foveal.segmentation.structure_training import StructureSet, StructureSettings, train_structures

WEIGHTS = Path(__file__).parents[2] / "src" / "foveal" / "models" / "weights"
NETWORKS = ("artery-vein", "landmarks", "lesions")
STAGES = ("pretraining", "training")
FOLDS = 3


def settings_of(network: str, stage: str) -> StructureSettings | None:
    """The settings of one stage of a network's training; None where it has no such stage."""
    path = WEIGHTS / network / f"{stage}.json"
    return StructureSettings.model_validate_json(path.read_bytes()) if path.is_file() else None


def idrid_folds(data: Path) -> dict[str, int]:
    """The fold of each patient of IDRiD's segmentation set."""
    names = [path.stem for path in sorted_files(data / "IDRiD" / "segmentation" / "images", "*.jpg")]
    table = pd.DataFrame({"path": names, "patient": [f"IDRiD/{name}" for name in names]})
    folds = split_patients(table, folds=FOLDS, seed=0)
    return {str(patient): int(fold) for patient, fold in zip(table.patient, folds, strict=True)}


def cases_of(network: str, stage: str, data: Path, structures: tuple[str, ...]) -> Iterable[StructureCase]:
    """The photographs that a network is trained on in a stage, those of all folds."""
    if network == "artery-vein":
        return read_les_av_kinds(data / "LES-AV", structures, names=LES_AV_TRAINING)
    labelled = iterate_idrid(data / "IDRiD" / "segmentation", structures)
    if network == "lesions":
        return chain(labelled, iterate_without_lesions(data, structures))
    return labelled


def rounds_of(network: str, data: Path) -> dict[str, set[str]]:
    """Rounds of a network by name, and the patients that each leaves out."""
    if network == "artery-vein":
        return {"final": set()}
    folds = idrid_folds(data)
    held = {f"fold-{k}": {patient for patient, fold in folds.items() if fold == k} for k in range(FOLDS)}
    return held | {"final": set()}


def train(network: str, data: Path, runs: Path, start: Path, rounds: list[str]) -> None:
    """Train the stages of a network, and of each its rounds, that are not done; all where none is named."""
    first = {"artery-vein": start, "lesions": WEIGHTS / "vessels"}.get(network)
    begin = {name: first for name in rounds_of(network, data) if not rounds or name in rounds}
    for stage in STAGES:
        settings = settings_of(network, stage)
        if settings is None:
            continue
        folders = {
            name: runs / network / name / ("first" if stage == "pretraining" else "") for name in begin
        }
        waiting = [name for name, folder in folders.items() if not (folder / "model").is_dir()]
        prepared: StructureSet | None = None
        for name in waiting:
            begun = time.perf_counter()
            prepared = prepared or StructureSet(settings, cases_of(network, stage, data, settings.structures))
            prepared.settings = settings.replace(start_from=begin[name] and str(begin[name]))
            held = rounds_of(network, data)[name]
            model = train_structures(prepared, folder=folders[name], hold_out=held, progress=False)
            model.save_pretrained(folders[name] / "model")
            print(f"{network} {name} {stage}: {time.perf_counter() - begun:.0f} s", flush=True)
        begin = {name: folder / "model" for name, folder in folders.items()}


def ship(network: str, runs: Path) -> None:
    """Put the final weights into the package; thresholds stay those that were shipped before."""
    model = Segmenter.from_pretrained(runs / network / "final" / "model")
    thresholds = read_config(WEIGHTS / network)["thresholds"]
    model.config = model.config.model_copy(update={"thresholds": thresholds})
    model.save_pretrained(WEIGHTS / network)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds LES-AV and IDRiD")
    parser.add_argument("--runs", type=Path, default=Path("runs/structures"))
    parser.add_argument("--start", type=Path, default=Path("runs/vessels/without-LES-AV/model"))
    parser.add_argument(
        "--rounds", nargs="*", default=[], help="such as fold-0 or final; several processes share"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--ship", action="store_true", help="copy the final weights into the package")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for network in options.networks:
        train(network, options.data, options.runs, options.start, options.rounds)
        if options.ship:
            ship(network, options.runs)


if __name__ == "__main__":
    main()
