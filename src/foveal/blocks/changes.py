"""Changes to the structure of a model that are saved with it, and made again before its weights are loaded.

A kind of change lives in the file of this room that its name tells: "reduced-tokens" in `reduced_tokens.py`,
which registers the function that makes it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

Change = Mapping[str, Any]
"""`kind` and its settings, all JSON values."""

_F = TypeVar("_F", bound=Callable[..., None])
_KINDS: dict[str, Callable[..., None]] = {}


def register_change(kind: str) -> Callable[[_F], _F]:
    """Decorator of a function that changes a module in place: `function(module, **settings)`."""

    def register(function: _F) -> _F:
        if kind in _KINDS:
            raise ValueError(f"a change {kind!r} is registered already")
        _KINDS[kind] = function
        return function

    return register


def change_model(model: nn.Module, kind: str, **settings: Any) -> None:
    """Change a model in place and note it, so that the model can be saved and loaded.

    Args:
        model: or a part of one.
        kind: of the change.
        **settings: JSON values.

    Raises:
        ValueError: there is no such kind, or the change does not suit the model.
    """
    if kind not in _KINDS:
        name = f"{__package__}.{kind.replace('-', '_')}"
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
    if kind not in _KINDS:
        raise ValueError(f"unknown change {kind!r} of a model; this version of foveal may be older than it")
    _KINDS[kind](model, **settings)
    noted = [*getattr(model, "changes", []), {"kind": kind, **settings}]
    object.__setattr__(model, "changes", noted)


def changes_of(model: nn.Module) -> list[dict[str, Any]]:
    """All changes of a model and its parts, each with its `part`, in an order to make them again."""
    return [
        {"part": name, **change}
        for name, part in model.named_modules()
        for change in getattr(part, "changes", [])
    ]


def change_again(model: nn.Module, changes: Sequence[Change]) -> None:
    """Make changes of `changes_of` on a model that is new.

    Raises:
        ValueError: see `change_model`.
        AttributeError: the model has no such part.
    """
    for change in changes:
        settings = dict(change)
        change_model(model.get_submodule(settings.pop("part")), settings.pop("kind"), **settings)
