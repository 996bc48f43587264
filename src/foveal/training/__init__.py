"""The one training loop and what it needs."""

from foveal.training.groups import decay_groups, layer_decay_groups
from foveal.training.loop import Best, TrainingResult, fit
from foveal.training.settings import TrainingSettings

__all__ = ["Best", "TrainingResult", "TrainingSettings", "decay_groups", "fit", "layer_decay_groups"]
