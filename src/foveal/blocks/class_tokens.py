"""Class tokens among patch tokens: at the head, the middle or the tail of the sequence, or at both ends."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from einops import repeat
from torch import Tensor, nn

from foveal.settings import unknown_name

Place = Literal["none", "head", "middle", "tail", "double"]


class ClassTokens(nn.Module):
    """Learned tokens that join those of patches: (B, N, D) to (B, N + count, D), and leave them again.

    Args:
        dim: D.
        place: "middle" is before patch N // 2, "double" at both ends, "none" has no token.
        positions: give each a learned position of its own, added where it joins.

    Attributes:
        count: of the tokens, 0 to 2.
    """

    def __init__(self, dim: int, *, place: Place = "middle", positions: bool = True) -> None:
        super().__init__()
        if place not in get_args(Place):
            raise ValueError(unknown_name("place of class tokens", place, get_args(Place)))
        self.place = place
        self.count = {"none": 0, "double": 2}.get(place, 1)
        if self.count:
            self.tokens = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, self.count, dim), std=0.02))
            if positions:
                self.positions = nn.Parameter(
                    nn.init.trunc_normal_(torch.empty(1, self.count, dim), std=0.02)
                )

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that an optimiser leaves undecayed (timm's convention)."""
        return {"tokens", "positions"}

    def forward(self, patches: Tensor) -> Tensor:
        """The patches (B, N, D) with the class tokens among them."""
        if not self.count:
            return patches
        tokens = self.tokens + self.positions if hasattr(self, "positions") else self.tokens
        tokens = repeat(tokens.to(patches.dtype), "1 c d -> b c d", b=len(patches))
        if self.place == "double":
            return torch.cat([tokens[:, :1], patches, tokens[:, 1:]], dim=1)
        at = rows_of(self.place, patches.shape[1])[0]
        return torch.cat([patches[:, :at], tokens, patches[:, at:]], dim=1)

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """The patches (B, N, D) and the mean class token (B, D), None where there is none."""
        if not self.count:
            return tokens, None
        if self.place == "double":
            return tokens[:, 1:-1], (tokens[:, 0] + tokens[:, -1]) / 2
        at = rows_of(self.place, tokens.shape[1] - self.count)[0]
        if self.place == "middle":
            patches = torch.cat([tokens[:, :at], tokens[:, at + 1 :]], dim=1)
        else:
            patches = tokens[:, 1:] if self.place == "head" else tokens[:, :-1]
        return patches, tokens[:, at]


def rows_of(place: Place, patches: int) -> list[int]:
    """Where the class tokens lie among that many patches."""
    places = {"none": [], "head": [0], "middle": [patches // 2], "tail": [patches]}
    return places.get(place, [0, patches + 1])


def split_table(table: Tensor, place: Place) -> tuple[Tensor, Tensor]:
    """One table of positions of a whole sequence (1, N + count, D), as official weights have it, in two.

    Returns:
        Those of the patches (1, N, D) and those of the class tokens (1, count, D).
    """
    count = len(rows_of(place, 0))
    rows = rows_of(place, table.shape[1] - count)
    return table[:, [row for row in range(table.shape[1]) if row not in rows]], table[:, rows]
