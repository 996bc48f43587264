"""Settings of the training loop."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from foveal.settings import Settings


class TrainingSettings(Settings):
    """All that the training loop can be told. One step is one update of the weights.

    `batch_size` counts the samples of one step over all processes and accumulation rounds, so that step t
    sees the same samples on one processor or on eight.
    """

    steps: int = Field(default=1000, ge=1, description="updates of the weights")
    batch_size: int = Field(default=16, ge=1, description="samples a step, over all processes and rounds")
    gradient_accumulation: int = Field(
        default=1, ge=1, description="rounds that one step's batch is cut into"
    )
    seed: int = Field(default=0, ge=0, description="seed of sample order, augmentation and dropout")

    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(
        default=0.01, ge=0, description="not applied to biases and norms (1-D parameters)"
    )
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="Adam's moment decays")
    epsilon: float = Field(default=1e-8, gt=0, description="Adam's denominator floor")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of SGD, Nesterov's when above 0")

    schedule: Literal["cosine", "constant", "step"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0, description="steps of linear warm-up")
    warmup_fraction: float = Field(default=0.0, ge=0, lt=1, description="the same as a share of `steps`")
    minimum_factor: float = Field(
        default=0.0, ge=0, le=1, description="last learning rate over the peak (cosine)"
    )
    step_every: int = Field(default=1000, ge=1, description="steps between drops (schedule 'step')")
    step_factor: float = Field(
        default=0.1, gt=0, le=1, description="what a drop multiplies by (schedule 'step')"
    )
    layer_decay: float | None = Field(
        default=None, gt=0, le=1, description="layer-wise factor, for hooks that call `layer_decay_groups`"
    )

    gradient_clip: float | None = Field(default=None, gt=0, description="largest gradient norm")
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    device: Literal["auto", "cpu"] = "auto"
    channels_last: bool = Field(default=False, description="store images and 2-D convolutions channels-last")
    find_unused_parameters: bool = Field(
        default=False, description="for DDP, when some losses skip parameters"
    )

    ema_decay: float | None = Field(
        default=None, ge=0, lt=1, description="average of the weights; None is off"
    )
    ema_warmup: bool = Field(default=True, description="bound the decay by (1 + t) / (10 + t) in early steps")

    evaluate_every: int | None = Field(
        default=None, ge=1, description="steps; None evaluates after the last only"
    )
    patience: int | None = Field(default=None, ge=1, description="evaluations without gain before stopping")
    minimum_gain: float = Field(
        default=0.0, ge=0, description="what the monitored figure has to gain to count"
    )
    final_weights: Literal["last", "best"] = Field(default="last", description="what the objective ends with")

    checkpoint_every: int | None = Field(
        default=None, ge=1, description="steps; None saves after the last only"
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="how many of the newest checkpoints stay")
    log_every: int = Field(default=20, ge=1, description="steps that one logged row averages")
    tensorboard: bool = Field(default=True, description="write TensorBoard events beside log.csv")
    workers: int = Field(default=0, ge=0, description="processes that load samples")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Refuse combinations that cannot be meant."""
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of gradient_accumulation "
                f"{self.gradient_accumulation}; every round takes an equal part of the batch"
            )
        if self.warmup_steps and self.warmup_fraction:
            raise ValueError("give warmup_steps or warmup_fraction, not both")
        if self.warmup >= self.steps:
            raise ValueError(f"warm-up of {self.warmup} steps leaves nothing of steps={self.steps}")
        for beta in self.betas:
            if not 0 <= beta < 1:
                raise ValueError(f"betas {self.betas} have to be in [0, 1)")
        return self

    @property
    def warmup(self) -> int:
        """Steps of linear warm-up, from whichever of the two settings was given."""
        return self.warmup_steps or round(self.warmup_fraction * self.steps)


FREE_ON_RESUME = frozenset(
    {"workers", "log_every", "checkpoint_every", "keep_checkpoints", "tensorboard", "find_unused_parameters"}
)
"""Settings that a resumed run may change: they touch speed or records, never the weights."""
