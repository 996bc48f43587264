"""Grading a photograph with a saved classifier: probabilities, uncertainty, and where it looked."""

from pathlib import Path

import numpy as np
from PIL import Image

from foveal.scans.field_of_view import FieldOfView, field_square, square_box
from foveal.screening.pictures import SOFT_SIDE, fitted_size
from foveal.screening.records import Value


class Grader:
    """A classifier on the square around the field of view.

    Args:
        folder: saved `Classifier`.
        device: torch device.

    Raises:
        OSError, ValueError: the folder cannot be loaded as a classifier of one grade an RGB photograph.
    """

    def __init__(self, folder: Path, device: str) -> None:
        from foveal.models import Classifier

        self.model = Classifier.from_pretrained(folder).to(device).eval()
        if self.model.config.activation != "softmax":
            raise ValueError(
                f"{folder} tells several findings of a photograph; a classifier of one grade each is wanted"
            )
        if self.model.encoder.in_channels != 3:
            raise ValueError(
                f"{folder} takes images of {self.model.encoder.in_channels} channels; photographs have 3: "
                "train with in_channels=3"
            )
        self.device = device

    def __call__(self, image: np.ndarray, field: FieldOfView) -> tuple[dict[str, Value], np.ndarray]:
        """Grade one photograph.

        Args:
            image: (H, W, 3) uint8 RGB.
            field: its field of view.

        Returns:
            Cells of the grader's columns, and the relevance of the chosen class as (h, w) uint8 over the
            whole photograph, scaled to the report's soft overlays.
        """
        import torch

        from foveal.explanation import explain
        from foveal.models.classifier import predictive_entropy

        config = self.model.config
        square = field_square(image, field, size=config.size)
        batch = torch.from_numpy(square).permute(2, 0, 1)[None].to(self.device, torch.float32) / 255
        probabilities = self.model.predict_proba(batch)
        chosen = int(probabilities.argmax())
        relevance = explain(self.model, batch, torch.tensor([chosen], device=self.device))
        values: dict[str, Value] = {
            "grade": config.classes[chosen],
            "grade_uncertainty": float(f"{float(predictive_entropy(probabilities)[0]):.6g}"),
        }
        for name, probability in zip(config.classes, probabilities[0].tolist(), strict=True):
            values[f"probability_{name}"] = float(f"{probability:.6g}")
        heat = relevance[0].detach().float().cpu().clamp_min(0)
        heat = heat / heat.max().clamp_min(1e-12)
        return values, place_square((heat * 255).round().to(torch.uint8).numpy(), field)


def place_square(levels: np.ndarray, field: FieldOfView) -> np.ndarray:
    """Put a map over the field's square back onto the photograph, at the size of soft overlays.

    Args:
        levels: (s, s) uint8 over the square of `field_square`.
        field: its mask tells the photograph's size; the map is 0 outside it.

    Returns:
        (h, w) uint8.
    """
    top, left, bottom, _ = square_box(field)
    height, width = field.mask.shape
    size = fitted_size((height, width), SOFT_SIDE)
    factor = levels.shape[0] / (bottom - top)
    # PIL's affine takes output pixels to input pixels, both measured at pixel corners.
    affine = (width / size[0] * factor, 0, -left * factor, 0, height / size[1] * factor, -top * factor)
    placed = Image.fromarray(levels).transform(
        size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
    )
    visible = Image.fromarray(field.mask).convert("L").resize(size, Image.Resampling.NEAREST)
    return np.where(np.asarray(visible) > 0, np.asarray(placed), np.uint8(0))
