"""Tokens of an image to those of a language model: by an MLP, or the decoder of locality alignment."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from foveal.encoders.vit_tokens import vit_tokens
from foveal.models.masked_embedding import MaskedEmbedding

AdapterKind = Literal["mlp", "decoder"]


class TokenAdapter(nn.Module):
    """Standardised images to tokens of a language model, (B, n, out_dim).

    "mlp": patch tokens of the penultimate layer, not normalised, through two layers, as LLaVA and Prismatic
    take them. "decoder": all tokens of the last layer, nothing masked, through the head and the blocks that
    alignment trained, then a linear layer; prefix tokens take part and are left out of the result. How the
    paper wired the second is not known in detail.

    Args:
        aligned: trained by locality alignment; its weights are shared, not copied.
        out_dim: width of the language model.
        adapter: which of the two.

    Raises:
        ValueError: another adapter, or a decoder that was trained to tell prefix tokens only.
    """

    def __init__(self, aligned: MaskedEmbedding, out_dim: int, *, adapter: AdapterKind = "mlp") -> None:
        super().__init__()
        if adapter not in ("mlp", "decoder"):
            raise ValueError(f"adapter is {adapter!r}; allowed: 'mlp', 'decoder'")
        if adapter == "decoder" and aligned.config.prefix_only:
            raise ValueError("this decoder tells prefix tokens only; take adapter='mlp'")
        self.kind, self.encoder = adapter, aligned.encoder
        self.prefix_tokens = aligned.decoder.prefix_tokens
        if adapter == "mlp":
            self.project: nn.Module = nn.Sequential(
                nn.Linear(aligned.encoder.dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim)
            )
        else:
            self.head, self.decoder = aligned.head, aligned.decoder
            self.project = nn.Linear(aligned.decoder.dim, out_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens of the patches."""
        if self.kind == "mlp":
            tokens = vit_tokens(self.encoder, images, skip_blocks=1, norm=False)
        else:
            tokens = self.decoder.mixed(self.head(vit_tokens(self.encoder, images)))
        return self.project(tokens[:, self.prefix_tokens :])
