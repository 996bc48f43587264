"""Grading a photograph with a saved classifier: probabilities, uncertainty, and where it looked."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foveal.files import file_sha256
from foveal.scans.field_of_view import FieldOfView, field_square, square_box
from foveal.screening.explaining import GRADER_METHOD, Explained, explain_answer, place_box
from foveal.screening.records import Value

if TYPE_CHECKING:
    from torch import Tensor


class Grader:
    """A classifier on the square around the field of view.

    Where the folder has a `model.onnx` (see `foveal compress`), ONNX Runtime gives the probabilities on a
    CPU; explanations are always torch's.

    Args:
        folder: saved `Classifier`.
        device: torch device.
        methods: that explain its grades; none: `GRADER_METHOD`.

    Raises:
        OSError, ValueError: the folder cannot be loaded as a classifier of one grade an RGB photograph.
        ImportError: it has a `model.onnx`, and ONNX Runtime is not installed.
    """

    def __init__(self, folder: Path, device: str, methods: Sequence[str] = ()) -> None:
        from foveal.compression.onnx_models import ONNX, OnnxClassifier
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
        self.predict: Callable[[Tensor], Tensor] = self.model.predict_proba
        if device == "cpu" and (folder / ONNX).is_file():
            self.predict = OnnxClassifier(folder).predict_proba
        self.methods = tuple(methods) or (GRADER_METHOD,)

    def __call__(self, image: np.ndarray, field: FieldOfView) -> tuple[dict[str, Value], Explained]:
        """Grade one photograph.

        Args:
            image: (H, W, 3) uint8 RGB.
            field: its field of view.

        Returns:
            Cells of the grader's columns, and why it chose its class.
        """
        import torch

        from foveal.models.classifier import predictive_entropy

        config = self.model.config
        square = field_square(image, field, size=config.size)
        batch = torch.from_numpy(square).permute(2, 0, 1)[None].to(self.device, torch.float32) / 255
        probabilities = self.predict(batch)
        chosen = int(probabilities.argmax())
        values: dict[str, Value] = {
            "grade": config.classes[chosen],
            "grade_uncertainty": float(f"{float(predictive_entropy(probabilities)[0]):.6g}"),
        }
        for name, probability in zip(config.classes, probabilities[0].tolist(), strict=True):
            values[f"probability_{name}"] = float(f"{probability:.6g}")
        explained = explain_answer(
            self.model,
            batch,
            torch.tensor([chosen], device=self.device),
            lambda logits: logits.softmax(dim=1)[:, chosen],
            of=config.classes[chosen],
            methods=self.methods,
            place=lambda levels: place_box(levels, field, square_box(field)),
        )
        return values, explained


def grader_hash(folder: Path) -> str:
    """SHA-256 (hex) of the file that gives a grader's probabilities on a CPU.

    Raises:
        OSError: there is none.
    """
    from foveal.compression.onnx_models import ONNX
    from foveal.models import weights_hash

    return file_sha256(folder / ONNX) if (folder / ONNX).is_file() else weights_hash(folder)
