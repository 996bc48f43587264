"""Which modules of a model are being called during a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def named_calls(model: nn.Module) -> Iterator[list[str]]:
    """Names of the modules that are being called, the innermost last."""
    stack: list[str] = []
    handles = []
    for name, module in model.named_modules():
        handles.append(
            module.register_forward_pre_hook(lambda *_, name=name: stack.append(name or "the model"))
        )
        handles.append(module.register_forward_hook(lambda *_: stack.pop() and None, always_call=True))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()
