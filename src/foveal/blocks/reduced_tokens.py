"""Vision transformers that drop and fuse tokens between attention and MLP (EViT, arXiv 2202.07800).

    change_model(encoder, "reduced-tokens", at=[3, 6, 9], keep_rate=0.7)

The weights and their names stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from foveal.blocks.changes import register_change
from foveal.blocks.reduced_block import ReducedBlock, Score, transformer_of
from foveal.blocks.token_selection import (
    Stage,
    TokenSelection,
    TokenTrack,
    Unpool,
    check_keep_rate,
    keep_rate_at,
    original_places,
)
from foveal.settings import unknown_name


def default_places(depth: int) -> list[int]:
    """Blocks that drop tokens where none are told: a quarter, a half and three quarters of the way."""
    return sorted({depth // 4, depth // 2, 3 * depth // 4})


@register_change("reduced-tokens")
def reduce_tokens(
    model: nn.Module,
    *,
    at: Sequence[int] | None = None,
    keep_rate: float | Sequence[float] = 0.7,
    fuse: bool = True,
    score: Score | None = None,
    unpool: Unpool = "own",
) -> None:
    """Have blocks of a vision transformer drop tokens, in place; `change_model` notes it for saving.

    Behind the last block the tokens are on the whole grid again, in the order of the patches, so dense heads
    work as before.

    Args:
        model: an encoder, or a timm or transformers model; see `reduced_block.SUITED`.
        at: indices of the blocks, from 0; None takes those of `default_places`.
        keep_rate: share of the tokens that each of them keeps, or one for each of `at`.
        fuse: put the others of each into one token, weighted by their attention.
        score: "class", the attention of the class token; "received", the mean attention that a token gets;
            None takes the class token's where there is one. Register tokens and a distillation token are
            never dropped and do not rank.
        unpool: what a patch that was dropped has in the end, see `TokenTrack`.

    Raises:
        ValueError: a model that does not suit, blocks that it does not have, a keep rate out of range, or
            settings that exclude each other.
    """
    found = transformer_of(model)
    depth = len(found.blocks)
    places = default_places(depth) if at is None else list(at)
    if not places or places != sorted(set(places)) or not 0 <= places[0] <= places[-1] < depth:
        raise ValueError(f"at is {places}; allowed: rising indices of blocks, 0 to {depth - 1}")
    rates = list(keep_rate) if isinstance(keep_rate, Sequence) else [keep_rate] * len(places)
    if len(rates) != len(places):
        raise ValueError(f"{len(rates)} keep rates for {len(places)} blocks; give one, or one for each")
    for rate in rates:
        check_keep_rate(rate)
    score = score or ("class" if found.class_token else "received")
    if score not in get_args(Score):
        raise ValueError(unknown_name("score", score, get_args(Score)))
    if score == "class" and not found.class_token:
        raise ValueError("the model has no class token; score='received' ranks tokens without one")
    if unpool == "fused" and not fuse:
        raise ValueError("unpool='fused' needs fuse=True; without it take unpool='own'")
    _check_whole_passes(model)
    track = TokenTrack(unpool=unpool, prefix=found.prefix)
    for number, (place, rate) in enumerate(zip(places, rates, strict=True)):
        found.blocks[place] = ReducedBlock(
            found.blocks[place],
            index=place,
            selection=TokenSelection(keep_rate=rate, fuse=fuse, prefix=found.prefix),
            track=track,
            first=number == 0,
            score=score,
        )
    found.blocks[depth - 1].register_forward_hook(track.finish)


def _check_whole_passes(model: nn.Module) -> None:
    for module in model.modules():
        if dict(getattr(module, "settings", None) or {}).get("out_indices"):
            raise ValueError(
                "the encoder reads maps of layers by out_indices, which have fewer tokens once they are "
                "reduced; make it without out_indices: its last map stays whole"
            )
        if getattr(module, "grad_checkpointing", False) or getattr(module, "gradient_checkpointing", False):
            raise ValueError("blocks are computed again in the backward pass; switch checkpointing off first")


def reduced_blocks(model: nn.Module) -> list[ReducedBlock]:
    """The blocks of a model that drop tokens, in order.

    Raises:
        ValueError: there are none.
    """
    found = [module for module in model.modules() if isinstance(module, ReducedBlock)]
    if not found:
        raise ValueError(
            f'{type(model).__name__} keeps all its tokens; see change_model(…, "reduced-tokens")'
        )
    return found


@contextmanager
def keeping(
    model: nn.Module, keep_rate: float | Sequence[float] | None = None, *, tokens: int | None = None
) -> Iterator[None]:
    """Keep another share or number of tokens inside, in training and in evaluation.

    Args:
        model: with reduced tokens. Blocks whose own keep rate is 1, and all that were not changed, never
            drop any.
        keep_rate: for all its blocks that drop tokens, or one for each block of the transformer.
        tokens: absolute number, in place of a share.

    Raises:
        ValueError: both or neither, a rate out of range, too few rates; in a pass, more tokens than there
            are.
    """
    blocks = reduced_blocks(model)
    if (keep_rate is None) == (tokens is None):
        raise ValueError("give either keep_rate or tokens")
    if isinstance(keep_rate, Sequence):
        if len(keep_rate) <= blocks[-1].index:
            raise ValueError(f"{len(keep_rate)} keep rates; give one for each block of the transformer")
        rates = [keep_rate[block.index] for block in blocks]
    else:
        rates = [1.0 if keep_rate is None else keep_rate] * len(blocks)
    for rate in rates:
        check_keep_rate(rate)
    before = [(block.selection.current, block.selection.tokens) for block in blocks]
    try:
        for block, rate in zip(blocks, rates, strict=True):
            block.selection.current, block.selection.tokens = rate, tokens
        yield
    finally:
        for block, (current, count) in zip(blocks, before, strict=True):
            block.selection.current, block.selection.tokens = current, count


def warm_up_keep_rate(model: nn.Module, *, start: int = 0, steps: int = 0) -> RemovableHandle:
    """Lower the keep rates pass by pass of training, see `keep_rate_at`; evaluation takes the current ones.

    Args:
        model: with reduced tokens.
        start: passes in training mode before they fall.
        steps: passes that the fall takes.

    Returns:
        What ends it: `.remove()`, after which the rates stay where they are; see `settle_keep_rate`.

    Raises:
        ValueError: see `keep_rate_at` and `reduced_blocks`.
    """
    blocks, done = reduced_blocks(model), [0]

    def lower(_block: nn.Module, _inputs: Any) -> None:
        if blocks[0].training and torch.is_grad_enabled():
            for block in blocks:
                selection = block.selection
                selection.current = keep_rate_at(done[0], base=selection.keep_rate, start=start, steps=steps)
            done[0] += 1

    for block in blocks:
        block.selection.current = keep_rate_at(0, base=block.selection.keep_rate, start=start, steps=steps)
    return blocks[0].register_forward_pre_hook(lower)


def settle_keep_rate(model: nn.Module) -> None:
    """Take the keep rates that the model was made with, as after a warm-up."""
    for block in reduced_blocks(model):
        block.selection.current = block.selection.keep_rate


@contextmanager
def stages_tapped(model: nn.Module) -> Iterator[list[Stage]]:
    """Collect what each block that drops tokens keeps in a pass; blocks that keep all are left out.

    Yields:
        A list that fills as the model runs; `original_places` tells the patches.
    """
    stages: list[Stage] = []

    def reader(block: ReducedBlock) -> Any:
        def read(_selection: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
            stages.append(Stage(block.index, output[1], output[2], block.selection.fuse))

        return read

    handles = [block.selection.register_forward_hook(reader(block)) for block in reduced_blocks(model)]
    try:
        yield stages
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def kept_patches(model: nn.Module, images: Tensor) -> tuple[list[Stage], Tensor]:
    """Which patches go on as themselves behind each selection.

    Args:
        model: with reduced tokens, in evaluation mode.
        images: (B, C, H, W) as the model takes them.

    Returns:
        The S stages and a mask (S, B, n) of the patches, row-major over their grid.

    Raises:
        ValueError: no block drops tokens.
    """
    with stages_tapped(model) as stages:
        model(images)
    if not stages:
        raise ValueError("every block keeps all its tokens; a keep rate below 1 drops some")
    patches = stages[0].kept.shape[1] + stages[0].dropped.shape[1]
    masks = []
    for kept in original_places(stages):
        mask = torch.zeros(len(kept), patches + 1, dtype=torch.bool, device=kept.device)
        masks.append(mask.scatter(1, kept.where(kept >= 0, patches), True)[:, :patches])
    return stages, torch.stack(masks)
