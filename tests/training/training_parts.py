"""Small objective and data for the tests of the loop; as a script, a run that can be killed."""

import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from foveal.objectives.base import Batch, Objective
from foveal.training.loop import TrainingResult, fit
from foveal.training.settings import TrainingSettings


class TwoClasses(Objective):
    """Convolution, BatchNorm and dropout: weights, buffers and randomness that a resumed run must restore."""

    def __init__(self, *, fail_at_call: int | None = None, kill: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(
                nn.Conv2d(3, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Dropout(0.3),
                nn.Flatten(),
                nn.Linear(4 * 36, 2),
            )
        self.calls, self.fail_at_call, self.kill = 0, fail_at_call, kill

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if self.calls == self.fail_at_call:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise InterruptedError
        self.calls += 1
        loss = nn.functional.cross_entropy(self.network(batch["images"]), batch["labels"])
        return {"loss": loss, "double": 2 * loss}


class Stripes:
    """Eleven images of two classes, with noise drawn from the sample's generator."""

    def __len__(self) -> int:
        return 11

    def sample(self, index: int, generator: torch.Generator) -> dict:
        return {
            "images": torch.randn(3, 6, 6, generator=generator) + index % 2,
            "labels": index % 2,
            "ids": index,
        }


class GloballyRandomStripes:
    """The same with noise from all three global generators, as torchvision's transforms draw it."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> dict:
        noise = torch.randn(3, 6, 6) + float(np.random.rand()) + random.random()  # noqa: NPY002  the point
        return {"images": noise, "labels": index % 2}


BASE = TrainingSettings(
    steps=12,
    batch_size=4,
    gradient_accumulation=2,
    warmup_steps=3,
    ema_decay=0.9,
    gradient_clip=1.0,
    checkpoint_every=3,
    evaluate_every=4,
    log_every=5,
    tensorboard=False,
)


def mean_weight(model: nn.Module) -> dict[str, float]:
    """Figure that needs no data; draws randomness to show that the training does not notice."""
    torch.rand(3)
    random.random()
    return {"weight": float(sum(value.double().sum() for value in model.parameters()))}


def train(
    objective: Objective, folder: Path | None = None, settings: TrainingSettings = BASE
) -> TrainingResult:
    return fit(
        objective,
        Stripes(),
        settings,
        folder=folder,
        evaluate=mean_weight,
        monitor="weight",
        progress=False,
    )


def untimed(history: list[dict]) -> list[dict]:
    """Rows without the wall time, which no run repeats."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models hold the same bits."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(TwoClasses(fail_at_call=int(sys.argv[2]), kill=True), Path(sys.argv[1]))
