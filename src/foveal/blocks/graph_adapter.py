"""A graph network before a sequence mixer: patches of a slide as nodes, then as tokens."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class GraphThenSequence(nn.Module):
    """x + graph(x, edges), then x + mixer(LN(x)): nodes (B, L, D) to the same.

    Args:
        dim: D.
        graph: any network of graphs, from nodes (B, L, D) and edges to nodes (B, L, D); what `edges` are is
            its own affair (pairs (2, M), or a matrix).
        mixer: of sequences (B, L, D), such as `MambaMixer` or `BidirectionalMamba`.
    """

    def __init__(self, dim: int, graph: Callable[[Tensor, Tensor], Tensor], mixer: nn.Module) -> None:
        super().__init__()
        self.graph, self.mixer = graph, mixer
        self.graph_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Apply both.

        Raises:
            ValueError: the graph network changes the shape of the nodes.
        """
        told = self.graph(self.graph_norm(nodes), edges)
        if told.shape != nodes.shape:
            raise ValueError(
                f"the graph network made {tuple(told.shape)} of nodes {tuple(nodes.shape)}; "
                "allowed: the same shape"
            )
        nodes = nodes + told
        return nodes + self.mixer(self.norm(nodes))
