"""Classifiers of bags of instances, such as the patches of a slide: MambaMIL (arXiv 2403.06800) and ABMIL."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from foveal.blocks.bags import GatedAttentionPool, MeanPool, SRMamba
from foveal.models.pretrained import PretrainedModel
from foveal.settings import Settings


class BagClassifierConfig(Settings):
    """Everything that rebuilds a `BagClassifier`; the defaults are MambaMIL's."""

    inputs: int = Field(ge=1, description="features of an instance")
    classes: int = Field(ge=1, description="logits of a bag")
    dim: int = Field(512, ge=1, description="width of an embedded instance")
    depth: int = Field(2, ge=0, description="SR-Mamba layers; 0 pools the embedded instances as they are")
    rate: int = Field(10, ge=1, description="of the reordering")
    states: int = Field(16, ge=1, description="of each channel of a scan")
    pooling: Literal["attention", "mean"] = "attention"
    attention_hidden: int = Field(128, ge=1)
    head_hidden: int = Field(0, ge=0, description="a hidden layer between pooling and logits; 0 has none")
    dropout: float = Field(0.25, ge=0, lt=1, description="of the embedded instances in training")


class BagClassifier(PretrainedModel):
    """Bags (B, L, inputs) to logits (B, classes): embedding, SR-Mamba layers, pooling, head.

    Example:
        >>> model = BagClassifier(BagClassifierConfig(inputs=8, classes=2, dim=16))
        >>> bags, mask = pad_bags([torch.randn(30, 8), torch.randn(50, 8)])
        >>> model(bags, mask).shape
        torch.Size([2, 2])
    """

    Config = BagClassifierConfig

    def __init__(self, config: BagClassifierConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.embed = nn.Sequential(nn.Linear(config.inputs, dim), nn.ReLU(), nn.Dropout(config.dropout))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(config.depth))
        self.mixers = nn.ModuleList(
            SRMamba(dim, rate=config.rate, states=config.states) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim) if config.depth else nn.Identity()
        self.pool: GatedAttentionPool | MeanPool = (
            GatedAttentionPool(dim, hidden=config.attention_hidden)
            if config.pooling == "attention"
            else MeanPool()
        )
        hidden = config.head_hidden
        self.head: nn.Module = nn.Linear(hidden or dim, config.classes)
        if hidden:
            self.head = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), self.head)

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of bags; `mask` (B, L) is true where an instance is real, see `pad_bags`.

        Raises:
            ValueError: another number of features, or a mask that does not fit.
        """
        return self.head(self.pool(self.embedded(bags, mask), mask))

    def embedded(self, bags: Tensor, mask: Tensor | None = None) -> Tensor:
        """Embedded and mixed instances (B, L, dim)."""
        if bags.ndim != 3 or bags.shape[-1] != self.config.inputs:
            raise ValueError(f"bags of shape {tuple(bags.shape)}; allowed: (B, L, {self.config.inputs})")
        x = self.embed(bags)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(norm(x), mask)
        return self.norm(x)

    def attention(self, bags: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights (B, L) of the instances in the pooled vector, each row of sum 1."""
        return self.pool.weights(self.embedded(bags, mask), mask)
