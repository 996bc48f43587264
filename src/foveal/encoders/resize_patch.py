"""Trained encoders at another patch size: kernels by the pseudo-inverse of FlexiViT (arXiv 2212.08013)."""

from __future__ import annotations

from foveal.encoders.base import Encoder, create_encoder
from foveal.encoders.checkpoints import OWN, load_official


def resize_patch(encoder: Encoder, patch_size: int) -> Encoder:
    """A new encoder with the weights of `encoder` and patches of another size; for fine-tuning.

    Patch kernels are resized so that the token of a resized patch stays what it was as far as possible, and
    positions are interpolated to the new grid; all else is copied.

    Args:
        encoder: registered, with a setting `patch_size`, patches by `PatchEmbed` and `LearnedPositions`.
        patch_size: pixels.

    Raises:
        ValueError: the encoder has no setting `patch_size` or is not registered, or its other weights depend
            on the patch size.
    """
    if not getattr(encoder, "name", "") or not hasattr(encoder, "patch_size"):
        raise ValueError(f"{type(encoder).__name__} is no registered encoder with a setting patch_size")
    resized = create_encoder(encoder.name, **(encoder.settings | {"patch_size": patch_size}))
    load_official(resized, encoder.state_dict(), layout=OWN)
    return resized.train(encoder.training)
