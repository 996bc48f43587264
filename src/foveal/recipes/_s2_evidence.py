"""What proves the S2 recipe: exact facts of tiles and scales, then probes, approximation and cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.tiles import merge_tiles, split_tiles
from foveal.encoders.base import create_encoder
from foveal.encoders.multi_scale import multiscale_features
from foveal.machine import added_memory, seconds_of
from foveal.recipes.base import Evidence, Finding, Scale


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; probes, approximation and cost in full."""
    yield merging_undoes_splitting
    yield one_scale_is_the_model
    yield tokens_of_the_first_scale
    yield squares_come_out_as_published
    yield nothing_is_shifted
    yield sub_batches_change_nothing
    yield overlap_mends_borders
    if scale == "full":
        from foveal.recipes._s2_learning import approximates_a_wider_model, probes

        # Times are never part of a test, and so not of the quick evidence.
        yield probes
        yield approximates_a_wider_model
        yield cost_of_scales


class _Tokens(nn.Module):
    """A small transformer's tokens with one class token in front."""

    def __init__(self, side: int, *, dim: int = 48, depth: int = 2, heads: int = 3, patch: int = 8) -> None:
        super().__init__()
        import timm

        self.body: Any = timm.create_model(
            "vit_tiny_patch16_224",
            img_size=side,
            patch_size=patch,
            embed_dim=dim,
            depth=depth,
            num_heads=heads,
            num_classes=0,
        )
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, side, side) to (n, 1 + N, D)."""
        return self.body.forward_features(images)


def merging_undoes_splitting() -> Finding:
    """Merging undoes splitting exactly for 1 to 4 tiles a side, 1 or 3 channels, 1 to 3 images."""
    wrong = 0
    for count in range(1, 5):
        for channels in (1, 3):
            for batch in (1, 2, 3):
                images = torch.rand(batch, channels, 12 * count, 12 * count)
                wrong += not torch.equal(merge_tiles(split_tiles(images, count, count), count, count), images)
    return Finding.close("merge(split(x)) differs from x, of 24 cases", wrong, 0, tolerance=0)


@torch.no_grad()
def one_scale_is_the_model() -> Finding:
    """With the single scale 1 the model's own output comes back, to the bit."""
    model, images = _Tokens(32), torch.rand(2, 3, 32, 32)
    same = torch.equal(multiscale_features(model, images, scales=[1]), model(images))
    return Finding.fact("scales [1] give the model's output to the bit", same)


@torch.no_grad()
def tokens_of_the_first_scale() -> Finding:
    """224 px with scales 1 and 2 give 196 tokens, or 197 with a class token, of twice the channels."""
    images = torch.rand(1, 3, 224, 224)
    patches = nn.Conv2d(3, 8, 16, 16)
    shapes = [
        tuple(multiscale_features(model, images, scales=[1, 2]).shape)
        for model in (
            lambda x: patches(x).flatten(2).mT,
            lambda x: F.pad(patches(x).flatten(2).mT, (0, 0, 1, 0)),
            patches,
        )
    ]
    wanted = [(1, 196, 16), (1, 197, 16), (1, 16, 14, 14)]
    return Finding.fact(
        "shapes at 224 px, scales 1 and 2", shapes == wanted, expected=str(wanted), measured=str(shapes)
    )


@torch.no_grad()
def squares_come_out_as_published() -> Finding:
    """Equal to the published steps written out with slices and `F.interpolate`."""
    side, scales = 32, (1, 2, 3)
    model, images = _Tokens(side), torch.rand(2, 3, side, side)
    maps, heads = [], []
    for scale in scales:
        size = side * scale
        big = F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False)
        rows, head = [], torch.zeros(())
        for top in range(0, size, side):
            row = []
            for left in range(0, size, side):
                tokens = model(big[:, :, top : top + side, left : left + side])
                row.append(tokens[:, 1:].mT.reshape(2, -1, 4, 4))
                head = head + tokens[:, :1] / scale**2
            rows.append(torch.cat(row, dim=3))
        maps.append(F.interpolate(torch.cat(rows, dim=2), size=(4, 4), mode="area"))
        heads.append(head)
    wanted = torch.cat([torch.cat(heads, dim=-1), torch.cat(maps, dim=1).flatten(2).mT], dim=1)
    found = multiscale_features(model, images, scales=scales)
    return Finding.at_most(
        "scales 1, 2, 3: largest difference from the steps written out",
        float((found - wanted).abs().max()),
        1e-5,
    )


@torch.no_grad()
def nothing_is_shifted() -> Iterator[Finding]:
    """A model of patch means is pooled in place, and a shift by a tile permutes the map."""
    images = torch.rand(1, 3, 64, 64)
    out = multiscale_features(nn.AvgPool2d(8), images, scales=[1, 2])
    doubled = F.interpolate(images, size=(128, 128), mode="bicubic", align_corners=False)
    difference = float((out[:, 3:] - F.interpolate(doubled, size=(8, 8), mode="area")).abs().max())
    yield Finding.at_most("patch means at scale 2: largest difference from area pooling", difference, 1e-5)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(8))
    plain = multiscale_features(model, images, scales=[1], max_tile=16)
    rolled = multiscale_features(model, images.roll((16, 32), dims=(2, 3)), scales=[1], max_tile=16)
    difference = float((rolled - plain.roll((2, 4), dims=(2, 3))).abs().max())
    yield Finding.at_most(
        "image shifted by whole tiles: largest difference from the shifted map", difference, 1e-6
    )


@torch.no_grad()
def sub_batches_change_nothing() -> Iterator[Finding]:
    """Tiles in sub-batches, or of one colour run once, give the same features."""
    model, images = _Tokens(32), torch.rand(4, 3, 32, 32)
    images[:, :, :, 16:] = 0
    whole = multiscale_features(model, images, scales=[1, 2, 4])
    parts = multiscale_features(model, images, scales=[1, 2, 4], tile_batch=4)
    yield Finding.at_most(
        "tiles in sub-batches: largest difference", float((parts - whole).abs().max()), 1e-6
    )
    reused = multiscale_features(model, images, scales=[1, 2, 4], reuse_constant_tiles=True)
    yield Finding.at_most(
        "black tiles run once: largest difference", float((reused - whole).abs().max()), 1e-5
    )


@torch.no_grad()
def overlap_mends_borders() -> Finding:
    """Overlapping tiles are nearer to the whole image's features at the borders of tiles."""
    model = create_encoder("conv-pyramid", widths=(8, 16)).eval()

    def maps(x: Tensor) -> Tensor:
        return model(x).pyramid[-1]

    eyes = F.interpolate(torch.rand(2, 3, 32, 32), size=(256, 256), mode="bicubic")
    whole = maps(eyes)
    borders = [15, 16, 31, 32, 47, 48]

    def error(overlap: float) -> float:
        tiled = multiscale_features(maps, eyes, scales=[1], max_tile=64, overlap=overlap)
        return float((tiled - whole)[..., borders].square().mean())

    return Finding.at_most(
        "squared error at the borders of tiles: overlap of a quarter over none", error(0.25) / error(0.0), 0.5
    )


def cost_of_scales(side: int = 224) -> Iterator[Finding]:
    """Time and memory of scales 1 and 2 beside one scale, and of the big image at once."""
    shape = {"dim": 192, "depth": 6, "heads": 3, "patch": 16}
    model, direct = _Tokens(side, **shape), _Tokens(2 * side, **shape)
    images, big = torch.rand(2, 3, side, side), torch.rand(2, 3, 2 * side, 2 * side)
    work: dict[str, Callable[[], Any]] = {
        "one": partial(multiscale_features, model, images, scales=[1]),
        "two": partial(multiscale_features, model, images, scales=[1, 2], tile_batch=2),
        "direct": partial(direct, big),
    }
    with torch.no_grad():
        seconds = seconds_of(work, rounds=5)
    ratio = seconds["two"] / seconds["one"]
    yield Finding.fact(
        "scales 1 and 2 beside scale 1 (five times the tokens): time",
        4.5 <= ratio <= 5.8,
        expected="4.5 to 5.8 times",
        measured=f"{ratio:.2f} times",
    )
    tiled = seconds["two"] - seconds["one"]
    yield Finding.at_least(
        f"{2 * side} px at once over its four tiles: time for the same tokens", seconds["direct"] / tiled, 1.0
    )
    one, two, whole = (
        added_memory(_memory_work, scales, batch, side)
        for scales, batch in (([1], 8), ([1, 2], 8), ([1, 2], None))
    )
    claim = "peak memory of scales 1 and 2 in sub-batches of the batch, over that of scale 1"
    yield Finding.at_most(claim, two / one, 1.2)
    yield Finding.at_most("peak memory of sub-batches over that of all tiles at once", two / whole, 0.75)


def _memory_work(scales: list[float], tile_batch: int | None, side: int) -> Callable[[], Any]:
    torch.set_num_threads(1)
    # The width of ViT-B, which memory depends on; fewer layers, which it does not.
    model, images = _Tokens(side, dim=768, depth=2, heads=12, patch=16), torch.rand(8, 3, side, side)

    def work() -> None:
        with torch.no_grad():
            multiscale_features(model, images, scales=scales, tile_batch=tile_batch)

    multiscale_features(model, images[:1], scales=[1])  # what is made once is no part of a pass
    return work
