"""Which weights are kept: made once, held through training, stored, and told apart by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Storage:
    """Bytes that masked weights take.

    Attributes:
        dense: as they are.
        csr: values, a column each in 16 bits (32 in rows of more than 65,536), a 32-bit pointer a row.
        bitmask: values and one bit a weight.
    """

    dense: int
    csr: int
    bitmask: int


class Masks:
    """True where a weight is kept, for some of a model's parameters.

    Args:
        kept: by the names of parameters, each of its parameter's shape, bool.

    Raises:
        ValueError: a mask that is not bool.
    """

    def __init__(self, kept: Mapping[str, Tensor]) -> None:
        if wrong := [name for name, mask in kept.items() if mask.dtype != torch.bool]:
            raise ValueError(f"masks must be bool; {', '.join(wrong)} is not")
        self.kept = {name: mask.detach().clone() for name, mask in kept.items()}

    @property
    def share(self) -> float:
        """Of the weights that are kept."""
        total = sum(mask.numel() for mask in self.kept.values())
        return sum(int(mask.sum()) for mask in self.kept.values()) / max(total, 1)

    @property
    def sha256(self) -> str:
        """Hash of names, shapes and masks."""
        digest = hashlib.sha256()
        for name in sorted(self.kept):
            mask = self.kept[name]
            digest.update(f"{name}{tuple(mask.shape)}".encode() + mask.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set the weights that are not kept to 0, in place.

        Raises:
            ValueError: a parameter that the model does not have, or of another shape.
        """
        for parameter, mask in self._pairs(model):
            parameter.mul_(mask.to(parameter))

    @contextmanager
    def held(self, model: nn.Module) -> Iterator[None]:
        """Train a model inside without a weight coming back: they start at 0 and get no gradient.

        So momentum stays 0 and decay of 0 is 0, for every optimiser of `foveal.training`.

        Raises:
            ValueError: see `apply`.
        """
        self.apply(model)
        handles = [
            parameter.register_hook(lambda gradient, mask=mask: gradient * mask.to(gradient))
            for parameter, mask in self._pairs(model)
            if parameter.requires_grad
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def storage(self, model: nn.Module) -> Storage:
        """Bytes of the masked parameters, dense and in two sparse forms."""
        dense = csr = bitmask = 0
        for parameter, mask in self._pairs(model):
            size, count = parameter.element_size(), int(mask.sum())
            dense += size * mask.numel()
            csr += (size + (2 if mask[0].numel() <= 2**16 else 4)) * count + 4 * (len(mask) + 1)
            bitmask += size * count + -(-mask.numel() // 8)
        return Storage(dense, csr, bitmask)

    def _pairs(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        parameters = dict(model.named_parameters())
        pairs = []
        for name, mask in self.kept.items():
            if name not in parameters:
                raise ValueError(f"{type(model).__name__} has no parameter {name!r}, which the masks have")
            if parameters[name].shape != mask.shape:
                raise ValueError(
                    f"the mask of {name} has shape {tuple(mask.shape)}, the parameter "
                    f"{tuple(parameters[name].shape)}"
                )
            pairs.append((parameters[name], mask.to(parameters[name].device)))
        return pairs


def zeros_of(model: nn.Module) -> Masks:
    """Masks of the weights that are not 0, of all parameters with two or more dimensions."""
    return Masks({name: value != 0 for name, value in model.named_parameters() if value.ndim > 1})
