"""One mixer of sequences along several orders of its tokens, fused by a gate (RSMamba, arXiv 2403.19654)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol, TypeAlias, cast, get_args, runtime_checkable

import torch
from einops import rearrange
from torch import Tensor, nn

from foveal.settings import unknown_name

# An order of L tokens: their rows as they lie, from the last to the first, or a permutation (L,) of int64
# whose first entry is the row that comes first.
Order: TypeAlias = Tensor | Literal["forward", "reverse"]
Shuffle = Literal["random", "fixed", "average"]
PATHS = ("forward", "reverse", "shuffle")


@runtime_checkable
class OrderedMixer(Protocol):
    """A mixer that follows orders by itself, and whose first and last layers see one token at a time.

    `MultiPath` then runs those layers once for all paths: the outer layers commute with any order.
    """

    out_proj: nn.Linear

    def inner(self, x: Tensor, orders: Sequence[Order]) -> list[Tensor]:
        """(B, L, E) an order: what `out_proj` takes, rows where those of x (B, L, D) lie."""
        ...


class MultiPath(nn.Module):
    """Mix tokens along several orders with one mixer, put each result back, and fuse: (B, L, D) to (B, L, D).

    With `fuse="gate"` the paths are weighted by softmax(W [m_1; ...; m_K]), m_k the mean token of path k;
    forward hooks on `gate` see those weights (B, K). One path alone has no gate.

    Args:
        mixer: any module from (B, L, D) to (B, L, D); all paths share it.
        dim: D.
        paths: of each path "forward", "reverse", "shuffle" (a random permutation, one a call for the whole
            batch) or a permutation (L,).
        fuse: "gate" or "mean".
        shuffle: permutations in evaluation: "fixed" has one of the seed, "average" takes the mean of the
            shuffled path over `draws` of the seed, "random" has a new one at each call, as in training, from
            torch's generator.
        draws: of "average".
        seed: of "fixed" and "average".

    Raises:
        ValueError: no path, or a path, `fuse` or `shuffle` that is not known.
    """

    def __init__(
        self,
        mixer: nn.Module,
        dim: int,
        *,
        paths: Sequence[str | Tensor] = PATHS,
        fuse: Literal["gate", "mean"] = "gate",
        shuffle: Shuffle = "fixed",
        draws: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not paths or draws < 1:
            raise ValueError(f"{len(paths)} paths and {draws} draws; allowed: at least one of each")
        for name in (path for path in paths if isinstance(path, str)):
            if name not in PATHS:
                raise ValueError(unknown_name("path", name, PATHS) + " or a permutation")
        if fuse not in ("gate", "mean"):
            raise ValueError(unknown_name("fuse", fuse, ("gate", "mean")))
        if shuffle not in get_args(Shuffle):
            raise ValueError(unknown_name("shuffle", shuffle, get_args(Shuffle)))
        self.mixer, self.fuse = mixer, fuse
        self.shuffle, self.draws, self.seed = shuffle, draws, seed
        self.paths = tuple(path if isinstance(path, str) else f"order_{k}" for k, path in enumerate(paths))
        for name, path in zip(self.paths, paths, strict=True):
            if isinstance(path, Tensor):
                self.register_buffer(name, path.to(torch.int64), persistent=False)
        count = len(paths)
        gated = fuse == "gate" and count > 1
        self.gate = (
            nn.Sequential(nn.Linear(count * dim, count, bias=False), nn.Softmax(dim=-1)) if gated else None
        )

    def forward(self, x: Tensor, *, orders: Sequence[Order] | None = None) -> Tensor:
        """Mix and fuse.

        Args:
            x: (B, L, D).
            orders: of the paths of this call, in place of those of the constructor.

        Raises:
            ValueError: a number of orders other than of paths, or an order that is no permutation of L.
        """
        groups = self._orders(x.shape[1]) if orders is None else [[order] for order in orders]
        if len(groups) != len(self.paths):
            raise ValueError(f"{len(groups)} orders for {len(self.paths)} paths; give one a path")
        flat = [order for group in groups for order in group]
        for order in flat:
            check_order(order, x.shape[1])
        if isinstance(self.mixer, OrderedMixer):
            mixed, project = self.mixer.inner(x, flat), cast(Callable[[Tensor], Tensor], self.mixer.out_proj)
        else:
            mixed, project = along(self.mixer, x, flat), _same
        found = iter(mixed)
        outputs = [_mean([next(found) for _ in group]) for group in groups]
        if self.gate is None:
            return project(_mean(outputs))
        means = torch.stack([output.mean(dim=1) for output in outputs], dim=1)  # (B, K, D or E)
        weights = self.gate(rearrange(project(means), "b k d -> b (k d)"))
        fused = outputs[0] * weights[:, 0, None, None]
        for k in range(1, len(outputs)):
            fused = torch.addcmul(fused, outputs[k], weights[:, k, None, None])
        return project(fused)

    def _orders(self, length: int) -> list[list[Order]]:
        """Of each path its orders; more than one where its results are averaged."""
        groups: list[list[Order]] = []
        for path in self.paths:
            if path in ("forward", "reverse"):
                groups.append([cast(Order, path)])
            elif path == "shuffle":
                groups.append(list(self._permutations(length)))
            else:
                groups.append([getattr(self, path)])
        return groups

    def _permutations(self, length: int) -> list[Tensor]:
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        if self.training or self.shuffle == "random":
            return [torch.randperm(length).to(device)]
        generator = torch.Generator().manual_seed(self.seed)
        count = self.draws if self.shuffle == "average" else 1
        return [torch.randperm(length, generator=generator).to(device) for _ in range(count)]


def along(mixer: Callable[[Tensor], Tensor], x: Tensor, orders: Sequence[Order]) -> list[Tensor]:
    """Results of a mixer along each order, rows where those of x (B, L, D) lie; one call for all orders."""
    arranged = torch.cat([in_order(x, order) for order in orders])
    return [
        out_of_order(part, order)
        for part, order in zip(mixer(arranged).chunk(len(orders)), orders, strict=True)
    ]


def in_order(x: Tensor, order: Order) -> Tensor:
    """Rows of x (B, L, D) in the order in which they come."""
    if isinstance(order, str):
        return x if order == "forward" else x.flip(1)
    return x.index_select(1, order)


def out_of_order(x: Tensor, order: Order) -> Tensor:
    """Rows (B, L, D) that came in an order, back where they lay: the exact inverse of `in_order`."""
    if isinstance(order, str):
        return in_order(x, order)
    return x.index_select(1, order.argsort())


def check_order(order: Order, length: int) -> None:
    """Refuse an order that is no permutation of `length` rows.

    Raises:
        ValueError: it is not.
    """
    if isinstance(order, str):
        if order not in ("forward", "reverse"):
            raise ValueError(unknown_name("order", order, ("forward", "reverse")) + " or a permutation")
        return
    if order.shape != (length,):
        raise ValueError(f"an order of shape {tuple(order.shape)} for {length} tokens; allowed: ({length},)")
    if not torch.equal(order.sort().values, torch.arange(length, device=order.device)):
        raise ValueError(f"an order of {length} tokens that is no permutation of 0 to {length - 1}")


@contextmanager
def seeded_shuffles(model: nn.Module, seed: int) -> Iterator[None]:
    """Let all shuffled paths of a model draw from another seed for a while, each layer differently."""
    layers = [module for module in model.modules() if isinstance(module, MultiPath)]
    kept = [layer.seed for layer in layers]
    try:
        for number, layer in enumerate(layers):
            layer.seed = seed * len(layers) + number
        yield
    finally:
        for layer, old in zip(layers, kept, strict=True):
            layer.seed = old


@torch.no_grad()
def spread_over_shuffles(
    model: nn.Module, images: Tensor, *, passes: int = 20, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a model's output over passes that differ in their permutations alone.

    Args:
        model: in evaluation mode, with `MultiPath` layers whose `shuffle` is "fixed" or "average"; with
            "random" the passes are drawn from torch's generator.
        images: its input.
        passes: at least 2.
        seed: of the permutations; the same seed gives the same numbers.

    Raises:
        ValueError: fewer than 2 passes, a model in training mode, or one without a shuffled path.
    """
    shuffled = [m for m in model.modules() if isinstance(m, MultiPath) and "shuffle" in m.paths]
    if passes < 2 or model.training or not shuffled:
        raise ValueError(
            f"{passes} passes of a model with {len(shuffled)} shuffled layers, training={model.training}; "
            "allowed: at least 2 passes, 1 shuffled layer, and evaluation mode (model.eval())"
        )
    outputs = []
    for number in range(passes):
        with seeded_shuffles(model, seed * passes + number + 1):
            outputs.append(model(images))
    stacked = torch.stack(outputs)
    return stacked.mean(dim=0), stacked.std(dim=0)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    if len(tensors) == 1:
        return tensors[0]
    total = tensors[0] + tensors[1]
    for tensor in tensors[2:]:
        total = total + tensor
    return total / len(tensors)


def _same(x: Tensor) -> Tensor:
    return x
