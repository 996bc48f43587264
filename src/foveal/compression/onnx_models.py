"""Classifiers as ONNX files: written, checked against torch, run by ONNX Runtime, in 8 bits where wanted."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from foveal.compression.methods import Material, Outcome, Target, register_compressor
from foveal.files import write_atomically
from foveal.models.classifier import Classifier, ClassifierConfig
from foveal.models.pretrained import read_config

ONNX = "model.onnx"


class OnnxClassifier:
    """A classifier's `model.onnx` in ONNX Runtime: images (B, C, size, size) in [0, 1] to probabilities.

    Args:
        folder: of a saved `Classifier` with a `model.onnx`.
        threads: that one image's operations share; None takes torch's number.

    Raises:
        FileNotFoundError: there is no `model.onnx`.
        ImportError: ONNX Runtime is not installed; tells the extra.
    """

    def __init__(self, folder: str | Path, *, threads: int | None = None) -> None:
        runtime = _runtime()
        path = Path(folder) / ONNX
        if not path.is_file():
            raise FileNotFoundError(f"{folder} has no {ONNX}; write it with export_onnx or foveal compress")
        config = {k: v for k, v in read_config(Path(folder)).items() if k not in ("foveal_model", "changes")}
        self.config = ClassifierConfig(**config)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        # Threads that spin between two calls would take the processor from whatever runs beside them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        (logits,) = self._session.run(None, {"images": np.ascontiguousarray(images.cpu().numpy())})
        return torch.from_numpy(logits)

    def predict_proba(self, images: Tensor) -> Tensor:
        """Probabilities (B, classes); see `Classifier.predict_proba`."""
        logits = self(images) / self.config.temperature
        return logits.sigmoid() if self.config.activation == "sigmoid" else logits.softmax(dim=-1)


def export_onnx(model: Classifier, folder: str | Path, images: Tensor, *, bits: Literal[8, 32] = 32) -> float:
    """Write `model.onnx`, for any number of images at once, and check it against torch.

    Args:
        model: in evaluation mode.
        folder: that receives the file, whole or not at all.
        images: (B, C, size, size) to check it on.
        bits: 8 makes linear layers' weights 8-bit integers, and their inputs as they come.

    Returns:
        The largest difference of a probability from torch's.

    Raises:
        ImportError: packages are not installed; tells the extra.
        RuntimeError: 32 bits, and ONNX Runtime does not give what torch does (more than 1e-3 apart).
    """
    _runtime()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "plain.onnx"
        sample = images[:2] if len(images) > 1 else images.repeat(2, *[1] * (images.ndim - 1))
        with _quiet():
            torch.onnx.export(
                model.cpu().eval(),
                (sample.cpu(),),
                str(path),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            if bits == 8:
                path = _to_eight_bits(path)
        write_atomically(folder / ONNX, path.read_bytes())
    _config_beside(model, folder)
    with torch.inference_mode():
        told, wanted = OnnxClassifier(folder).predict_proba(images), model.predict_proba(images)
    apart = float((told - wanted).abs().max())
    if bits == 32 and apart > 1e-3:
        (folder / ONNX).unlink()
        raise RuntimeError(f"ONNX Runtime's probabilities are up to {apart:.3g} from torch's; not kept")
    return apart


@register_compressor("int8", "bits")
def int8(_model: Classifier, _material: Material, target: Target) -> Outcome:
    """Weights and inputs of linear layers as 8-bit integers, run by ONNX Runtime."""
    if target.value != 8:
        raise ValueError(f"int8 has 8 bits, not {target.text}; lrp-qvit mixes widths")
    return Outcome(
        "Linear layers run on 8-bit integers in ONNX Runtime, their inputs scaled as they come.",
        runtime="onnx-int8",
    )


def _to_eight_bits(path: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, made = path.with_name("prepared.onnx"), path.with_name("int8.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    quantize_dynamic(
        str(prepared), str(made), weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"]
    )
    return made


def _config_beside(model: nn.Module, folder: Path) -> None:
    if not (folder / "config.json").is_file() and isinstance(model, Classifier):
        model.save_pretrained(folder)


class _quiet:
    """ONNX's exporters talk a lot; what they have to tell that matters they raise."""

    def __enter__(self) -> None:
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("ignore")
        self._level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *exception: Any) -> None:
        logging.disable(self._level)
        self._caught.__exit__(*exception)


def _runtime() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'ONNX needs onnx, onnxscript and onnxruntime ({error}): pip install "foveal[onnx]"'
        ) from error
    return onnxruntime
