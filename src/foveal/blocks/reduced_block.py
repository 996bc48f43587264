"""Pre-norm transformer blocks of timm and transformers that drop tokens between attention and MLP.

After EViT (arXiv 2202.07800); see `reduced_tokens` for the change of a whole model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from einops import rearrange
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.soft_cap import SoftCappedAttention
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


class ReducedBlock(nn.Module):
    """A pre-norm transformer block that drops tokens between its attention and its MLP.

    Its layers are those of the block that it stands for, under the same names, so weights of either load into
    the other. Attention is torch's fused one; the class token's row, which ranks the tokens, is computed
    beside it. Without a class token the ranking is the mean attention that a token receives, for which all
    of the block's attention is computed.

    Args:
        block: whose layers are taken over, not copied.
        index: of it in its transformer.
        selection: what drops tokens.
        track: shared by the blocks of a model.
        first: it is the first such block of the model.
        score: "class" or "received".

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
            self.add_module(name, layer)
        self.layout, self.index, self.track, self.first, self.score = layout, index, track, first, score
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
        score = self.score if shrinks else None
        mixed, scores = _attend(self._child(layout.attention), self._child(layout.norm1)(x), score)
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


def _attend(attention: Any, x: Tensor, score: Score | None) -> tuple[Tensor, Tensor | None]:
    """Mixed tokens (B, N, D) and, where wanted, the score (B, N) of each token: a mean over heads."""
    if isinstance(attention, SoftCappedAttention):
        logits, v = attention.logits(x)
        weights = logits.softmax(dim=-1)
        mixed = attention.attn_drop(weights) @ v
        scores = None if score is None else _scores(weights, score)
        return _leave(attention, mixed, x), scores
    q, k, v, scale, dropout = _queries_keys_values(attention, x)
    dropout = dropout if attention.training else 0.0
    if score == "received":
        weights = ((q * scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return _leave(attention, F.dropout(weights, dropout) @ v, x), _scores(weights, score)
    mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
    if score is None:
        return _leave(attention, mixed, x), None
    # Without dropout, by which the paper's code ranks tokens too where it is on: noise in the ranking.
    row = ((q[:, :, :1] * scale) @ k.transpose(-2, -1)).softmax(dim=-1)
    return _leave(attention, mixed, x), _scores(row, score)


def _scores(weights: Tensor, score: Score) -> Tensor:
    """(B, N) from attention (B, H, M, N): the row of the class token, or the mean of all rows."""
    return weights[:, :, 0].mean(dim=1) if score == "class" else weights.mean(dim=(1, 2))


def _queries_keys_values(attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor, float, float]:
    """(B, H, N, d) each, what logits are multiplied by, and the share of dropout."""
    if isinstance(attention, Attention):
        q, k, v = rearrange(
            attention.qkv(x), "b n (three h d) -> three b h n d", three=3, h=attention.num_heads
        )
        return attention.q_norm(q), attention.k_norm(k), v, attention.scale, attention.attn_drop.p
    q, k, v = (
        rearrange(layer(x), "b n (h d) -> b h n d", d=attention.head_dim)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    clip = hasattr(attention, "scale")
    scale, dropout = ("scale", "dropout") if clip else ("scaling", "attention_dropout")
    return q, k, v, getattr(attention, scale), getattr(attention, dropout)


def _leave(attention: Any, mixed: Tensor, x: Tensor) -> Tensor:
    """Values (B, H, N, d), mixed, through what comes after them in attention: (B, N, D)."""
    mixed = rearrange(mixed, "b h n d -> b n (h d)")
    if not isinstance(attention, Attention | SoftCappedAttention):
        out: Tensor = (attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj)(mixed)
        return out
    mixed = attention.norm(mixed)
    gate: Any = getattr(attention, "gate", None)
    if gate is not None:
        mixed = mixed * gate(x).sigmoid()
    result: Tensor = attention.proj_drop(attention.proj(mixed))
    return result


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
