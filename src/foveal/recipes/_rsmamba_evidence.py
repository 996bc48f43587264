"""What proves the RSMamba recipe: orders undone, the block, gates, permutations, learning, cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveal.blocks.mamba import MambaMixer
from foveal.blocks.multi_path import MultiPath, Order, along, spread_over_shuffles
from foveal.encoders.rsmamba import PATH_TYPES, RSMamba
from foveal.recipes.base import Evidence, Finding, Scale

_SMALL: dict[str, Any] = {
    "dim": 48, "depth": 4, "states": 8, "image_size": 32, "patch_size": 12, "stride": 8, "in_channels": 1,
}  # fmt: skip


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; learning and cost in full."""
    yield orders_are_undone
    yield block_beside_mambapy
    yield parameters
    yield gates
    yield single_tokens
    yield permutations_in_evaluation
    yield what_the_first_token_sees
    yield refused
    if scale == "full":
        from foveal.recipes import _rsmamba_costs

        yield block_beside_transformers
        yield partial(paths_on_digits, seeds=3)
        yield partial(first_and_last_rows, seeds=3)
        yield _rsmamba_costs.cost_of_paths
        yield _rsmamba_costs.memory_of_paths
        yield _rsmamba_costs.cost_of_tokens


def orders_are_undone() -> Finding:
    """With a mixer that does nothing every path restored equals its input exactly."""
    lengths, wrong = (1, 5, 196, 784), []
    for length in lengths:
        x = torch.randn(2, length, 3)
        orders: list[Order] = ["forward", "reverse", torch.randperm(length)]
        if not all(torch.equal(path, x) for path in along(nn.Identity(), x, orders)):
            wrong.append(length)
    claim = (
        f"identity mixer, {', '.join(map(str, lengths))} tokens: all three paths give the input back exactly"
    )
    return Finding.fact(claim, not wrong, measured=f"not of {wrong} tokens" if wrong else "")


def block_beside_mambapy() -> Finding:
    """One block equals mambapy's mixer, three indexings and a gate."""
    from mambapy.mamba import MambaBlock, MambaConfig

    return _composed("mambapy", MambaBlock(MambaConfig(d_model=48, n_layers=1, d_state=8, use_cuda=False)))


def block_beside_transformers() -> Finding:
    """One block equals transformers' mixer, three indexings and a gate."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer as Theirs

    shape: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 96, "state_size": 8, "time_step_rank": 3}
    return _composed("transformers", Theirs(MambaConfig(**shape, use_mambapy=False), 0))


@torch.no_grad()
def _composed(name: str, theirs: nn.Module) -> Finding:
    block, x, order = MultiPath(MambaMixer(48, states=8), 48), torch.randn(2, 49, 48), torch.randperm(49)
    weights = {key.removeprefix("scan."): tensor for key, tensor in block.mixer.state_dict().items()}
    theirs.load_state_dict(weights)
    ahead, back, mixed = theirs(torch.cat([x, x.flip(1), x[:, order]])).chunk(3)
    paths = [ahead, back.flip(1), mixed[:, order.argsort()]]
    weight = block.state_dict()["gate.0.weight"]
    gate = torch.softmax(torch.cat([path.mean(dim=1) for path in paths], dim=-1) @ weight.T, dim=-1)
    wanted = sum(gate[:, k, None, None] * path for k, path in enumerate(paths))
    difference = float((block(x, orders=["forward", "reverse", order]) - wanted).abs().max())
    claim = f"block beside {name}'s mixer, three indexings and a gate: largest difference"
    return Finding.at_most(claim, difference, 1e-5)


def parameters() -> Iterator[Finding]:
    """Parameters of B and H, and of the gates."""
    with torch.device("meta"):
        base, huge = RSMamba(size="b"), RSMamba(size="h")

    def count(encoder: RSMamba, part: str = "") -> int:
        return sum(p.numel() for name, p in encoder.named_parameters() if part in name)

    found = count(base) + 21 * (base.dim + 1)
    yield Finding.fact(
        "parameters of B with 21 classes and 784 positions",
        found == 6_381_141,
        expected="6,381,141",
        measured=f"{found:,}",
    )
    yield Finding.close(
        "parameters of H, millions", (count(huge) + 21 * (huge.dim + 1)) / 1e6, 33.1, tolerance=0.1
    )
    gates = {count(encoder, ".gate.") / len(encoder.blocks) / encoder.dim for encoder in (base, huge)}
    yield Finding.fact("gates have 9 D parameters a block", gates == {9.0})
    share = count(base, ".gate.") / (count(base) - count(base, ".gate."))
    yield Finding.at_most("share that three gated paths add to the parameters of one", share, 0.01)


class OnFirst(nn.Module):
    """A gate that is open for the first path alone."""

    def forward(self, means: Tensor) -> Tensor:
        """(B, K D) to (B, 3)."""
        return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(means), 3)


@torch.no_grad()
def gates() -> Iterator[Finding]:
    """Weights of the gates sum to 1; open for the first path alone the model is plain Mamba."""
    encoder, images, seen = RSMamba(**_SMALL).eval(), torch.randn(4, 1, 32, 32), []
    hooks = [
        block.get_submodule("gate").register_forward_hook(lambda _, inputs, weights: seen.append(weights))
        for block in encoder.blocks
    ]
    encoder(images)
    for hook in hooks:
        hook.remove()
    worst = max(float((weights.sum(dim=-1) - 1).abs().max()) for weights in seen)
    yield Finding.at_most(f"weights of the {len(seen)} gates, sum less 1", worst, 1e-6)
    plain = RSMamba(**_SMALL, path_type="forward").eval()
    plain.load_state_dict(
        {name: tensor for name, tensor in encoder.state_dict().items() if ".gate." not in name}
    )
    for block in encoder.blocks:
        block.gate = OnFirst()
    difference = float((encoder(images).pooled - plain(images).pooled).abs().max())
    yield Finding.at_most("gates open for the forward path alone: difference to plain Mamba", difference, 0)


@torch.no_grad()
def single_tokens() -> Finding:
    """A mixer of single tokens makes the permutation irrelevant."""
    x = torch.randn(2, 64, 16)
    block = MultiPath(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)), 16).train()
    first = block(x)
    difference = max(float((block(x) - first).abs().max()) for _ in range(10))
    return Finding.at_most(
        "an MLP of single tokens as mixer: difference of ten permutations", difference, 1e-6
    )


class Pooled(nn.Module):
    """An encoder's pooled vector."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        """(B, D)."""
        return self.encoder(images).pooled


@torch.no_grad()
def permutations_in_evaluation() -> Iterator[Finding]:
    """Fixed permutations repeat to the bit; the spread of others falls with the root of their number."""
    images, kept = torch.randn(8, 1, 32, 32), RSMamba(**_SMALL).state_dict()

    def model(**settings: Any) -> nn.Module:
        encoder = RSMamba(**_SMALL, **settings)
        encoder.load_state_dict(kept)
        return Pooled(encoder).eval()

    fixed, random = model(), model(shuffle="random")
    yield Finding.fact(
        "shuffle=fixed: two passes are the same to the bit", torch.equal(fixed(images), fixed(images))
    )
    differ = not torch.equal(random(images), random(images))
    yield Finding.fact("shuffle=random, the original's: two passes differ", differ)
    spreads = {
        draws: float(spread_over_shuffles(model(shuffle="average", draws=draws), images)[1].mean())
        for draws in (1, 4, 16)
    }
    for draws in (4, 16):
        yield Finding.close(
            f"spread of 20 passes with one permutation a pass over that with the mean of {draws}",
            spreads[1] / spreads[draws],
            draws**0.5,
            tolerance=0.2 * draws**0.5,
        )


def what_the_first_token_sees() -> Iterator[Finding]:
    """The gradient of the first token's output by the last token."""
    tokens = torch.randn(1, 49, 48)
    for path_type, (paths, fuse) in PATH_TYPES.items():
        x = tokens.clone().requires_grad_()
        MultiPath(MambaMixer(48, states=8), 48, paths=paths, fuse=fuse)(x)[0, 0].square().sum().backward()
        assert x.grad is not None
        reach = float(x.grad[0, -1].abs().sum())
        sees = path_type != "forward"
        claim = f"{path_type}: the first token {'sees' if sees else 'does not see'} the last"
        yield Finding.fact(claim, (reach > 0) == sees, measured=f"gradient {reach:.2g}")


def refused() -> Finding:
    """What cannot be is refused; odd images are padded."""
    from pydantic import ValidationError

    from foveal.models.classifier import ClassifierConfig

    encoder, block = RSMamba(**_SMALL), MultiPath(MambaMixer(8), 8)
    short: list[Order] = ["forward", "reverse", torch.arange(4)]
    wrong: dict[str, tuple[Any, type[Exception]]] = {
        "an image smaller than a patch": (partial(encoder, torch.randn(1, 1, 11, 32)), ValueError),
        "a permutation of wrong length": (partial(block, torch.randn(1, 5, 8), orders=short), ValueError),
        "an unknown path_type": (partial(RSMamba, path_type="forward_back"), ValueError),
        "one class": (partial(ClassifierConfig, encoder="rsmamba", classes=("eye",)), ValidationError),
    }
    passed = [name for name, (call, error) in wrong.items() if not _raises(call, error)]
    odd = encoder(torch.randn(1, 1, 33, 37)).grid == tuple(encoder.padded_patches(33, 37).shape) == (5, 5)
    return Finding.fact(
        f"refused: {', '.join(wrong)}; images of odd size are padded",
        odd and not passed,
        measured=f"not refused: {', '.join(passed)}" if passed else "",
    )


def _raises(call: Any, error: type[Exception]) -> bool:
    try:
        call()
    except error:
        return True
    return False


def macro_f1(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean F1 of the classes."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, probabilities.argmax(axis=1), average="macro"))


def paths_on_digits(seeds: int) -> Iterator[Finding]:
    """Digits: forward alone, with the reverse, with the shuffle; mean pooling and the class token."""
    from foveal.recipes._encoder_learning import digits, train_and_score

    data = digits(32, train_images=240)
    options: dict[str, Any] = {"steps": 20 * 240 // 32, "batch_size": 32, "metric": macro_f1}
    variants: dict[str, dict[str, Any]] = {
        "forward": {"path_type": "forward"},
        "forward and reverse, gate": {"path_type": "forward_reverse_gate"},
        "three paths, gate": {},
        "forward, class token at the head": {"path_type": "forward", "class_token": "head"},
    }
    scores = {
        name: [
            train_and_score(partial(RSMamba, **_SMALL, **changes), data, seed=seed, **options)
            for seed in range(seeds)
        ]
        for name, changes in variants.items()
    }
    means = {name: sum(values) / seeds for name, values in scores.items()}

    def gains(better: str, worse: str) -> list[float]:
        return [a - b for a, b in zip(scores[better], scores[worse], strict=True)]

    names = list(variants)
    told = "; ".join(f"{name} {value:.3f}" for name, value in means.items())
    first = gains(names[1], names[0])
    yield Finding.fact(
        f"digits, 240 images, 20 epochs: macro F1 rises with the reverse path ({told})",
        sum(first) > 0,
        expected="> 0",
        measured=f"{sum(first) / seeds:+.4f}",
    )
    yield Finding.at_least("and does not fall with the shuffled path", gains(names[2], names[1]), 0.0)
    claim = "forward alone: macro F1 of mean pooling less a class token's at the head, which sees no patch"
    yield Finding.at_least(claim, gains(names[0], names[3]), 0.02)


def first_and_last_rows(seeds: int) -> Finding:
    """The class is whether the bright squares of first and last rows lie on the same side."""
    from foveal.recipes._encoder_learning import LearningData, train_and_score
    from foveal.recipes._vim_evidence import bright_squares

    (above, side_above, train), (below, side_below, _) = (
        bright_squares((row, row), seed=seed) for row, seed in ((0, 0), (24, 1))
    )
    images = torch.cat([above[:, :, :16], below[:, :, 16:]], dim=2)
    labels = (side_above == side_below).long()
    data = LearningData(images[:train], labels[:train], images[train:], labels[train:])
    options: dict[str, Any] = {"steps": 300, "batch_size": 32, "learning_rate": 4e-3, "metric": macro_f1}
    three, one = (
        [
            train_and_score(partial(RSMamba, **_SMALL, path_type=path_type), data, seed=seed, **options)
            for seed in range(seeds)
        ]
        for path_type in ("forward_reverse_shuffle_gate", "forward")
    )
    gains = [a - b for a, b in zip(three, one, strict=True)]
    told = f"three {sum(three) / seeds:.3f}, one {sum(one) / seeds:.3f}"
    claim = f"class is the relation of first and last rows: macro F1 of three paths less forward's ({told})"
    return Finding.at_least(claim, gains, 0.02)
