"""Kernels that an explainer may meet as one operation, as it meets torch's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

P = ParamSpec("P")
R = TypeVar("R")


def overridable(kernel: Callable[P, R]) -> Callable[P, R]:
    """Make a kernel known to `torch.overrides.TorchFunctionMode`, by its first argument."""

    @wraps(kernel)
    def met(*args: P.args, **kwargs: P.kwargs) -> R:
        first = args[0] if args else next(iter(kwargs.values()))
        if has_torch_function((first,)):
            return handle_torch_function(met, (first,), *args, **kwargs)  # type: ignore[no-any-return]
        return kernel(*args, **kwargs)

    return met
