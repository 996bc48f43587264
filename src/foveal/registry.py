"""Things by their names: registered where they are written, found by importing the files of a package."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from foveal.settings import unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Things by name; every file of a package registers its own on import, so that there is no list to edit.

    Args:
        kind: what one is called in complaints.
        package: whose files are imported before a name is looked up.
        left_out: end of the names of files that are not.

    Example:
        >>> networks: Registry[type] = Registry("network", "foveal.models.networks")
        >>> networks.add("mine", object)
        >>> networks.find("mine")
        <class 'object'>
    """

    def __init__(self, kind: str, package: str, *, left_out: str = "") -> None:
        self.kind, self.package, self.left_out = kind, package, left_out
        self._things: dict[str, T] = {}
        self._imported = False

    def add(self, name: str, thing: T) -> None:
        """Register a thing.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._things:
            raise ValueError(f"the {self.kind} {name!r} is registered already")
        self._things[name] = thing

    def names(self) -> list[str]:
        """Of all, sorted."""
        self._import_all()
        return sorted(self._things)

    def find(self, name: str, *, others: Sequence[str] = ()) -> T:
        """The thing of a name.

        Args:
            name: of it.
            others: names to tell in the complaint that are found in another way.

        Raises:
            ValueError: there is none; tells the nearest name.
        """
        names = self.names()
        if name not in self._things:
            raise ValueError(unknown_name(self.kind, name, [*names, *others]))
        return self._things[name]

    def _import_all(self) -> None:
        if self._imported:
            return
        for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
            if not (self.left_out and module.name.endswith(self.left_out)):
                importlib.import_module(f"{self.package}.{module.name}")
        self._imported = True


Options = Mapping[str, inspect.Parameter]


def options_of(*functions: Callable[..., Any]) -> Options:
    """The keyword-only parameters of functions, by name: what a user may set."""
    parameters = [each for function in functions for each in inspect.signature(function).parameters.values()]
    return {each.name: each for each in parameters if each.kind is each.KEYWORD_ONLY}


def check_options(name: str, options: Options, given: Mapping[str, Any]) -> None:
    """Refuse options that a registered function does not have, and missing ones that it needs.

    Args:
        name: of the function.
        options: that it has.
        given: to it.

    Raises:
        ValueError: tells the option, and the nearest that there is.
    """
    if unknown := set(given) - set(options):
        raise ValueError(unknown_name(f"option of {name!r}", min(unknown), list(options)))
    lacking = [each for each, parameter in options.items() if parameter.default is parameter.empty]
    if needed := [each for each in lacking if each not in given]:
        raise ValueError(f"{name} needs the option {', '.join(needed)}")


def first_line(function: Callable[..., Any]) -> str:
    """Of a function's documentation."""
    return (function.__doc__ or "").strip().split("\n")[0]
