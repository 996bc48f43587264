"""The learning rate as a pure function of the step: nothing to save, nothing to resume."""

from __future__ import annotations

import math

from foveal.training.settings import TrainingSettings


def learning_rate_factor(settings: TrainingSettings, step: int) -> float:
    """Share of the peak learning rate that update number `step` uses.

    Linear warm-up reaches 1 at its last step; after it the cosine of SGDR without restarts
    (arXiv 1608.03983) falls to `minimum_factor` at the last step, or the rate stays, or it drops by
    `step_factor` each `step_every` steps.

    Args:
        settings: schedule, warm-up and number of steps.
        step: updates done before this one, from 0.

    Returns:
        Factor in [0, 1].
    """
    warmup = settings.warmup
    if step < warmup:
        return (step + 1) / warmup
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "step":
        return settings.step_factor ** ((step - warmup) // settings.step_every)
    progress = min(1.0, (step - warmup) / max(1, settings.steps - 1 - warmup))
    low = settings.minimum_factor
    return low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * progress))
