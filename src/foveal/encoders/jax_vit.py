"""Weights of vision transformers as the JAX releases have them (arXiv 2010.11929), by timm's names.

Queries, keys and values are apart and three-dimensional there: (D, heads, d) each, and (heads, d, D) on the
way out; images are channels-last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_PREFIXES = ("opt/target/", "params/")
_MARK = "embedding/kernel"
_DROPPED = ("pre_logits/",)  # a layer before the classifier that no released classifier of a task has
_NAMES = (
    (r"^cls$", "cls_token"),
    (r"^(Transformer/posembed_input/)?pos_embedding$", "pos_embed"),
    (r"^embedding/", "patch_embed.proj/"),
    (r"^Transformer/encoder_norm/", "norm/"),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
    (r"LayerNorm_0/", "norm1/"),
    (r"LayerNorm_[12]/", "norm2/"),
    (r"MlpBlock_[03]/Dense_0/", "mlp.fc1/"),
    (r"MlpBlock_[03]/Dense_1/", "mlp.fc2/"),
    (r"MultiHeadDotProductAttention_[01]/out/", "attn.proj/"),
    (r"/(kernel|scale)$", ".weight"),
    (r"/bias$", ".bias"),
)
_PART = re.compile(r"MultiHeadDotProductAttention_[01]/(query|key|value)/(kernel|bias)$")


def is_jax_vit(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the names of such a release."""
    return any(f"{prefix}{_MARK}" in state for prefix in ("", *_PREFIXES))


def from_jax_vit(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by timm's names and in its shapes; names that are not known stay.

    Raises:
        KeyError: queries without keys or values.
    """
    prefix = next((each for each in _PREFIXES if f"{each}{_MARK}" in state), "")
    bare = {name.removeprefix(prefix): value for name, value in state.items()}
    made: dict[str, Tensor] = {}
    for name, value in bare.items():
        part = _PART.search(name)
        if name.startswith(_DROPPED) or (part and part[1] != "query"):
            continue
        if part:
            values = [bare[name.replace("/query/", f"/{each}/")] for each in ("query", "key", "value")]
            joined = [v.flatten(1).T if part[2] == "kernel" else v.flatten() for v in values]
            block = re.sub(r"^Transformer/encoderblock_(\d+)/.*", r"blocks.\1", name)
            kind = "weight" if part[2] == "kernel" else "bias"
            made[f"{block}.attn.qkv.{kind}"] = torch.cat(joined).contiguous()
            continue
        timm_name = name
        for pattern, replacement in _NAMES:
            timm_name = re.sub(pattern, replacement, timm_name)
        if name.endswith("/kernel"):
            if value.ndim == 4:
                value = value.permute(3, 2, 0, 1)
            else:
                value = value.flatten(0, -2).T
        made[timm_name] = value.contiguous()
    return made
