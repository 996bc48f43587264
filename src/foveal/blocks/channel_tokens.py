"""Tokens for each channel of an image, and channels drawn for training (ChannelViT, arXiv 2309.16108).

Channel indices are (B, C') integers; `ABSENT` fills the rows of images that have fewer channels than others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from foveal.blocks.patches import PatchEmbed

ABSENT = -1

Sampling = Literal["hcs", "dropout", "none"]
Merge = Literal["mean", "concat", "attention"]


class ChannelTokenizer(nn.Module):
    """Patches of every channel by one shared projection, plus a vector that tells the channel.

    Its weights are p p D + D for the projection, whatever the number of channels, and `channels` x D for
    the vectors.

    Args:
        channels: how many channels there are to tell apart.
        dim: D.
        patch_size: p, pixels.
    """

    def __init__(self, channels: int, dim: int, *, patch_size: int) -> None:
        super().__init__()
        self.project = PatchEmbed(1, dim, patch_size=patch_size)
        self.embedding = nn.Parameter(nn.init.trunc_normal_(torch.empty(channels, dim), std=0.02))

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that an optimiser leaves undecayed (timm's convention)."""
        return {"embedding"}

    def forward(self, images: Tensor, channels: Tensor) -> Tensor:
        """Cut, project and tell apart.

        Args:
            images: (B, C', H, W).
            channels: (B, C') checked indices, as `channel_indices` returns them; the tokens of an `ABSENT`
                channel are to be masked by whoever reads them.

        Returns:
            (B, C', h, w, D).

        Raises:
            ValueError: the sides are no multiples of the patch.
        """
        tokens = self.project(rearrange(images, "b c h w -> (b c) 1 h w"))
        tokens = rearrange(tokens, "(b c) h w d -> b c h w d", b=len(images))
        # Not in place: the projection's output is needed as it is for the backward pass.
        return tokens + self.embedding[channels.clamp_min(0)][:, :, None, None]


def channel_indices(images: Tensor, channels: Tensor | Sequence[int] | None, *, known: int) -> Tensor:
    """(B, C') indices of the channels of a batch, checked.

    Args:
        images: (B, C', H, W).
        channels: (C',) for the whole batch, or (B, C') for each image with `ABSENT` where an image has
            fewer; None for all of them in order.
        known: how many channels the model knows.

    Raises:
        ValueError: no channel, an index out of range or given twice, as many indices as channels are not
            there, or no indices although there are fewer channels than the model knows.
    """
    if images.ndim != 4 or images.shape[1] == 0:
        raise ValueError(
            f"images of shape {tuple(images.shape)}; allowed: (B, C, H, W) with a channel at least"
        )
    batch, count = images.shape[:2]
    if channels is None:
        if count != known:
            raise ValueError(
                f"images have {count} channels and the model knows {known}: "
                f"tell which ones they are, e.g. channels={list(range(min(count, known)))}"
            )
        return torch.arange(known, device=images.device).expand(batch, -1)
    indices = torch.as_tensor(channels, device=images.device)
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise ValueError(f"channels of type {indices.dtype}; allowed: integers from 0 to {known - 1}")
    if indices.ndim == 1:
        indices = indices.expand(batch, -1)
    if indices.shape != (batch, count):
        raise ValueError(
            f"channels of shape {tuple(indices.shape)} for images of shape {tuple(images.shape)}; "
            f"allowed: ({count},) or ({batch}, {count}), an index for each channel"
        )
    indices = indices.long()
    if not ((indices >= ABSENT) & (indices < known)).all():
        raise ValueError(
            f"channels from {int(indices.min())} to {int(indices.max())}; allowed: 0 to {known - 1}, "
            f"or {ABSENT} for none"
        )
    if not (indices >= 0).any(dim=1).all():
        raise ValueError("an image has no channel at all; allowed: one at least for each image")
    ordered = indices.sort(dim=1).values
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("an image has the same channel twice; allowed: each index once for an image")
    return indices


def stack_channels(images: Sequence[Tensor], channels: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Images with different channels as one batch.

    Args:
        images: (C_i, H, W) each, of one size.
        channels: C_i indices each.

    Returns:
        (B, C', H, W) with zeros, and (B, C') indices with `ABSENT`, where an image has fewer than the most.

    Raises:
        ValueError: an image and its indices differ in number.
    """
    for image, indices in zip(images, channels, strict=True):
        if len(image) != len(indices):
            raise ValueError(f"an image of {len(image)} channels with {len(indices)} indices")
    planes = nn.utils.rnn.pad_sequence(list(images), batch_first=True)
    rows = nn.utils.rnn.pad_sequence(
        [torch.as_tensor(row) for row in channels], batch_first=True, padding_value=ABSENT
    )
    return planes, rows


def draw_channels(count: int, *, mode: Sampling, generator: torch.Generator, rate: float = 0.5) -> Tensor:
    """Positions of the channels that a training step sees, in the order drawn.

    "hcs", hierarchical channel sampling: a size m from 1 to `count`, all alike, then m channels without
    replacement. "dropout": each channel stays with probability 1 - `rate`, drawn again when none stays.
    "none": all, in order.

    Args:
        count: how many there are.
        mode: how to draw.
        generator: on the CPU.
        rate: of "dropout", in [0, 1).

    Returns:
        (m,) int64, m >= 1.

    Raises:
        ValueError: an unknown mode, a count below 1, or a rate outside [0, 1).
    """
    if count < 1 or not 0 <= rate < 1:
        raise ValueError(f"count {count}, rate {rate}; allowed: a count from 1 and a rate in [0, 1)")
    if mode == "none":
        return torch.arange(count)
    if mode == "hcs":
        size = int(torch.randint(1, count + 1, (), generator=generator, device="cpu"))
        return torch.randperm(count, generator=generator, device="cpu")[:size]
    if mode == "dropout":
        while True:
            kept = torch.rand(count, generator=generator, device="cpu") >= rate
            if kept.any():
                return kept.nonzero()[:, 0]
    raise ValueError(f"sampling {mode!r}; allowed: hcs, dropout, none")


class ChannelSampler(nn.Module):
    """`draw_channels` from a seed: draw number n is the same on every process and after a resume.

    So the processes of a distributed run have sequences of equal length, and none waits for another.

    Args:
        mode: how to draw, see `draw_channels`.
        rate: of "dropout".
        seed: of all draws.
    """

    drawn: Tensor

    def __init__(self, mode: Sampling = "hcs", *, rate: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        self.mode, self.rate, self.seed = mode, rate, seed
        draw_channels(1, mode=mode, rate=rate, generator=torch.Generator())  # complains about wrong settings
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
        """The drawn part of a batch.

        A batch of images with the same number of channels keeps the same positions in all of them; where
        some are `ABSENT`, each image draws among its own, since the others could leave it with none.

        Args:
            images: (B, C', H, W).
            channels: (B, C') indices.

        Returns:
            (B, m, H, W) images and (B, m) indices; as they came in evaluation mode.
        """
        if not self.training or self.mode == "none":
            return images, channels
        state = np.random.SeedSequence([self.seed, int(self.drawn)]).generate_state(1)
        generator = torch.Generator().manual_seed(int(state[0]))
        self.drawn += 1
        if bool((channels >= 0).all()):
            kept = draw_channels(images.shape[1], mode=self.mode, rate=self.rate, generator=generator)
            kept = kept.to(images.device)
            return images[:, kept], channels[:, kept]
        rows = []
        for row in channels.cpu():
            own = (row >= 0).nonzero()[:, 0]
            rows.append(own[draw_channels(len(own), mode=self.mode, rate=self.rate, generator=generator)])
        taken = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=ABSENT).to(images.device)
        present = taken >= 0
        each = torch.arange(len(images), device=images.device)[:, None]
        places = taken.clamp_min(0)
        return (
            images[each, places] * present[..., None, None],
            torch.where(present, channels[each, places], ABSENT),
        )


def present_channels(images: Tensor) -> Tensor:
    """(B, C) whether a channel of an image (B, C, H, W) has a pixel that is not 0."""
    return (images != 0).flatten(2).any(dim=-1)


def rescale_channels(images: Tensor, present: Tensor) -> Tensor:
    """Images (B, C, H, W) for a network that takes all channels: absent ones 0, the others times C / m.

    The factor keeps the scale of a patch projection that sums over channels; m counts those that an image has
    according to `present` (B, C) or (C,).

    Raises:
        ValueError: an image without a channel.
    """
    share = present.to(images.dtype).expand(images.shape[:2])
    counts = share.sum(dim=1, keepdim=True)
    if not (counts > 0).all():
        raise ValueError("an image has no channel at all; allowed: one at least for each image")
    return images * (share * (images.shape[1] / counts))[..., None, None]


class ChannelMerge(nn.Module):
    """One vector for each position from those of its channels: (B, C', h, w, D) to (B, h, w, E).

    "mean" over the channels that are there, "attention" by one learned query over them (E = D), or "concat"
    in the order of the indices (E = `channels` x D), which wants all of them.

    Args:
        channels: how many the model knows.
        dim: D.
        mode: how to merge.
    """

    def __init__(self, channels: int, dim: int, *, mode: Merge = "mean") -> None:
        super().__init__()
        if mode not in ("mean", "concat", "attention"):
            raise ValueError(f"merge {mode!r}; allowed: mean, concat, attention")
        self.mode, self.channels = mode, channels
        self.dim = channels * dim if mode == "concat" else dim
        if mode == "attention":
            self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))
            self.key_value = nn.Linear(dim, 2 * dim)

    def forward(self, tokens: Tensor, channels: Tensor) -> Tensor:
        """Merge tokens whose channels are told by (B, C') indices.

        Raises:
            ValueError: "concat" of an image that lacks a channel.
        """
        present = channels >= 0
        if self.mode == "concat":
            if tokens.shape[1] != self.channels or not bool(present.all()):
                raise ValueError(
                    f"merge 'concat' with {tokens.shape[1]} channels of {self.channels}; give all of them, "
                    "or merge by mean or attention"
                )
            order = channels.argsort(dim=1)
            tokens = tokens[torch.arange(len(tokens), device=tokens.device)[:, None], order]
            return rearrange(tokens, "b c h w d -> b h w (c d)")
        if self.mode == "mean":
            share = present / present.sum(dim=1, keepdim=True)
            return torch.einsum("bchwd,bc->bhwd", tokens, share.to(tokens.dtype))
        keys, values = self.key_value(tokens).chunk(2, dim=-1)
        scores = keys @ self.query / self.query.shape[0] ** 0.5
        weights = scores.masked_fill(~present[:, :, None, None], -torch.inf).softmax(dim=1)
        return torch.einsum("bchwd,bchw->bhwd", values, weights)
