"""A small decoder of tokens of which some are hidden, as in MaskEmbed (arXiv 2410.11087)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn


class MaskedDecoder(nn.Module):
    """Tokens (B, P + n, W) and masks (B, R, n) to predictions of a teacher's tokens (B R, P + n, D).

    Hidden tokens, and all P prefix tokens (class and registers, which would tell of the whole image), are set
    to 0; learned positions are added after that, so that a hidden token still has a place. Then pre-norm
    blocks, a normalisation and a linear layer.

    Args:
        dim: W, of the tokens that come in.
        out_dim: D, of the predictions.
        patches: n.
        prefix_tokens: P.
        depth: blocks.
        num_heads: of attention.
        mlp_ratio: of the blocks.
        layer_scale: first value of LayerScale; 0 leaves it out.
        prefix_only: predict the prefix tokens only, (B R, P, D).
        norm_layer: of all normalisations.
        **block_options: of timm's `Block`, such as qkv_bias, qk_norm and act_layer.

    Raises:
        ValueError: `prefix_only` without prefix tokens.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        *,
        patches: int,
        prefix_tokens: int,
        depth: int = 2,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        layer_scale: float = 1e-6,
        prefix_only: bool = False,
        norm_layer: Callable[..., nn.Module] = nn.LayerNorm,
        **block_options: Any,
    ) -> None:
        super().__init__()
        if prefix_only and not prefix_tokens:
            raise ValueError("prefix_only, but there is no prefix token to predict; leave it false")
        self.dim, self.out_dim, self.patches = dim, out_dim, patches
        self.prefix_tokens, self.prefix_only = prefix_tokens, prefix_only
        self.positions = nn.Parameter(0.02 * torch.randn(1, prefix_tokens + patches, dim))
        self.blocks = nn.Sequential(
            *(
                Block(
                    dim, num_heads, mlp_ratio=mlp_ratio, init_values=layer_scale or None,
                    norm_layer=cast(Any, norm_layer), **block_options,
                )
                for _ in range(depth)
            )
        )  # fmt: skip
        self.norm = norm_layer(dim)
        self.project = nn.Linear(dim, out_dim)
        # Normalised tokens have unit size; the first predictions are to be small beside unit targets.
        nn.init.normal_(self.project.weight, std=0.1 * dim**-0.5)
        nn.init.zeros_(self.project.bias)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that an optimiser leaves undecayed (timm's convention)."""
        return {"positions"}

    def mixed(self, tokens: Tensor, masks: Tensor | None = None) -> Tensor:
        """Tokens behind the blocks and the last normalisation, (B R, P + n, W); None hides nothing.

        Raises:
            ValueError: another number of tokens, or masks that do not fit them.
        """
        expected = self.prefix_tokens + self.patches
        if tokens.shape[1] != expected:
            raise ValueError(
                f"{tokens.shape[1]} tokens; this decoder was made for {self.prefix_tokens} prefix tokens and "
                f"{self.patches} patches: take images of the size that it was made for"
            )
        if masks is not None:
            if masks.ndim != 3 or masks.shape[0] != len(tokens) or masks.shape[2] != self.patches:
                raise ValueError(
                    f"masks of shape {tuple(masks.shape)}; wanted: ({len(tokens)}, R, {self.patches})"
                )
            shown = masks.flatten(0, 1).to(tokens.dtype)
            prefix = shown.new_zeros(len(shown), self.prefix_tokens)
            tokens = tokens.repeat_interleave(masks.shape[1], dim=0)
            tokens = tokens * torch.cat([prefix, shown], dim=1)[..., None]
        return cast(Tensor, self.norm(self.blocks(tokens + self.positions)))

    def forward(self, tokens: Tensor, masks: Tensor) -> Tensor:
        """Predict from the tokens that masks keep; see `mixed` for what is refused."""
        mixed = self.mixed(tokens, masks)
        return self.project(mixed[:, : self.prefix_tokens] if self.prefix_only else mixed)


def decoder_like(
    vit: nn.Module,
    *,
    image_tokens: int,
    dim: int | None = None,
    out_dim: int | None = None,
    **options: Any,
) -> MaskedDecoder:
    """A decoder whose blocks are like those of a timm vision transformer: heads, biases, norms, activation.

    Args:
        vit: timm's VisionTransformer.
        image_tokens: n, patches of an image.
        dim: W; that of the transformer where None. Heads keep their width as nearly as W allows.
        out_dim: D; that of the transformer where None.
        **options: of `MaskedDecoder`.
    """
    model = cast(Any, vit)
    block = model.blocks[0]
    width = dim or model.embed_dim
    heads = max(1, width // block.attn.head_dim)
    while width % heads:
        heads -= 1
    norm = block.norm1
    kind: Any = type(norm)
    settings = {
        "num_heads": heads,
        "qkv_bias": block.attn.qkv.bias is not None,
        "qk_norm": not isinstance(block.attn.q_norm, nn.Identity),
        "act_layer": type(getattr(block.mlp, "act", nn.GELU())),
        "norm_layer": partial(kind, eps=norm.eps) if hasattr(norm, "eps") else kind,
    }
    return MaskedDecoder(
        width,
        out_dim or model.embed_dim,
        patches=image_tokens,
        prefix_tokens=model.num_prefix_tokens,
        **{**settings, **options},
    )
