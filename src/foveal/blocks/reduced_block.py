"""Pre-norm transformer blocks of timm and transformers that drop tokens between attention and MLP.

After EViT (arXiv 2202.07800); see `reduced_tokens` for the change of a whole model.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isinf
from typing import Any, Literal

import torch
from einops import rearrange
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.soft_cap import SoftCappedAttention, soft_capped
from foveal.blocks.token_selection import TokenSelection, TokenTrack

Score = Literal["class", "received"]

SUITED = (
    "timm's VisionTransformer (ViT, DeiT, DINOv2, CLIP, SigLIP, MAE), transformers' ViT, DeiT, DINOv2, CLIP "
    "and SigLIP, channelvit"
)


@dataclass(frozen=True)
class _Layout:
    """Names of the children of a block x + after1(attention(norm1(x))), then the same with an MLP."""

    norm1: str
    attention: str
    after1: tuple[str, ...]
    norm2: str
    mlp: str
    after2: tuple[str, ...]

    @property
    def names(self) -> set[str]:
        return {self.norm1, self.attention, *self.after1, self.norm2, self.mlp, *self.after2}


_LAYOUTS = (
    _Layout("norm1", "attn", ("ls1", "drop_path1"), "norm2", "mlp", ("ls2", "drop_path2")),
    _Layout("layernorm_before", "attention", ("dropout",), "layernorm_after", "mlp", ("dropout",)),
    _Layout(
        "norm1", "attention", ("layer_scale1", "drop_path"), "norm2", "mlp", ("layer_scale2", "drop_path"),
    ),
    _Layout("layer_norm1", "self_attn", (), "layer_norm2", "mlp", ()),
)  # fmt: skip
# Attention of transformers that depends on its tokens alone, not on where they are.
_PLAIN = (
    "ViTAttention", "DeiTAttention", "ViTMSNAttention", "IJepaAttention", "Dinov2Attention",
    "Dinov2WithRegistersAttention", "CLIPAttention", "SiglipAttention",
)  # fmt: skip
_PREFIX = {
    "vit": 1, "deit": 2, "vit_msn": 1, "ijepa": 0, "dinov2": 1, "dinov2_with_registers": 1,
    "clip_vision_model": 1, "siglip_vision_model": 0,
}  # fmt: skip


class ScoredAttention(nn.Module):
    """Attention that also tells how much attention each token gets, its layers those of another module.

    The output is of torch's fused attention; the class token's row is computed beside it, O(N). Both mean the
    attention before dropout, by which the paper's code shakes its ranking where it is on.

    Args:
        attention: timm's `Attention`, the soft-capped one, or plain attention of transformers, whose layers
            are taken over, not copied.
        score: "class", the row of the first token, or "received", the mean of all rows, for which the whole
            of the attention is computed.
    """

    def __init__(self, attention: Any, *, score: Score) -> None:
        super().__init__()
        for name, layer in attention.named_children():
            self.add_module(name, layer)
        self.joint = isinstance(attention, Attention | SoftCappedAttention)
        self.score, self.cap = score, getattr(attention, "cap", inf)
        self.head_dim = attention.head_dim
        self.scale = attention.scale if hasattr(attention, "scale") else attention.scaling
        name = "attention_dropout" if hasattr(attention, "attention_dropout") else "dropout"
        self.dropout = float(getattr(attention, name, 0.0))  # timm has a layer of it instead
        self.train(attention.training)

    def forward(self, x: Tensor, scored: bool) -> tuple[Tensor, Tensor | None]:
        """Mixed tokens (B, N, D) and, where `scored`, the score (B, N) of each token: a mean over heads."""
        q, k, v = self._projected(x)
        dropout: float = self.get_submodule("attn_drop").p if self.joint else self.dropout  # type: ignore[assignment]
        dropout = dropout if self.training else 0.0
        if not isinf(self.cap) or (scored and self.score == "received"):
            weights = soft_capped((q * self.scale) @ k.transpose(-2, -1), self.cap).softmax(dim=-1)
            scores = weights[:, :, 0].mean(dim=1) if self.score == "class" else weights.mean(dim=(1, 2))
            return self._left(F.dropout(weights, dropout) @ v, x), scores if scored else None
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        if not scored:
            return self._left(mixed, x), None
        row = torch.einsum("bhd,bhnd->bhn", q[:, :, 0] * self.scale, k).softmax(dim=-1)
        return self._left(mixed, x), row.mean(dim=1)

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, N, d)."""
        if self.joint:
            told = self.get_submodule("qkv")(x)
            q, k, v = rearrange(told, "b n (three h d) -> three b h n d", three=3, d=self.head_dim)
            return self.get_submodule("q_norm")(q), self.get_submodule("k_norm")(k), v
        q, k, v = (
            rearrange(self.get_submodule(name)(x), "b n (h d) -> b h n d", d=self.head_dim)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        return q, k, v

    def _left(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Mixed values (B, H, N, d) through what comes after them: (B, N, D)."""
        mixed = rearrange(mixed, "b h n d -> b n (h d)")
        if not self.joint:
            out: Tensor = self.get_submodule("o_proj" if "o_proj" in self._modules else "out_proj")(mixed)
            return out
        mixed = self.get_submodule("norm")(mixed)
        if self._modules.get("gate") is not None:
            mixed = mixed * self.get_submodule("gate")(x).sigmoid()
        result: Tensor = self.get_submodule("proj_drop")(self.get_submodule("proj")(mixed))
        return result


class ReducedBlock(nn.Module):
    """A pre-norm transformer block that drops tokens between its attention and its MLP.

    Its layers are those of the block that it stands for, under the same names, so weights of either load into
    the other.

    Args:
        block: whose layers are taken over, not copied.
        index: of it in its transformer.
        selection: what drops tokens.
        track: shared by the blocks of a model.
        first: it is the first such block of the model.
        score: of `ScoredAttention`.

    Raises:
        ValueError: the block is of another kind.
    """

    def __init__(
        self,
        block: nn.Module,
        *,
        index: int,
        selection: TokenSelection,
        track: TokenTrack,
        first: bool,
        score: Score,
    ) -> None:
        super().__init__()
        layout = _layout_of(block)
        if layout is None:
            raise ValueError(
                f"tokens cannot be reduced in a {type(block).__name__}; allowed: those of {SUITED}"
            )
        for name, layer in block.named_children():
            scored = name == layout.attention
            self.add_module(name, ScoredAttention(layer, score=score) if scored else layer)
        self.layout, self.index, self.track, self.first = layout, index, track, first
        self.selection = selection
        self.train(block.training)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **_options: Any
    ) -> Tensor:
        """(B, P + n, D) to (B, P + K, D), or one token more where the others are fused.

        Raises:
            ValueError: a mask of attention, or more tokens to keep than there are.
        """
        if attn_mask is not None or is_causal:
            raise ValueError("tokens cannot be reduced under a mask of attention; pass none")
        if self.first:
            self.track.begin()
        layout, others = self.layout, x.shape[1] - self.selection.prefix
        shrinks = self.selection.count(others) < others
        mixed, scores = self._child(layout.attention)(self._child(layout.norm1)(x), shrinks)
        x = x + self._through(layout.after1, mixed)
        if scores is not None:
            before = x
            x, kept, dropped = self.selection(x, scores[:, self.selection.prefix :])
            self.track.advance(before, kept, dropped, fused=self.selection.fuse)
        mixed = self._child(layout.mlp)(self._child(layout.norm2)(x))
        return x + self._through(layout.after2, mixed)

    def _child(self, name: str) -> nn.Module:
        return self.get_submodule(name)

    def _through(self, names: tuple[str, ...], x: Tensor) -> Tensor:
        for name in names:
            x = self._child(name)(x)
        return x


@dataclass(frozen=True)
class Transformer:
    """The blocks of a vision transformer, in order.

    Attributes:
        blocks: a list that its model runs through.
        prefix: tokens at the head of the sequence.
        class_token: the first of them is a class token.
    """

    blocks: nn.Sequential | nn.ModuleList
    prefix: int
    class_token: bool


def transformer_of(model: nn.Module) -> Transformer:
    """The transformer inside a model or encoder.

    Raises:
        ValueError: it holds none whose tokens can be reduced; tells which models do.
    """
    name = getattr(model, "name", "") or type(model).__name__
    if any(isinstance(module, ReducedBlock) for module in model.modules()):
        raise ValueError(f"the tokens of {name} are reduced already; start from the whole model")
    for owner in model.modules():
        for blocks in owner.children():
            if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
                continue
            if any(_layout_of(block) is None for block in blocks):
                continue
            prefix = _prefix_of(model, owner)
            if prefix is not None:
                return Transformer(blocks, *prefix)
    raise ValueError(f"{name} is no vision transformer whose tokens can be reduced; allowed: {SUITED}")


def _layout_of(block: nn.Module) -> _Layout | None:
    names = {name for name, _ in block.named_children()}
    layout = next((each for each in _LAYOUTS if each.names == names), None)
    if layout is None or any(True for _ in block.parameters(recurse=False)):
        return None
    attention = getattr(block, layout.attention)
    plain = type(attention) in (Attention, SoftCappedAttention) or (
        type(attention).__module__.startswith("transformers.") and type(attention).__name__ in _PLAIN
    )
    return layout if plain else None


def _prefix_of(model: nn.Module, owner: nn.Module) -> tuple[int, bool] | None:
    """Tokens before the patches, and whether the first is a class token."""
    count = getattr(owner, "num_prefix_tokens", None)
    if count is not None:  # timm
        return int(count), bool(getattr(owner, "has_class_token", count > 0))
    if isinstance(getattr(owner, "class_token", None), nn.Parameter):  # channelvit
        return 1, True
    configs = [getattr(module, "config", None) for module in (owner, *model.modules())]
    kinds = [config for config in configs if getattr(config, "model_type", "") in _PREFIX]
    if not kinds:
        return None
    config: Any = kinds[0]
    count = _PREFIX[config.model_type]
    return count + getattr(config, "num_register_tokens", 0), count > 0
