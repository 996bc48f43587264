"""Checkpoints that a kill cannot spoil: safetensors and JSON, written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foveal.files import file_sha256, write_atomically
from foveal.training.sharding import placed_like

_FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")
_SEPARATOR = "|"  # between a parameter's name and the optimiser's; no module name contains it


class CheckpointError(ValueError):
    """A checkpoint does not fit the run that wants to continue from it."""


@dataclass(frozen=True)
class Checkpoint:
    """One saved moment of a run.

    Attributes:
        step: updates done.
        tensors: file stem to named tensors (`model`, `optimizer`, `random`, with averaging `average`).
        values: everything else, as JSON values.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    values: dict[str, Any]


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file through a temporary one beside it; tied tensors are written once a name."""
    seen: set[int] = set()
    ready: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        shares = own.numel() > 0 and own.untyped_storage().data_ptr() in seen
        ready[name] = own.clone() if shares else own
        seen.add(ready[name].untyped_storage().data_ptr())
    write_atomically(path, lambda partial: save_file(ready, partial))


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write `folder/step-NNNNNNNN` and remove all but the newest `keep` checkpoints.

    The files are written and synchronised under another name; one rename makes the checkpoint appear.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{checkpoint.step:08d}"
    partial = folder / f".{final.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    digests = {}
    for stem, tensors in checkpoint.tensors.items():
        path = partial / f"{stem}.safetensors"
        save_tensors(path, tensors)
        _flush(path)
        digests[path.name] = file_sha256(path)
    head = {"format": _FORMAT, "step": checkpoint.step, "sha256": digests}
    (partial / "state.json").write_text(json.dumps(head | {"values": checkpoint.values}), encoding="utf-8")
    _flush(partial / "state.json")
    _flush(partial)
    if final.exists():  # a spoilt one, passed over when the run resumed
        shutil.rmtree(final)
    os.replace(partial, final)
    _flush(folder)
    for old in list_checkpoints(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first, whole or not."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint folder.

    Raises:
        CheckpointError: a file is missing, cut short or altered; the message says which.
    """
    try:
        head = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if head["format"] != _FORMAT:
            raise CheckpointError(f"{path}: format {head['format']}, this version reads {_FORMAT}")
        tensors = {}
        for name, digest in head["sha256"].items():
            if file_sha256(path / name) != digest:
                raise CheckpointError(f"{path / name}: content differs from its recorded SHA-256")
            tensors[Path(name).stem] = load_file(path / name)
        return Checkpoint(step=int(head["step"]), tensors=tensors, values=head["values"])
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {type(error).__name__}: {error}") from error


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Newest checkpoint that is whole; each spoilt one that is passed over is named in a warning."""
    for path in list_checkpoints(folder):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            warnings.warn(f"checkpoint passed over, trying the one before it: {error}", stacklevel=2)
    return None


def remove_partial(folder: Path) -> None:
    """Remove what earlier, killed writes left behind."""
    for path in folder.glob(".*.partial"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimiser state by parameter name: `encoder.weight|exp_avg` and so on."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                if value is not None:  # SGD before its first momentum
                    name = f"{names[id(parameter)]}{_SEPARATOR}{key}"
                    tensors[name] = value if isinstance(value, Tensor) else torch.tensor(value)
    return tensors


@torch.no_grad()
def load_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave, in the memory layout of each parameter.

    Raises:
        CheckpointError: a name or shape belongs to no parameter of the optimiser.
    """
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    state: dict[Tensor, dict[str, Tensor]] = {}
    for full_name, value in tensors.items():
        name, key = full_name.rsplit(_SEPARATOR, 1)
        parameter = parameters.get(name)
        if parameter is None or id(parameter) not in held:
            raise CheckpointError(
                f"the checkpoint has optimiser state of {name!r}, which is not trained here"
            )
        if value.ndim == 0:  # the step counter lives where the fused kernels look for it
            own = value.to(parameter.device, copy=True)
        elif value.shape == parameter.shape:
            own = placed_like(value, parameter)
        else:
            raise CheckpointError(
                f"optimiser state {full_name!r} has shape {tuple(value.shape)}, the parameter "
                f"{tuple(parameter.shape)}"
            )
        state.setdefault(parameter, {})[key] = own
    optimizer.state.clear()
    for parameter, entries in state.items():
        optimizer.state[parameter] = entries


def _flush(path: Path) -> None:
    """Ask the system to put a file or folder entry on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
