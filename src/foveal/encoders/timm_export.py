"""An encoder `timm/NAME` as the folder that timm and transformers load themselves."""

from __future__ import annotations

import json
from pathlib import Path

from timm.models import save_for_hf

from foveal.encoders.base import Encoder
from foveal.encoders.preprocessing import EncoderPreprocess
from foveal.encoders.saving import CONFIG, read_config
from foveal.encoders.timm_bridge import TimmEncoder
from foveal.files import write_atomically


def export_timm(encoder: Encoder, folder: str | Path, *, preprocess: EncoderPreprocess | None = None) -> Path:
    """Write `config.json` and `model.safetensors` in the hub's layout of timm.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` and transformers'
    `TimmWrapperModel.from_pretrained(FOLDER)` load it.
    A soft cap of attention is not part of that layout: `foveal.blocks.soft_cap.cap_attention(model, 30.0)`
    puts it back; without it, attention differs only where logits are large.

    Args:
        encoder: `timm/NAME`.
        folder: made where missing.
        preprocess: size, mean and std that are noted; the encoder's own where None.

    Raises:
        ValueError: another encoder, or one that gives a pyramid and so is no whole model of timm's.
    """
    if not isinstance(encoder, TimmEncoder) or not hasattr(encoder.backbone, "pretrained_cfg"):
        raise ValueError(
            f"{type(encoder).__name__} is no whole model of timm; allowed: timm/NAME of a transformer"
        )
    shown = (preprocess or encoder.preprocess or EncoderPreprocess()).for_channels(encoder.in_channels)
    data = {
        "input_size": (encoder.in_channels, shown.size, shown.size), "mean": shown.mean, "std": shown.std
    }  # fmt: skip
    folder = Path(folder)
    save_for_hf(encoder.backbone, str(folder), safe_serialization=True, data_config=data)
    config = read_config(folder)
    config.get("model_args", {}).pop("num_classes", None)  # transformers gives it itself
    write_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    return folder
