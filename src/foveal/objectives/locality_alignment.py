"""Locality alignment, MaskEmbed (ICLR 2025, arXiv 2410.11087): patch tokens that say what is at each patch.

A frozen teacher sees masked images; the student sees the whole image once, and its tokens are masked:
t = s f(m x), p = h(m g(x)), loss = |p - t|^2, averaged over masks m, tokens and channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.patch_masks import MaskSettings, draw_masks, masked_images
from foveal.encoders.base import Encoder
from foveal.encoders.vit_tokens import patch_grid, patch_sides, vit_of, vit_tokens
from foveal.models.masked_embedding import MaskedEmbedding
from foveal.objectives.base import Batch, Objective

TokenLoss = Literal["mse", "cosine", "l1", "masked_mse", "unmasked_mse"]
_LOSSES = ("mse", "cosine", "l1", "masked_mse", "unmasked_mse")


def token_losses(prediction: Tensor, target: Tensor, kept: Tensor, *, kind: TokenLoss = "mse") -> Tensor:
    """Loss of each mask, (M,), of predicted tokens (M, T, D).

    Args:
        prediction: (M, T, D).
        target: of the same shape.
        kept: (M, T) bool, tokens that the decoder saw; prefix tokens, which it never sees, count as masked.
        kind: "mse", "l1", "cosine" (one minus it) over all tokens, or the squared error of the tokens that
            were hidden ("masked_mse") or seen ("unmasked_mse"); 0 where there is no such token.
    """
    prediction, target = prediction.float(), target.float()
    if kind == "cosine":
        return (1 - F.cosine_similarity(prediction, target, dim=-1)).mean(dim=1)
    if kind == "l1":
        return (prediction - target).abs().mean(dim=(1, 2))
    errors = (prediction - target).square().mean(dim=2)
    if kind == "mse":
        return errors.mean(dim=1)
    chosen = kept if kind == "unmasked_mse" else ~kept
    return (errors * chosen).sum(dim=1) / chosen.sum(dim=1).clamp_min(1)


def pooled_variance(parts: Iterable[Tensor]) -> float:
    """Variance over all elements of tensors that come one after the other (Chan's form of Welford's update).

    Raises:
        ValueError: there are none.
    """
    count, mean, squares = 0, 0.0, 0.0
    for part in parts:
        values = part.double()
        size, centre = values.numel(), float(values.mean())
        squares += float((values - centre).square().sum())
        squares += (centre - mean) ** 2 * count * size / (count + size)
        mean += (centre - mean) * size / (count + size)
        count += size
    if not count:
        raise ValueError("no values to take the variance of; give at least one batch of images")
    return squares / count


class TeacherObjective(Objective):
    """What learning from a frozen copy has in common: the teacher's tokens, brought to unit variance.

    Args:
        student: begins as the teacher's copy, or another transformer with the same patches.
        teacher: a vision transformer; it is frozen and stays in evaluation mode.
        masks: of the images.
        loss: see `token_losses`.
        skip_blocks: last blocks of the teacher that are left out; 1 tells the penultimate layer.

    Raises:
        ValueError: patches, prefix tokens or widths of teacher and student differ.
    """

    scale: Tensor

    def __init__(
        self,
        student: MaskedEmbedding,
        teacher: Encoder,
        *,
        masks: MaskSettings | None = None,
        loss: TokenLoss = "mse",
        skip_blocks: int = 1,
    ) -> None:
        super().__init__()
        if loss not in _LOSSES:
            raise ValueError(f"loss is {loss!r}; allowed: {', '.join(_LOSSES)}")
        _check_pair(student, teacher)
        self.student, self.masks, self.loss, self.skip_blocks = (
            student,
            masks or MaskSettings(),
            loss,
            skip_blocks,
        )
        self.teacher = teacher.eval().requires_grad_(False)
        self.patch_sides = patch_sides(teacher)
        self.register_buffer("scale", torch.ones(()))

    def train(self, mode: bool = True) -> TeacherObjective:
        """Switch the student alone: the teacher stays as it is used."""
        super().train(mode)
        self.teacher.eval()
        return self

    def draw(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Masks (B, R, n) for images; without a generator by the global one, which the loop seeds."""
        grid = patch_grid(self.teacher, (images.shape[-2], images.shape[-1]))
        masks = draw_masks(self.masks, len(images), grid, generator=generator, device=images.device)
        return masks.to(images.device)

    @torch.no_grad()
    def raw_targets(self, images: Tensor, masks: Tensor | None) -> Tensor:
        """The teacher's tokens (B R, P + n, D) of standardised images, masked unless None, as they are."""
        shown = images if masks is None else masked_images(images, masks, self.patch_sides)
        return vit_tokens(self.teacher, shown, skip_blocks=self.skip_blocks)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor], *, seed: int = 0) -> float:
        """Set the scale, once before training, so that targets of masked images have variance 1.

        Args:
            batches: images (B, C, H, W) in [0, 1], best of the validation split.
            seed: of their masks.

        Returns:
            The scale s = Var(t)^(-1/2).
        """
        generator = torch.Generator().manual_seed(seed)

        def targets() -> Iterable[Tensor]:
            for images in batches:
                images = self.student.standardised(images.to(self.scale.device))
                yield self.raw_targets(images, self.draw(images.cpu(), generator).to(images.device))

        self.scale.fill_(max(pooled_variance(targets()), 1e-12) ** -0.5)
        return float(self.scale)


class LocalityAlignment(TeacherObjective):
    """The student's masked tokens must tell the teacher's tokens of the masked image.

    The published masks are one of a uniform number of patches, its complement and the whole image.

    Batch keys: `images` (B, C, H, W) in [0, 1]; `keep` (B, R, n) bool where masks are given, not drawn.

    Example:
        >>> encoder = create_encoder("timm/vit_tiny_patch16_224", image_size=64, depth=3)
        >>> objective = LocalityAlignment(MaskedEmbedding.of(encoder), encoder)
        >>> scale = objective.calibrate([torch.rand(4, 3, 64, 64)])
        >>> sorted(objective({"images": torch.rand(2, 3, 64, 64)}))
        ['loss', 'parts', 'whole']
    """

    def __init__(self, student: MaskedEmbedding, teacher: Encoder, **options: Any) -> None:
        super().__init__(student, teacher, **options)
        student.head.requires_grad_(True)  # a precursor leaves them frozen
        student.decoder.requires_grad_(True)

    def predicted(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions and targets (B R, T, D), and which tokens were shown (B R, T); `prefix_only`: T = P."""
        standard, prefix = self.student.standardised(images), self.student.decoder.prefix_tokens
        target = self.scale * self.raw_targets(standard, masks)
        prediction = self.student.decoder(self.student.embed(standard), masks)
        shown = F.pad(masks.flatten(0, 1), (prefix, 0))
        tokens = prediction.shape[1]
        return prediction, target[:, :tokens], shown[:, :tokens]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and of it the part of `whole` images and of masked `parts` where masks were drawn so."""
        images, drawn = batch["images"], "keep" not in batch
        masks = self.draw(images) if drawn else batch["keep"]
        prediction, target, shown = self.predicted(images, masks)
        each = token_losses(prediction, target, shown, kind=self.loss)
        losses = {"loss": each.mean()}
        if drawn and self.masks.whole and self.masks.draws:
            each = each.detach().view(len(images), -1)
            losses |= {"whole": each[:, -1].mean(), "parts": each[:, :-1].mean()}
        return losses


class MaskedTokenPrediction(TeacherObjective):
    """Masked image modelling, the precursor: from the masked image the teacher's tokens of the whole one.

    The student sees masked images; a linear layer of the objective's own, zero at first, tells the tokens.
    The student's own head and decoder have no part in it.

    Batch keys: as of `LocalityAlignment`.
    """

    def __init__(self, student: MaskedEmbedding, teacher: Encoder, **options: Any) -> None:
        super().__init__(student, teacher, **options)
        self.predict = nn.Linear(student.encoder.dim, vit_of(teacher).embed_dim)
        nn.init.zeros_(self.predict.weight)
        nn.init.zeros_(self.predict.bias)
        student.head.requires_grad_(False)
        student.decoder.requires_grad_(False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, of all tokens of every mask."""
        images = batch["images"]
        masks = batch["keep"] if "keep" in batch else self.draw(images)
        standard = self.student.standardised(images)
        target = (self.scale * self.raw_targets(standard, None)).repeat_interleave(masks.shape[1], dim=0)
        seen = vit_tokens(self.student.encoder, masked_images(standard, masks, self.patch_sides))
        shown = F.pad(masks.flatten(0, 1), (self.student.decoder.prefix_tokens, 0))
        return {"loss": token_losses(self.predict(seen), target, shown, kind=self.loss).mean()}


def _check_pair(student: MaskedEmbedding, teacher: Encoder) -> None:
    """Refuse a teacher whose tokens are not those that the student's decoder predicts."""
    vit, decoder = vit_of(teacher), student.decoder
    if patch_sides(teacher) != patch_sides(student.encoder):
        raise ValueError(
            f"the teacher has patches of {patch_sides(teacher)} px, the student of "
            f"{patch_sides(student.encoder)}; take two transformers with the same patches"
        )
    size = student.config.preprocess.size
    tokens = vit.num_prefix_tokens + prod(patch_grid(teacher, (size, size)))
    if tokens != decoder.prefix_tokens + decoder.patches or vit.num_prefix_tokens != decoder.prefix_tokens:
        raise ValueError(
            f"the teacher has {vit.num_prefix_tokens} prefix tokens of {tokens}, the student "
            f"{decoder.prefix_tokens} of {decoder.prefix_tokens + decoder.patches}; they have to agree"
        )
    if cast(int, vit.embed_dim) != decoder.out_dim:
        raise ValueError(
            f"the teacher's tokens are {vit.embed_dim} wide, the decoder predicts {decoder.out_dim}; "
            f"make the student with target_dim={vit.embed_dim}"
        )
    if teacher.in_channels != student.encoder.in_channels:
        raise ValueError(
            f"the teacher takes {teacher.in_channels} channels, the student {student.encoder.in_channels}"
        )
