"""The one training loop: any objective, any data, resumed bit by bit after a kill (on CPU)."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file
from torch import Tensor, nn

from foveal.files import write_atomically
from foveal.objectives.base import Objective, check_losses
from foveal.training import checkpoints as saved
from foveal.training.averaging import WeightAverage
from foveal.training.devices import start_accelerator, to_device
from foveal.training.groups import build_optimizer, check_groups, decay_groups
from foveal.training.randomness import seed_everything, without_touching_randomness
from foveal.training.records import Row, RunRecord, check_finite, progress_line
from foveal.training.sampling import (
    IndexedDataset,
    SampledDataset,
    StreamPositions,
    check_weights,
    stream_loader,
)
from foveal.training.schedules import learning_rate_factor
from foveal.training.settings import TrainingSettings
from foveal.training.sharding import whole
from foveal.training.snapshots import (
    Best,
    Parts,
    RunState,
    check_continues,
    load_weights,
    put_back,
    take_snapshot,
)


@dataclass(frozen=True)
class TrainingResult:
    """What a run left behind; the trained weights are in the objective itself.

    Attributes:
        step: updates done.
        history: logged rows; losses are means since the row before, figures of the evaluation begin with
            `evaluation/`.
        best: best evaluation, or None when nothing was monitored.
        seconds: wall time over all its parts, interruptions left out.
        stopped_early: patience ran out before `steps`.
    """

    step: int
    history: list[Row]
    best: Best | None
    seconds: float
    stopped_early: bool


def fit(
    objective: Objective,
    data: SampledDataset | IndexedDataset,
    settings: TrainingSettings | None = None,
    *,
    folder: str | Path | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    monitor: str | None = None,
    direction: Literal["higher", "lower"] = "higher",
    parameter_groups: Callable[[nn.Module], list[dict[str, Any]]] | None = None,
    weights: Sequence[float] | Tensor | None = None,
    collate: Callable[[Sequence[Any]], Any] | None = None,
    progress: bool = True,
    resume: bool = True,
) -> TrainingResult:
    """Train `objective` on `data`.

    One process runs as it is; under `accelerate launch` (DDP, FSDP version 2) the same call shares each
    batch among the processes. Given the same objective, data and settings the result is the same, whatever
    the number of workers and however often the run was killed and resumed; on CPU to the last bit.

    Args:
        objective: owns the models to train. It ends with the averaged weights when `ema_decay` is set, or the
            best evaluated ones with `final_weights="best"`, else the last.
        data: map-style data set. Best is a method `sample(index, generator)` whose augmentation draws from
            `generator` alone; else `__getitem__`, around which the global generators are seeded.
        settings: see `TrainingSettings`.
        folder: of the run: checkpoints/, best.safetensors, settings.json, log.csv, tensorboard/. None writes
            nothing.
        evaluate: objective (in eval mode, without gradients, averaged weights) to figures. Called in each
            process; the first one's figures count. Draws no randomness from the training.
        monitor: figure of `evaluate` by which the best weights are told.
        direction: which way `monitor` improves.
        parameter_groups: objective to optimiser groups (`params`, `weight_decay`, `lr_scale`); default:
            no weight decay on 1-D parameters. See `layer_decay_groups`.
        weights: (len(data),) relative frequency of each sample, or the attribute `weights` of `data`.
        collate: samples to batch; default is torch's.
        progress: show a bar when the output is a terminal.
        resume: continue from the newest whole checkpoint in `folder`.

    Returns:
        History, best evaluation and time.

    Raises:
        ValueError: arguments that do not fit each other, or an objective that returns no scalar "loss".
        CheckpointError: the folder's run had other settings, data or weights; names the difference.
        FileExistsError: the folder holds a run and `resume` is False.
        FloatingPointError: the loss became NaN or infinite.
    """
    settings = settings or TrainingSettings()
    if direction not in ("higher", "lower"):
        raise ValueError(f"direction={direction!r}; allowed: 'higher', 'lower'")
    if monitor is not None and evaluate is None:
        raise ValueError(f"monitor={monitor!r} needs an evaluate function that returns this figure")
    if monitor is None and (settings.patience is not None or settings.final_weights == "best"):
        raise ValueError("patience and final_weights='best' need monitor, the name of an evaluated figure")
    if weights is None:
        weights = getattr(data, "weights", None)
    run = _Run(
        objective=objective,
        data=data,
        settings=settings,
        folder=None if folder is None else Path(folder),
        evaluate=evaluate,
        monitor=monitor,
        direction=direction,
        groups=(parameter_groups or (lambda model: decay_groups(model, settings.weight_decay)))(objective),
        weights=None if weights is None else check_weights(weights, len(data)),
        collate=collate,
    )
    with without_touching_randomness():
        try:
            return run.go(progress=progress, resume=resume)
        finally:
            run.close()


class _Run:
    """One call of `fit`: the pieces that its phases share."""

    def __init__(
        self,
        *,
        objective: Objective,
        data: SampledDataset | IndexedDataset,
        settings: TrainingSettings,
        folder: Path | None,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None,
        monitor: str | None,
        direction: str,
        groups: list[dict[str, Any]],
        weights: Any,
        collate: Callable[[Sequence[Any]], Any] | None,
    ) -> None:
        check_groups(objective, groups)
        self.objective, self.data, self.settings, self.folder = objective, data, settings, folder
        self.evaluate, self.monitor, self.sign = evaluate, monitor, 1.0 if direction == "higher" else -1.0
        self.weights, self.collate = weights, collate
        self.accelerator = start_accelerator(settings)
        if settings.channels_last:
            objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module, prepared = self.accelerator.prepare(objective, build_optimizer(groups, settings))
        self.optimizer = prepared.optimizer
        # the wrapper is needed for its scaler only, and costs 0.3 ms a step
        self.stepper = prepared if self.accelerator.scaler is not None else self.optimizer
        self.peak_rates = [group["lr"] * group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]
        decay = settings.ema_decay
        self.average = None if decay is None else WeightAverage(objective, decay, warmup=settings.ema_warmup)
        self.parts = Parts(self.accelerator, objective, self.optimizer, self.average)
        self.reads_out_freely = self.accelerator.device.type == "cpu" and self.accelerator.num_processes == 1
        self.losses_checked = False
        self.state = RunState()
        self.best_weights: dict[str, Tensor] | None = None
        self.record: RunRecord | None = None

    def go(self, *, progress: bool, resume: bool) -> TrainingResult:
        """Resume, train, and leave the final weights in the objective."""
        settings, accelerator = self.settings, self.accelerator
        seed_everything(settings.seed + accelerator.process_index)
        history = self._resume(resume)
        main = accelerator.is_main_process
        with without_touching_randomness():  # TensorBoard may draw names
            record = RunRecord(self.folder if main else None, history, tensorboard=settings.tensorboard)
        self.record, state = record, self.state
        positions = StreamPositions(
            len(self.data),
            seed=settings.seed,
            batch_size=settings.batch_size,
            rounds=settings.gradient_accumulation,
            first_step=state.step,
            last_step=settings.steps,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
            weights=self.weights,
        )
        loader = stream_loader(
            self.data,
            positions,
            workers=settings.workers,
            collate=self.collate,
            pin_memory=accelerator.device.type == "cuda",
        )
        began, before = time.perf_counter(), state.seconds
        title = type(self.objective).__name__
        with progress_line(title, total=settings.steps, done=state.step, shown=progress and main) as line:
            batches = iter(loader if state.step < settings.steps and not state.stopped else ())
            self.module.train()
            self.optimizer.zero_grad(set_to_none=True)
            while state.step < settings.steps and not state.stopped:
                rate = self._update(batches)
                state.step += 1
                state.seconds = before + time.perf_counter() - began
                line.advance()
                row = self._after_update(rate)
                if row:
                    record.add(row)
                    line.tell(row)
                if self._due(settings.checkpoint_every):
                    self._save()
        self._finish()
        return TrainingResult(
            step=state.step,
            history=record.history,
            best=state.best,
            seconds=state.seconds,
            stopped_early=state.stopped and state.step < settings.steps,
        )

    def close(self) -> None:
        """Flush the records and take the wrappers of mixed precision off the objective."""
        if self.record is not None:
            self.record.close()
        self.accelerator.unwrap_model(self.module, keep_fp32_wrapper=False)

    def _update(self, batches: Any) -> float:
        """One update of the weights; returns the share of the peak learning rate that it used."""
        accelerator, step = self.accelerator, self.state.step
        rate = learning_rate_factor(self.settings, step)
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * rate
        rounds = self.settings.gradient_accumulation
        totals: dict[str, Tensor] = {}
        for turn in range(rounds):
            batch = to_device(next(batches), accelerator.device, channels_last=self.settings.channels_last)
            with nullcontext() if turn == rounds - 1 else accelerator.no_sync(self.module):
                losses = self.module(batch)
                if not self.losses_checked:
                    check_losses(losses, self.objective)
                    self.losses_checked = True
                for name, value in losses.items():
                    part = value.detach().float()
                    totals[name] = part if turn == 0 else totals[name] + part
                accelerator.backward(losses["loss"] / rounds if rounds > 1 else losses["loss"])
        if rounds > 1:
            totals = {name: value / rounds for name, value in totals.items()}
        if self.reads_out_freely and not math.isfinite(totals["loss"].item()):
            check_finite(step, {name: value.item() for name, value in totals.items()})
        if self.settings.gradient_clip is not None:
            norm = accelerator.clip_grad_norm_(self.module.parameters(), self.settings.gradient_clip)
            totals |= whole({"gradient_norm": torch.as_tensor(norm).detach().float()})
        self.stepper.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(step)
        self.state.window.add(step, totals)
        return rate

    def _due(self, every: int | None) -> bool:
        """Whether what happens `every` so many steps, and after the last, happens now."""
        state = self.state
        periodic = every is not None and state.step % every == 0
        return periodic or state.step == self.settings.steps or state.stopped

    def _after_update(self, rate: float) -> Row:
        """Log and evaluate when it is time; returns the row to record, or an empty one."""
        settings, state = self.settings, self.state
        logs = self._due(settings.log_every)
        evaluates = self.evaluate is not None and self._due(settings.evaluate_every)
        if logs or evaluates or self._due(settings.checkpoint_every):
            state.window.settle(self._reduce_mean)  # so that no bad loss gets past a checkpoint
        row: Row = {}
        if logs:
            row = {
                "step": state.step,
                "epoch": state.step * settings.batch_size / len(self.data),
                "learning_rate": rate * settings.learning_rate,
                **state.window.means(),
            }
            state.window.clear()
        if evaluates:
            row |= {"step": state.step, **self._evaluate()}
        if row:
            row["seconds"] = round(state.seconds, 3)
        return row

    def _reduce_mean(self, table: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return table
        return self.accelerator.reduce(table, reduction="mean")

    def _evaluate(self) -> Row:
        """Evaluate the averaged weights, remember the best, and count what patience is left."""
        assert self.evaluate is not None
        state, settings = self.state, self.settings
        self.objective.eval()
        with self.average.in_place() if self.average else nullcontext(), without_touching_randomness():
            with torch.no_grad():
                figures = [{name: float(value) for name, value in self.evaluate(self.objective).items()}]
            broadcast_object_list(figures)
            if self.monitor is not None:
                if self.monitor not in figures[0]:
                    raise ValueError(
                        f"monitor={self.monitor!r} is not among the evaluated figures {sorted(figures[0])}"
                    )
                value = figures[0][self.monitor]
                best = state.best
                gained = best is None or self.sign * (value - best.value) > settings.minimum_gain
                if gained and not math.isnan(value):
                    state.best, state.evaluations_without_gain = Best(state.step, value), 0
                    self._keep_best()
                else:
                    state.evaluations_without_gain += 1
                state.stopped = state.evaluations_without_gain >= (settings.patience or math.inf)
        self.module.train()
        return {f"evaluation/{name}": value for name, value in figures[0].items()}

    def _keep_best(self) -> None:
        weights = whole(self.objective.state_dict())
        if self.folder is None:
            self.best_weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
        elif self.accelerator.is_main_process:
            saved.save_tensors(self.folder / "best.safetensors", weights)

    def _finish(self) -> None:
        """Leave the promised weights in the objective."""
        self.accelerator.wait_for_everyone()
        if self.settings.final_weights == "best" and self.state.best is not None:
            best = self.best_weights if self.folder is None else load_file(self.folder / "best.safetensors")
            assert best is not None
            load_weights(self.objective, best)
        elif self.average is not None:
            self.average.copy_to_model()

    def _conditions(self) -> dict[str, Any]:
        """What a resumed run must have in common with the saved one."""
        weights = None if self.weights is None else hashlib.sha256(self.weights.tobytes()).hexdigest()
        return {
            "objective": type(self.objective).__name__,
            "samples": len(self.data),
            "weights_sha256": weights,
            "monitor": self.monitor,
            "direction": "higher" if self.sign > 0 else "lower",
            "settings": self.settings.model_dump(mode="json"),
        }

    def _save(self) -> None:
        """Write a checkpoint of everything that the next step depends on."""
        if self.folder is None:
            return
        assert self.record is not None
        checkpoint = take_snapshot(self.parts, self.state, self.record.history, self._conditions())
        if self.accelerator.is_main_process:
            saved.save_checkpoint(
                self.folder / "checkpoints", checkpoint, keep=self.settings.keep_checkpoints
            )
        self.accelerator.wait_for_everyone()

    def _resume(self, resume: bool) -> list[Row]:
        """Continue from the newest whole checkpoint, if there is one; returns the rows logged before it."""
        if self.folder is None:
            return []
        folder = self.folder / "checkpoints"
        if not resume and saved.list_checkpoints(folder):
            raise FileExistsError(f"{folder} holds a run; resume it, remove it, or train into another folder")
        if self.accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            saved.remove_partial(folder)
            saved.remove_partial(self.folder)
        self.accelerator.wait_for_everyone()
        checkpoint = saved.newest_checkpoint(folder)
        if checkpoint is not None:
            check_continues(folder, checkpoint, self._conditions(), self.settings)
            self.state = put_back(self.parts, checkpoint)
        if self.accelerator.is_main_process:
            text = json.dumps(self._conditions()["settings"], indent=2)
            write_atomically(self.folder / "settings.json", text + "\n")
        return checkpoint.values["history"] if checkpoint is not None else []
