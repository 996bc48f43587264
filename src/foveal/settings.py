"""Typed settings whose mistakes are named: the base class of every settings model in foveal."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Settings(BaseModel):
    """A frozen pydantic model; an unknown key is an error that suggests the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        known = list(cls.model_fields)
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
                hint = f" did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"unknown setting {key!r};{hint} allowed: {', '.join(sorted(known))}")
        return values
