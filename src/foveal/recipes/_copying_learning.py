"""Copying tasks (Mamba, arXiv 2312.00752): give symbols, at random places or at a fixed lag, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.sequence_operators import SequenceOperator, create_operator
from foveal.objectives.base import Batch, Objective
from foveal.training import TrainingSettings, fit
from foveal.training.randomness import without_touching_randomness


@dataclass(frozen=True)
class CopyingTask:
    """Sequences of symbols among noise, then a marker for each symbol, at which it is to be given.

    Attributes:
        length: tokens before the markers.
        symbols: of each sequence.
        kinds: of symbols; chance is 1 / kinds.
        lag: places between a symbol and the marker that asks for it, when it is fixed; None puts the symbols
            at random places, in order.
    """

    length: int
    symbols: int = 8
    kinds: int = 8
    lag: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.symbols <= self.length or self.kinds < 2:
            raise ValueError(
                f"{self.symbols} symbols of {self.kinds} kinds in {self.length} tokens; allowed: 1 or more, "
                "at most as many as tokens, of 2 or more kinds"
            )
        if self.lag is not None and not self.symbols <= self.lag <= self.length:
            raise ValueError(f"lag={self.lag}; allowed: {self.symbols} (symbols) to {self.length} (tokens)")

    @property
    def vocabulary(self) -> int:
        """Kinds of tokens: those of symbols, then noise, then the marker."""
        return self.kinds + 2

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Tokens (count, length + symbols) and the symbols to be given (count, symbols), both int64."""
        wanted = torch.randint(self.kinds, (count, self.symbols), generator=generator)
        if self.lag is None:
            places = torch.rand(count, self.length, generator=generator).topk(self.symbols).indices
            places = places.sort(dim=1).values
        else:
            places = torch.arange(self.symbols).expand(count, -1) + (self.length - self.lag)
        tokens = torch.full((count, self.length + self.symbols), self.kinds)
        tokens.scatter_(1, places, wanted)
        tokens[:, self.length :] = self.kinds + 1
        return tokens, wanted


class CopyingModel(nn.Module):
    """Embedded tokens through blocks of a norm, an operator and a residual, to logits of symbols.

    Args:
        operator: name in `foveal.blocks.sequence_operators.OPERATORS`.
        task: gives the vocabulary.
        dim: width.
        depth: blocks.
        **settings: of the operator.
    """

    def __init__(
        self, operator: str, task: CopyingTask, *, dim: int = 64, depth: int = 2, **settings: Any
    ) -> None:
        super().__init__()
        self.symbols = task.symbols
        self.embed = nn.Embedding(task.vocabulary, dim)
        self.norms = nn.ModuleList(nn.RMSNorm(dim) for _ in range(depth))
        self.operators = nn.ModuleList(create_operator(operator, dim, **settings) for _ in range(depth))
        self.norm, self.head = nn.RMSNorm(dim), nn.Linear(dim, task.kinds)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) tokens to logits (B, symbols, kinds) at the markers."""
        x = self.embed(tokens)
        for norm, operator in zip(self.norms, self.operators, strict=True):
            x = x + cast(SequenceOperator, operator).output(norm(x))
        return self.head(self.norm(x[:, -self.symbols :]))


class CopyingObjective(Objective):
    """Cross-entropy of the symbols at the markers; reads `tokens` (B, L) and `labels` (B, symbols)."""

    def __init__(self, model: CopyingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The mean over symbols."""
        logits = self.model(batch["tokens"])
        return {"loss": F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())}


@dataclass(frozen=True)
class DrawnBatches:
    """Whole batches drawn anew for every step, as the training loop asks for them."""

    task: CopyingTask
    batch_size: int
    steps: int

    def __len__(self) -> int:
        return self.steps

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The batch of one step."""
        tokens, wanted = self.task.draw(self.batch_size, generator)
        return {"tokens": tokens, "labels": wanted}


def only(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The one sample, which is a batch already."""
    (batch,) = samples
    return batch


def copying_accuracy(
    operator: str,
    task: CopyingTask,
    *,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    dim: int = 64,
    depth: int = 2,
    seed: int = 0,
    tested: int = 512,
    **settings: Any,
) -> float:
    """Train a small model on fresh sequences, and tell the share of symbols that it gives right on new ones.

    AdamW without weight decay, a tenth of warm-up, then a cosine; gradients clipped at 1.

    Args:
        operator: name in the registry.
        task: what to copy.
        steps: updates of the weights.
        batch_size: sequences a step.
        learning_rate: its peak.
        dim: width of the model.
        depth: blocks.
        seed: of weights and sequences.
        tested: new sequences.
        **settings: of the operator.
    """
    options = TrainingSettings(
        steps=steps,
        batch_size=1,  # a sample is a whole batch
        learning_rate=learning_rate,
        weight_decay=0.0,
        warmup_fraction=0.1 if steps >= 10 else 0.0,
        gradient_clip=1.0,
        seed=seed,
        log_every=steps,
        tensorboard=False,
    )
    with without_touching_randomness():
        torch.manual_seed(seed)
        model = CopyingModel(operator, task, dim=dim, depth=depth, **settings)
        data = DrawnBatches(task, batch_size, steps)
        fit(CopyingObjective(model), data, options, collate=only, progress=False)
        tokens, wanted = task.draw(tested, torch.Generator().manual_seed(seed + 1_000_003))
        return symbols_right(model, tokens, wanted)


@torch.inference_mode()
def symbols_right(model: nn.Module, tokens: Tensor, wanted: Tensor, *, batch_size: int = 128) -> float:
    """Share of the symbols (B, symbols) that a model gives right."""
    model.eval()
    given = torch.cat([model(part).argmax(dim=-1) for part in tokens.split(batch_size)])
    return float((given == wanted).double().mean())


def width_of_equal_parameters(operator: str, task: CopyingTask, wanted: int, *, depth: int = 2) -> int:
    """The width whose model has the number of parameters nearest to `wanted`."""

    def off(dim: int) -> int:
        with torch.device("meta"):
            model = CopyingModel(operator, task, dim=dim, depth=depth)
        return abs(sum(weight.numel() for weight in model.parameters()) - wanted)

    return min(range(4, 257), key=off)
