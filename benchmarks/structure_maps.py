"""What the networks say of photographs, kept on disk so that scores can be taken again within minutes."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from foveal.files import write_atomically
from foveal.measurement.landmark_finding import FoundLandmarks
from foveal.models import Segmenter
from foveal.scans.field_of_view import FieldOfView, find_field_of_view
from foveal.screening.structures import landmark_diameter, landmarks_in
from foveal.segmentation.frames import WorkingFrame, frame_box
from foveal.segmentation.inference import StructureMaps, segment_structures, segment_vessels

DATA = Path(os.environ.get("FOVEAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
FOUND = 0.5  # probability from which a pixel is a vessel
FURTHEST = 16.0  # log-odds; float16 keeps them to one part in a thousand, also of probabilities close to 1


@dataclass(frozen=True)
class Network:
    """A saved network whose answers are kept under a folder, by the content of its weights."""

    folder: Path
    kept: Path
    views: int = 4
    tile: int = 1152

    @cached_property
    def model(self) -> Segmenter:
        return Segmenter.from_pretrained(self.folder).eval()

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256((self.folder / "model.safetensors").read_bytes()).hexdigest()[:12]

    def structures(
        self, name: str, image: np.ndarray, eye: FieldOfView, *, diameter: int | None = None
    ) -> StructureMaps:
        """Maps of the structures of a photograph, whose name is unique; at another diameter if given."""
        own = self.model.preprocess.working_diameter
        diameter = diameter or own
        file = self._file(name if diameter == own else f"{name}-{diameter}")
        if not file.is_file():
            maps = segment_structures(
                self.model, image, eye, views=self.views, tile=self.tile, diameter=diameter
            )
            odds = torch.logit(maps.seen.double()).clamp(-FURTHEST, FURTHEST).half()
            _keep(file, odds=odds.numpy(), spread=maps.spread_seen.half().numpy())
        with np.load(file) as kept:
            seen = torch.from_numpy(kept["odds"]).float().sigmoid()
            spread = torch.from_numpy(kept["spread"]).float()
        box, _ = frame_box(eye, diameter=diameter, multiple=32)
        frame = WorkingFrame(torch.empty(1, 3, 0, 0), box, image.shape[:2])
        return StructureMaps(self.model.config.classes, seen, spread, frame, eye)

    def landmarks(self, name: str, image: np.ndarray, eye: FieldOfView, vessels: np.ndarray) -> StructureMaps:
        """Maps of disc and fovea at the diameter of a screening run; vessels are (H, W) bool."""
        return self.structures(name, image, eye, diameter=landmark_diameter(self.model, vessels, eye))

    def vessels(self, name: str, image: np.ndarray, eye: FieldOfView) -> np.ndarray:
        """(H, W) float32 probability of a vessel, with the settings of a screening run."""
        file = self._file(name)
        if not file.is_file():
            levels = np.rint(segment_vessels(self.model, image, eye).probability * 65535)
            _keep(file, levels=levels.astype(np.uint16))
        with np.load(file) as kept:
            return (kept["levels"] / np.float32(65535)).astype(np.float32)

    def _file(self, name: str) -> Path:
        folder = self.kept / f"{self.digest}-{self.views}-{self.tile}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name.replace('/', '-')}.npz"


@dataclass(frozen=True)
class Networks:
    """The networks of the evidence.

    Attributes:
        runs: folder of the rounds of `benchmarks/training/structures.py`.
        vessels: folder of a vessel network that has seen no eye of LES-AV.
        weights: folder of the shipped weights.
    """

    runs: Path
    vessels: Path
    weights: Path
    loaded: dict[tuple[Path, int, int], Network] = field(default_factory=dict)

    def fold(self, network: str, number: int, *, views: int = 4, tile: int = 1152) -> Network:
        """The network of a round that left out a fold of IDRiD's patients."""
        return self._of(self.runs / network / f"fold-{number}" / "model", views, tile)

    def has_fold(self, network: str, number: int) -> bool:
        """Whether the round that left out this fold was trained."""
        return (self.runs / network / f"fold-{number}" / "model").is_dir()

    def shipped(self, network: str, *, views: int = 4, tile: int = 1152) -> Network:
        """The network that `foveal` comes with."""
        return self._of(self.weights / network, views, tile)

    def found_vessels(self, name: str, image: np.ndarray, eye: FieldOfView) -> np.ndarray:
        """(H, W) bool vessels by the shipped network, as a screening run finds them."""
        return self.shipped("vessels", views=2).vessels(name, image, eye) >= FOUND

    def landmarks(self, name: str, image: np.ndarray, vessels: np.ndarray) -> FoundLandmarks:
        """Landmarks by the shipped network, as a screening run finds them; vessels are (H, W) bool."""
        eye = find_field_of_view(image)
        maps = self.shipped("landmarks").landmarks(name, image, eye, vessels)
        return landmarks_in(maps, image, vessels)

    def unseen_vessels(self) -> Network:
        """The vessel network that has seen no eye of LES-AV."""
        return self._of(self.vessels, 2)

    def _of(self, folder: Path, views: int, tile: int = 1152) -> Network:
        if not (folder / "model.safetensors").is_file():
            raise FileNotFoundError(f"{folder} holds no model; make it with benchmarks/training")
        return self.loaded.setdefault((folder, views, tile), Network(folder, self.runs / "kept", views, tile))


def _keep(file: Path, **arrays: np.ndarray) -> None:
    def write(partial: Path) -> None:
        with partial.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    write_atomically(file, write)
