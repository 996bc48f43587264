"""Typed settings whose mistakes are named: the base class of every settings model in foveal."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

_LISTED = 40  # names told in a complaint


def unknown_name(what: str, name: str, allowed: Sequence[str]) -> str:
    """The complaint about a name that is not among those allowed, with the nearest of them."""
    nearest = difflib.get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ";"
    listed = ", ".join(allowed[:_LISTED]) + (f" … ({len(allowed)} in all)" if len(allowed) > _LISTED else "")
    return f"unknown {what} {name!r}{hint} allowed: {listed}"


class Settings(BaseModel):
    """Base of all settings: frozen, checked, and an unknown key is an error that suggests the nearest one.

    Example:
        >>> class Decoder(Settings):
        ...     channels: int = 32
        >>> Decoder(chanels=16)  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        ValidationError: unknown setting 'chanels'; did you mean 'channels'? allowed: channels
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _suggest_nearest(cls, values: Any) -> Any:
        """Turn each unknown key into an error that tells the nearest field and all allowed ones."""
        if not isinstance(values, dict):
            return values
        allowed = list(cls.model_fields)
        complaints = []
        for key in values:
            if key in allowed:
                continue
            complaints.append(unknown_name("setting", str(key), sorted(allowed)))
        if complaints:
            raise ValueError("\n".join(complaints))
        return values

    def replace(self, **changes: Any) -> Self:
        """Return a copy with `changes` applied, checked like the original (`model_copy` checks nothing)."""
        kept = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**(kept | changes))
