"""Train the small networks of arteries and veins, landmarks and lesions; make the shipped weights again.

    python benchmarks/training/structures.py artery-vein landmarks lesions --data DATA --runs runs/structures

Artery and vein: trained once, on the usual half of LES-AV, beginning with a vessel network that has seen no
eye of LES-AV (`--start`, made by `benchmarks/training/vessels.py`); the other half is for scoring.
Landmarks and lesions: three folds of IDRiD's patients, and once more on all of them: the shipped weights.
Each round saves RUNS/NETWORK/ROUND/model; a killed run goes on where it stopped. `benchmarks/structures.py`
scores them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch

from foveal.models import Segmenter
from foveal.scans.manifest import split_patients
from foveal.scans.structure_datasets import StructureCase, iterate_idrid, read_les_av_kinds, sorted_files
from foveal.segmentation.structure_training import StructureSet, StructureSettings, train_structures

WEIGHTS = Path(__file__).parents[2] / "src" / "foveal" / "models" / "weights"
NETWORKS = ("artery-vein", "landmarks", "lesions")
LES_AV_TRAINING = ("12", "15", "33", "34", "37", "42", "49", "53", "90", "111", "119")
FOLDS = 3


def settings_of(network: str, **changes: object) -> StructureSettings:
    """The settings that the weights of a network were trained with."""
    given = json.loads((WEIGHTS / network / "training.json").read_text(encoding="utf-8"))
    return StructureSettings.model_validate(given | changes)


def idrid_folds(data: Path) -> dict[str, int]:
    """The fold of each patient of IDRiD's segmentation set."""
    names = [path.stem for path in sorted_files(data / "IDRiD" / "segmentation" / "images", "*.jpg")]
    table = pd.DataFrame({"path": names, "patient": [f"IDRiD/{name}" for name in names]})
    folds = split_patients(table, folds=FOLDS, seed=0)
    return {str(patient): int(fold) for patient, fold in zip(table.patient, folds, strict=True)}


def cases_of(network: str, data: Path, structures: tuple[str, ...]) -> Iterable[StructureCase]:
    """The photographs that a network is trained on, those of all folds."""
    if network == "artery-vein":
        return read_les_av_kinds(data / "LES-AV", structures, names=LES_AV_TRAINING)
    return iterate_idrid(data / "IDRiD" / "segmentation", structures)


def rounds_of(network: str, data: Path) -> dict[str, set[str]]:
    """Rounds of a network by name, and the patients that each leaves out."""
    if network == "artery-vein":
        return {"final": set()}
    folds = idrid_folds(data)
    held = {f"fold-{k}": {patient for patient, fold in folds.items() if fold == k} for k in range(FOLDS)}
    return held | {"final": set()}


def train(network: str, data: Path, runs: Path, start: Path) -> None:
    """Train the rounds of a network that are not done."""
    changes = {"start_from": str(start)} if network == "artery-vein" else {}
    settings = settings_of(network, **changes)
    rounds = {
        name: held
        for name, held in rounds_of(network, data).items()
        if not (runs / network / name / "model").is_dir()
    }
    if not rounds:
        return
    prepared = StructureSet(settings, cases_of(network, data, settings.structures))
    for name, held in rounds.items():
        begun = time.perf_counter()
        folder = runs / network / name
        model = train_structures(prepared, folder=folder, hold_out=held, progress=False)
        model.save_pretrained(folder / "model")
        print(f"{network} {name}: {time.perf_counter() - begun:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds LES-AV and IDRiD")
    parser.add_argument("--runs", type=Path, default=Path("runs/structures"))
    parser.add_argument("--start", type=Path, default=Path("runs/vessels/without-LES-AV/model"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--ship", action="store_true", help="copy the final weights into the package")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for network in options.networks:
        train(network, options.data, options.runs, options.start)
        if options.ship:
            Segmenter.from_pretrained(options.runs / network / "final" / "model").save_pretrained(
                WEIGHTS / network
            )


if __name__ == "__main__":
    main()
