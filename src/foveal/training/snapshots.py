"""A running training as a checkpoint, and back: all that the next step depends on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from foveal.training.averaging import WeightAverage
from foveal.training.checkpoints import Checkpoint, CheckpointError, load_optimizer_tensors, optimizer_tensors
from foveal.training.randomness import capture_randomness, restore_randomness
from foveal.training.records import LossWindow, Row
from foveal.training.schedules import learning_rate_factor
from foveal.training.settings import FREE_ON_RESUME, TrainingSettings
from foveal.training.sharding import placed_like, whole


@dataclass(frozen=True)
class Best:
    """Best evaluation of a run: after how many steps, and the monitored figure."""

    step: int
    value: float


@dataclass
class RunState:
    """What changes from step to step, besides tensors.

    Attributes:
        step: updates done.
        best: best evaluation so far.
        evaluations_without_gain: since the best one.
        stopped: patience ran out.
        seconds: wall time of all parts of the run.
        window: losses since the last logged row.
    """

    step: int = 0
    best: Best | None = None
    evaluations_without_gain: int = 0
    stopped: bool = False
    seconds: float = 0.0
    window: LossWindow = field(default_factory=LossWindow)


@dataclass
class Parts:
    """The tensors' owners: the objective as the caller gave it, its optimiser and its running average."""

    accelerator: Accelerator
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None


def take_snapshot(
    parts: Parts, state: RunState, history: list[Row], conditions: dict[str, Any]
) -> Checkpoint:
    """Collect a checkpoint; every process has to call this.

    Args:
        parts: whose tensors are saved.
        state: of the loop.
        history: logged rows.
        conditions: what a run that continues must have in common with this one; see `check_continues`.

    Returns:
        Checkpoint with the random states of all processes.
    """
    scaler = parts.accelerator.scaler
    ranks = gather_object([capture_randomness()])
    tensors = {
        "model": whole(parts.objective.state_dict()),
        "optimizer": whole(optimizer_tensors(parts.objective, parts.optimizer)),
        "random": {
            f"{rank}/{name}": value for rank, (own, _) in enumerate(ranks) for name, value in own.items()
        },
    }
    if parts.average is not None:
        tensors["average"] = whole(parts.average.state())
    values = {
        "conditions": conditions,
        "history": history,
        "window": state.window.entries,
        "best": None if state.best is None else [state.best.step, state.best.value],
        "evaluations_without_gain": state.evaluations_without_gain,
        "stopped": state.stopped,
        "seconds": state.seconds,
        "random": [own for _, own in ranks],
        "scaler": None if scaler is None else scaler.state_dict(),
        "torch": str(torch.__version__),
    }
    return Checkpoint(step=state.step, tensors=tensors, values=values)


def put_back(parts: Parts, checkpoint: Checkpoint) -> RunState:
    """Restore weights, optimiser, average and random generators; returns the loop's state.

    Raises:
        CheckpointError: the tensors do not fit the objective.
    """
    tensors, values, accelerator = checkpoint.tensors, checkpoint.values, parts.accelerator
    try:
        load_weights(parts.objective, tensors["model"])
        load_optimizer_tensors(parts.objective, parts.optimizer, tensors["optimizer"])
        if parts.average is not None:
            parts.average.load(tensors["average"])
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"the weights saved at step {checkpoint.step} do not fit: {error}") from error
    if accelerator.scaler is not None and values["scaler"] is not None:
        accelerator.scaler.load_state_dict(values["scaler"])
    if len(values["random"]) == accelerator.num_processes:
        own = f"{accelerator.process_index}/"
        states = {name.removeprefix(own): t for name, t in tensors["random"].items() if name.startswith(own)}
        restore_randomness(states, values["random"][accelerator.process_index])
    else:
        warnings.warn(
            f"the run was saved by {len(values['random'])} processes and continues on "
            f"{accelerator.num_processes}: its samples stay the same, its dropout does not",
            stacklevel=2,
        )
    return RunState(
        step=checkpoint.step,
        best=None if values["best"] is None else Best(*values["best"]),
        evaluations_without_gain=values["evaluations_without_gain"],
        stopped=values["stopped"],
        seconds=values["seconds"],
        window=LossWindow(values["window"]),
    )


def load_weights(model: nn.Module, state: dict[str, Any]) -> None:
    """Load whole tensors into a model, sharded or not.

    Raises:
        RuntimeError: names or shapes differ; lists them.
    """
    own = model.state_dict()
    fits = {name: own[name].shape == value.shape for name, value in state.items() if name in own}
    model.load_state_dict(
        {name: placed_like(value, own[name]) if fits.get(name) else value for name, value in state.items()}
    )


def check_continues(
    folder: Path, checkpoint: Checkpoint, now: dict[str, Any], settings: TrainingSettings
) -> None:
    """Refuse to continue a run under conditions that would make it another run.

    `FREE_ON_RESUME` settings may differ. `steps` may, as long as the learning rate of the steps already done
    stays what it was (constant and step schedules; a cosine stretches with `steps`).

    Raises:
        CheckpointError: names everything that differs.
    """
    then = checkpoint.values["conditions"]
    differ = [
        f"{name}: saved {then.get(name)!r}, now {now[name]!r}"
        for name in now
        if name != "settings" and then.get(name) != now[name]
    ]
    old, new = then["settings"], now["settings"]
    for name in sorted(old.keys() | new.keys()):
        if name in FREE_ON_RESUME or old.get(name) == new.get(name):
            continue
        told = f"setting {name!r}: saved {old.get(name)!r}, now {new.get(name)!r}"
        if name == "steps":
            if _same_rates(settings.replace(steps=old["steps"]), settings, checkpoint.step):
                continue
            told += f" (the {checkpoint.step} steps already done would have had other learning rates)"
        differ.append(told)
    if differ:
        raise CheckpointError(
            f"{folder} holds a run under other conditions: {'; '.join(differ)}. Restore them, or train into "
            "another folder"
        )


def _same_rates(old: TrainingSettings, new: TrainingSettings, done: int) -> bool:
    rates = ((learning_rate_factor(old, step), learning_rate_factor(new, step)) for step in range(done))
    return new.steps >= done and all(before == after for before, after in rates)
