"""Official checkpoints into encoders: reading, recognising the layout, fitting it to the encoder."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any, TypeVar, cast
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from foveal.blocks.patches import LearnedPositions, PatchEmbed
from foveal.encoders.base import Encoder
from foveal.encoders.saving import WEIGHTS, open_model
from foveal.settings import unknown_name
from foveal.sparse_files import read_tensors

State = dict[str, Tensor]
Layout = Callable[[State], State | tuple[State, State | None]]
OWN = "foveal"  # the layout of the encoder itself

_L = TypeVar("_L", bound=Layout)
_LAYOUTS: dict[str, dict[str, Layout]] = {}
_WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state", "module", "network", "net", "params")
_PART = "encoder."  # of a whole model, the part that is its encoder
_PREFIXES = ("module.", "_orig_mod.", "model.")
_MAX_PREFIX_TOKENS = 17  # class, distillation and register tokens that a position table may begin with


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What `load_official` did.

    Attributes:
        layout: the layout that was recognised; "foveal" is the encoder's own.
        fitted: one line for each tensor that was resized or adapted: name, old shape, new shape. What timm
            resizes in its own layout is not among them.
        head: "weight" (classes, D) and perhaps "bias" (classes,) of the official classifier, or None.
        skipped: official and encoder keys that `skip` let pass.
    """

    layout: str
    fitted: tuple[str, ...] = ()
    head: State | None = None
    skipped: tuple[str, ...] = ()


def register_layout(encoder_name: str, layout_name: str) -> Callable[[_L], _L]:
    """Decorator of a function that turns an official state dict into that of our encoder.

    The function takes the unwrapped official tensors by name and returns the encoder's, or a pair of
    these and the classifier's {"weight": (classes, D), "bias": (classes,)} or None. Keys it does not know it
    passes on unchanged, so that they are named as unexpected; a checkpoint of another kind may raise
    KeyError or ValueError. Positions, patch kernels and input channels are fitted afterwards, not by it.

    Args:
        encoder_name: as in `register_encoder`.
        layout_name: what the layout is called, e.g. "official" or "mmpretrain".

    Raises:
        ValueError: the encoder has a layout of that name already.
    """

    def register(function: _L) -> _L:
        layouts = _LAYOUTS.setdefault(encoder_name, {})
        if layout_name in layouts or layout_name == OWN:
            raise ValueError(f"a layout {layout_name!r} of {encoder_name!r} is registered already")
        layouts[layout_name] = function
        return function

    return register


def layouts_of(encoder_name: str) -> dict[str, Layout]:
    """The registered layouts of an encoder by name; every encoder reads its own besides."""
    return dict(_LAYOUTS.get(encoder_name, {}))


def rename_keys(state: Mapping[str, Tensor], rules: Sequence[tuple[str, str | None]]) -> State:
    r"""Tensors under new names: what most layouts are.

    Args:
        state: tensors by name.
        rules: (regular expression, replacement) pairs, applied one after the other to each name with
            `re.sub`; a replacement of None drops the names in which the expression is found.

    Raises:
        ValueError: two names became the same.

    Example:
        >>> rename_keys({"blocks.0.attn.w": torch.zeros(1)}, [(r"^blocks\.(\d+)\.attn", r"layers.\1.mixer")])
        {'layers.0.mixer.w': tensor([0.])}
    """
    renamed: State = {}
    for old, tensor in state.items():
        name: str | None = old
        for pattern, replacement in rules:
            if replacement is not None:
                name = re.sub(pattern, replacement, cast(str, name))
            elif re.search(pattern, cast(str, name)):
                name = None
                break
        if name is None:
            continue
        if name in renamed:
            raise ValueError(f"two tensors of the checkpoint became {name!r}, one of them {old!r}")
        renamed[name] = tensor
    return renamed


def read_checkpoint(file: str | Path) -> dict[str, Any]:
    """The contents of a .safetensors or .npz file, or of a torch file of tensors and plain values only.

    Of a folder that foveal saved, an encoder or a model with one, they are the encoder's weights. Torch
    files are read with `weights_only=True`: no code in them is ever run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read, or holds more than tensors and plain values.
    """
    file = Path(file)
    if file.is_dir():
        return _saved_encoder(file)
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist; allowed: a .safetensors, .npz or torch file, or a folder of a saved "
            "model"
        )
    try:
        if file.suffix == ".safetensors":
            return dict(read_tensors(file))
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        # The settings that training scripts leave beside the weights: a plain bag of values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            contents = torch.load(file, map_location="cpu", weights_only=True)
    except (
        SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, BadZipFile, ValueError, TypeError
    ) as error:  # fmt: skip
        raise ValueError(
            f"{file} cannot be read as tensors and plain values: {error}. "
            "If you trust its origin, write its tensors to a .safetensors file first"
        ) from error
    if not isinstance(contents, dict):
        raise ValueError(f"{file} holds a {type(contents).__name__}; a dictionary of tensors is wanted")
    return contents


def _saved_encoder(folder: Path) -> dict[str, Any]:
    state = read_tensors(open_model(folder)[0] / WEIGHTS)
    inside = {name.removeprefix(_PART): value for name, value in state.items() if name.startswith(_PART)}
    return dict(inside or state)


def unwrap_state(contents: Mapping[str, Any], *, known: Sequence[str] = ()) -> State:
    """The tensors by name inside the usual wrappings ("model", "state_dict", names that begin "module.").

    Args:
        contents: of a checkpoint.
        known: names that are right as they stand; a prefix that such a name has is no wrapping.

    Raises:
        ValueError: there are no tensors.
    """
    while True:
        inner = next((contents[key] for key in _WRAPPERS if isinstance(contents.get(key), Mapping)), None)
        if inner is None:
            break
        contents = inner
    state = {str(name): value for name, value in contents.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"the checkpoint holds no tensors; its keys: {', '.join(map(str, contents))[:300]}")
    right = set(known)
    while True:
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None or not right.isdisjoint(state):
            return state
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def load_official(
    encoder: Encoder,
    checkpoint: str | Path | Mapping[str, Any],
    *,
    layout: str | None = None,
    skip: Sequence[str] = (),
) -> LoadedCheckpoint:
    """Load an official checkpoint into an encoder; nothing is changed where anything does not fit.

    Position tables and patch kernels are resized to the encoder at hand, and the first kernel is adapted to
    its number of input channels.

    Args:
        encoder: made with the settings of the checkpoint, but for image size, patch size and channels.
        checkpoint: a file (.safetensors, .npz, or a torch file, read for tensors only), its contents, or the
            folder of a model that foveal saved.
        layout: of the checkpoint; recognised by its keys where None.
        skip: regular expressions of official or encoder keys that need not fit, e.g. r"^decoder_".

    Raises:
        FileNotFoundError: no such file.
        ValueError: the layout is not known, or keys are missing, unexpected or misshapen; all are named.
    """
    contents = read_checkpoint(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
    wanted = encoder.state_dict()
    state = unwrap_state(contents, known=list(wanted))
    name, converted, head = _convert(encoder, state, layout)
    skipped = sorted(
        key for key in converted.keys() ^ wanted.keys() if any(re.search(pattern, key) for pattern in skip)
    )
    converted = {key: tensor for key, tensor in converted.items() if key not in skipped}
    fitted: list[str] = []
    for key, tensor in converted.items():
        if key in wanted and tensor.shape != wanted[key].shape:
            resized = _fit(encoder, key, tensor, wanted[key])
            if resized is not None:
                converted[key] = resized
                fitted.append(f"{key}: {tuple(tensor.shape)} to {tuple(resized.shape)}")
    _complain(encoder, name, converted, wanted, skipped)
    encoder.load_state_dict(converted, strict=False)
    return LoadedCheckpoint(name, tuple(fitted), head, tuple(skipped))


def _convert(encoder: Encoder, state: State, layout: str | None) -> tuple[str, State, State | None]:
    """Name of the layout, tensors by our names, and the classifier; of several layouts the best fitting."""
    layouts: dict[str, Layout] = {OWN: dict, **encoder.official_layouts()}
    if layout is not None and layout not in layouts:
        raise ValueError(unknown_name(f"layout of {type(encoder).__name__}", layout, list(layouts)))
    if layout is not None:
        try:
            return (layout, *_pair(layouts[layout](dict(state))))
        except KeyError as error:
            raise ValueError(
                f"the checkpoint has no {error}, "
                f"which the layout {layout!r} of {type(encoder).__name__} wants"
            ) from error
    wanted = encoder.state_dict().keys()
    found: dict[str, tuple[int, State, State | None]] = {}
    for name, convert in layouts.items():
        try:
            converted, head = _pair(convert(dict(state)))
        except (KeyError, ValueError):
            continue
        # Keys in common, less those that are not: the layout that explains the most of the checkpoint.
        found[name] = (2 * len(wanted & converted.keys()) - len(wanted ^ converted.keys()), converted, head)
    best = max(found, key=lambda name: found[name][0])
    if not wanted & found[best][1].keys():
        raise ValueError(
            f"the checkpoint's layout is none that {type(encoder).__name__} reads ({', '.join(layouts)}): "
            f"its keys begin {', '.join(list(state)[:5])}; allowed are checkpoints of this encoder; "
            "`register_layout` adds a layout"
        )
    return (best, *found[best][1:])


def _pair(converted: State | tuple[State, State | None]) -> tuple[State, State | None]:
    return converted if isinstance(converted, tuple) else (converted, None)


def _fit(encoder: Encoder, key: str, tensor: Tensor, target: Tensor) -> Tensor | None:
    """`tensor` in the shape of `target` where it is a position table or a first kernel, else None."""
    owner = encoder.get_submodule(key.rpartition(".")[0])
    if isinstance(owner, LearnedPositions) or "pos" in key.rpartition(".")[2]:
        return _fit_positions(tensor, target, owner.grid if isinstance(owner, LearnedPositions) else None)
    if tensor.ndim == target.ndim == 4 and owner in _first_convolutions(encoder):
        return _fit_kernel(tensor, target)
    return None


def _fit_positions(table: Tensor, target: Tensor, grid: tuple[int, int] | None) -> Tensor | None:
    """A (1, [prefix +] h w, D), (1, h, w, D) or (1, D, h, w) table at another grid, or None."""
    if table.ndim == target.ndim == 4 and table.shape[0] == target.shape[0] == 1:
        if table.shape[1] == target.shape[1]:
            return _fit_map(table, target.shape[2:])
        if table.shape[3] == target.shape[3]:
            return _fit_map(table.movedim(3, 1), target.shape[1:3]).movedim(1, 3).contiguous()
        return None
    if table.ndim != 3 or target.ndim != 3 or table.shape[::2] != target.shape[::2]:
        return None
    from timm.layers.pos_embed import resample_abs_pos_embed  # timm is slow to import

    for prefix in range(_MAX_PREFIX_TOKENS):
        old, new = table.shape[1] - prefix, target.shape[1] - prefix
        if old < 1 or new < 1:
            return None
        fits = grid is not None and new == grid[0] * grid[1]
        if isqrt(old) ** 2 == old and (fits or (grid is None and isqrt(new) ** 2 == new)):
            sides = list(grid) if grid is not None else [isqrt(new)] * 2
            return resample_abs_pos_embed(table, sides, [isqrt(old)] * 2, num_prefix_tokens=prefix)
    return None


def _fit_map(table: Tensor, grid: Sequence[int]) -> Tensor:
    """(1, D, h, w) positions at another grid, by the same interpolation as tables of tokens."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    old = [table.shape[2], table.shape[3]]
    tokens = resample_abs_pos_embed(table.flatten(2).mT, list(grid), old, num_prefix_tokens=0)
    return tokens.mT.unflatten(2, tuple(grid)).contiguous()


def _first_convolutions(encoder: Encoder) -> list[nn.Module]:
    """The convolutions that see the image: every `PatchEmbed` of its channels, else the very first one."""
    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    patches: list[nn.Module] = [
        m for m in convolutions if isinstance(m, PatchEmbed) and m.in_channels == encoder.in_channels
    ]
    return patches or list(convolutions[:1])


def _fit_kernel(kernel: Tensor, target: Tensor) -> Tensor | None:
    """A first kernel (O, I, k, k) for other channels (timm's rule) and another patch size (FlexiViT's)."""
    from timm.layers.patch_embed import resample_patch_embed
    from timm.models import adapt_input_conv

    if kernel.shape[0] != target.shape[0]:
        return None
    if kernel.shape[1] != target.shape[1]:
        kernel = adapt_input_conv(target.shape[1], kernel, base_chans=kernel.shape[1])
    if kernel.shape[2:] != target.shape[2:]:
        kernel = resample_patch_embed(kernel, list(target.shape[2:]))
    return kernel.contiguous()


def _complain(encoder: Encoder, layout: str, state: State, wanted: State, skipped: Sequence[str]) -> None:
    """Raise a ValueError that names every key that does not fit, with shapes."""
    missing = [
        f"{key} {tuple(wanted[key].shape)}"
        for key in wanted
        if key not in state and key not in skipped and not key.endswith("num_batches_tracked")
    ]
    unexpected = [f"{key} {tuple(tensor.shape)}" for key, tensor in state.items() if key not in wanted]
    misshapen = [
        f"{key} {tuple(tensor.shape)}, {tuple(wanted[key].shape)} is wanted"
        for key, tensor in state.items()
        if key in wanted and tensor.shape != wanted[key].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
    if missing or unexpected or misshapen:
        listed = "".join(
            f"\n  {len(keys)} {kind}: " + "; ".join(keys[:20]) + (" …" if len(keys) > 20 else "")
            for kind, keys in kinds
            if keys
        )
        raise ValueError(
            f"the checkpoint (layout {layout!r}) does not fit {type(encoder).__name__}; check its settings, "
            f"or name keys that need not fit in skip=:{listed}"
        )
