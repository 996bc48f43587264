"""Propagated relevance of foveal beside zennit (CNNs) and LXT (vision transformers): values and time.

    python benchmarks/explanation_propagation.py [--rounds 7] [--write]

The peers are not among foveal's dependencies: `pip install --no-deps zennit lxt`. Networks have random
weights and running statistics; all relevances are of one class for the same images, in one run, taken in
turn by one thread; a time is the least of the rounds. `--write` keeps the table in
docs/evidence/explanation-propagation.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the libraries that read it

import torch
from torch import Tensor, nn
from torchvision import models

from foveal.explanation.lrp import propagate
from foveal.explanation.lrp_mode import Composite
from foveal.explanation.lrp_rules import Box, Epsilon, Gamma
from foveal.explanation.methods import frozen
from foveal.files import write_atomically
from foveal.machine import describe_environment, seconds_of
from foveal.markdown import table
from peers.propagation import lxt_relevance, zennit_relevance

PAGE = Path(__file__).parents[1] / "docs" / "evidence" / "explanation-propagation.md"
TARGET = 3
CNN_COMPOSITES: dict[str, str | Composite] = {
    "EpsilonPlus": "epsilon-plus",
    "EpsilonPlusFlat": "epsilon-plus-flat",
    "EpsilonAlpha2Beta1": "epsilon-alpha2-beta1",
    "EpsilonAlpha2Beta1Flat": "epsilon-alpha2-beta1-flat",
    "EpsilonGammaBox": Composite(Gamma(0.25), Epsilon(), Box(-3.0, 3.0)),
}


@dataclass(frozen=True)
class Compared:
    """One network under one composite: foveal beside a peer."""

    network: str
    peer: str
    rules: str
    difference: float
    ours: float
    theirs: float
    plain: float

    def row(self) -> list[str]:
        """Cells of the table."""
        return [
            self.network,
            f"{self.peer}, {self.rules}",
            f"{self.difference:.1e}",
            f"{self.ours * 1e3:.0f} ms",
            f"{self.theirs / self.ours:.2f}x",
            f"{self.ours / self.plain:.2f}",
        ]


def randomised(network: nn.Module) -> nn.Module:
    """Random statistics of normalisations and some bias everywhere, so that nothing is trivially equal."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return network.eval()


def ours(network: nn.Module, composite: str | Composite, images: Tensor) -> Tensor:
    """Relevance of the pixels."""
    return propagate(network, images, TARGET, composite)[0]


def forward_and_backward(network: nn.Module, images: Tensor) -> None:
    """What a gradient of the score costs."""
    with frozen(network):
        given = images.clone().requires_grad_()
        torch.autograd.grad(network(given)[:, TARGET].sum(), given)


def compare(
    name: str, peer: str, rules: str, network: nn.Module, composite: str | Composite,
    theirs: Callable[[Tensor], Tensor], images: Tensor, rounds: int,
) -> Compared:  # fmt: skip
    """Values and times of both, and of a plain gradient."""
    mine, other = ours(network, composite, images), theirs(images)
    difference = float((mine - other).abs().max() / other.abs().max())
    taken = seconds_of(
        {
            "ours": partial(ours, network, composite, images),
            "theirs": partial(theirs, images),
            "plain": partial(forward_and_backward, network, images),
        },
        rounds=rounds,
    )
    return Compared(name, peer, rules, difference, taken["ours"], taken["theirs"], taken["plain"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randn(2, 3, 112, 112)
    rows = []
    for name in ("resnet18", "vgg11_bn"):
        network = randomised(getattr(models, name)(num_classes=10))
        for rules, composite in CNN_COMPOSITES.items():
            theirs = zennit_relevance(network, rules, TARGET)
            rows.append(compare(name, "zennit", rules, network, composite, theirs, images, options.rounds))
            print(" | ".join(rows[-1].row()), flush=True)
    vit = models.vision_transformer.VisionTransformer(
        image_size=112, patch_size=16, num_layers=6, num_heads=6, hidden_dim=192, mlp_dim=768, num_classes=10
    )
    nn.init.normal_(vit.heads.head.weight, std=0.1)  # type: ignore[arg-type]
    randomised(vit)
    vits: dict[str, tuple[str | Composite, tuple[float, float] | None]] = {
        "CP-LRP": ("cp-lrp", None),
        "CP-LRP, gamma 0.25 and 0.05": (Composite(Gamma(0.25), Gamma(0.05)), (0.25, 0.05)),
    }
    for rules, (composite, gamma) in vits.items():
        theirs = lxt_relevance(vit, TARGET, gamma=gamma)
        rows.append(
            compare("ViT, 6 blocks of 192", "LXT", rules, vit, composite, theirs, images, options.rounds)
        )
        print(" | ".join(rows[-1].row()), flush=True)
    head = [
        "network",
        "peer, rules",
        "largest difference, relative",
        "foveal",
        "peer over foveal",
        "foveal over a gradient",
    ]
    text = table(head, [row.row() for row in rows])
    if options.write:
        parts = [
            "# Propagated relevance beside zennit and LXT",
            "Written by `python benchmarks/explanation_propagation.py --write`. Two images of 112 px, one "
            "thread, one run; differences over the largest relevance (goal 1e-4). "
            '"over a gradient" is beside one forward and backward pass (goal: at most 3); `explain` adds a '
            "forward pass for the score.",
            text,
            "## How it was run",
            table(["", ""], [[name, value] for name, value in describe_environment().items()]),
        ]
        write_atomically(PAGE, "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
