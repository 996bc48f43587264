"""More ways to ask a segmenter: beyond a threshold of its own, and how well it keeps a mask."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from foveal.explanation.targets import Weights


def otsu_region(side: Literal["above", "below"] = "above") -> Weights:
    """Outputs (B, 1, ...) above Otsu's threshold of each image, or below it, where less speaks for it.

    The threshold is that of the unchanged images, as all weights are: one made anew for each changed image,
    as the published code makes it, jumps while a method changes pixels. The published score divides outputs
    by themselves to count voxels, of which the gradient is 0; this one sums the outputs.

    Raises:
        ValueError: more than one channel, or another side.
    """
    if side not in ("above", "below"):
        raise ValueError(f"side is {side!r}; allowed: above, below")

    def weights(outputs: Tensor) -> Tensor:
        from skimage.filters import threshold_otsu

        if outputs.ndim < 3 or outputs.shape[1] != 1:
            raise ValueError(
                f"outputs of shape {tuple(outputs.shape)}; allowed: (B, 1, ...) of one structure"
            )
        found = torch.zeros_like(outputs)
        for at, output in enumerate(outputs.detach().float().cpu()):
            above = output.to(outputs) > float(threshold_otsu(output.numpy()))
            found[at] = above.to(outputs) if side == "above" else -(~above).to(outputs)
        return found

    return weights


class DiceOfMask(nn.Module):
    """A segmenter as one number an image: the soft Dice of a class with its own mask of unchanged images.

    Explained with target 0 it tells what keeps the shape of a structure, not how sure the model is.

    Args:
        model: images to logits (B, K, ...).
        images: unchanged; the mask is where their logit is above 0, or the greatest with several classes.
        index: of the class.
    """

    mask: Tensor

    def __init__(self, model: nn.Module, images: Tensor, *, index: int = 0) -> None:
        super().__init__()
        self.model, self.index = model, index
        with torch.no_grad():
            logits = model(images)
        if not 0 <= index < logits.shape[1]:
            raise ValueError(f"class {index}; allowed: 0 to {logits.shape[1] - 1}")
        inside = logits[:, index] > 0 if logits.shape[1] == 1 else logits.argmax(dim=1) == index
        self.register_buffer("mask", inside.to(logits), persistent=False)
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1) soft Dice; images come in groups as large as the first, or copies of one."""
        logits = self.model(images)
        share = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
        seen = share[:, self.index].flatten(1)
        mask = self.mask.flatten(1)
        if len(seen) != len(mask):
            if len(mask) != 1:
                raise ValueError(f"{len(seen)} images for {len(mask)} masks; explain one image at a time")
            mask = mask.expand(len(seen), -1)
        return (2 * (seen * mask).sum(1) / (seen + mask).sum(1).clamp_min(1e-6)).unsqueeze(1)
