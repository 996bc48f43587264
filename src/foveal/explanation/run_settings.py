"""Settings of a run of many methods over many images, and the record of one map."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from foveal.explanation.methods import find_method
from foveal.explanation.tiled import Blend
from foveal.settings import Settings

Measure = Literal["infidelity", "sensitivity", "randomisation"]
PREDICTED = "predicted"
ALL = "all"


class MethodChoice(Settings):
    """One method with its options.

    Example:
        >>> MethodChoice(name="occlusion", options={"window": 32}).label
        'occlusion'
    """

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    label: str = Field("", description="of its files; the name where none is given")

    @model_validator(mode="after")
    def _known(self) -> MethodChoice:
        find_method(self.name).with_options(**self.options)
        if not self.label:
            object.__setattr__(self, "label", self.name)
        return self


class ExplainSettings(Settings):
    """How a run explains."""

    methods: tuple[MethodChoice, ...] = Field(default_factory=lambda: (MethodChoice(name="saliency"),))
    targets: tuple[int | str, ...] = Field(
        (PREDICTED,), min_length=1, description="classes by name or index, predicted, or all"
    )
    where: Literal["predicted", "everywhere"] = Field("predicted", description="part of a segmenter's output")
    mean: bool = Field(False, description="explain the mean over that part, not the sum")
    tile: int | tuple[int, ...] | None = Field(None, description="sides of tiles in pixels; None is whole")
    overlap: float = Field(0.25, ge=0, le=0.9, description="share of a tile that neighbours share")
    blend: Blend = "core"
    autocast: Literal["float16", "bfloat16"] | None = Field(None, description="of tiles, on a GPU")
    timeout: float | None = Field(600.0, gt=0, description="seconds for one map, and for its measures")
    workers: int = Field(1, ge=1, description="processes; on a GPU they share it")
    threads: int | None = Field(None, ge=1, description="of each process; all cores shared out if not given")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    measures: tuple[Measure, ...] = Field(
        (), description="randomisation explains, and measures, again with all weights drawn anew"
    )
    measure_samples: int = Field(10, ge=1)
    perturbation: float = Field(
        0.02, gt=0, description="deviation of the measures' noise, share of the range"
    )
    seed: int = Field(0, description="of methods that draw and have no seed among their options")
    pictures: bool = True

    @field_validator("methods", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """A name alone is a method without options."""
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list | tuple):
            return tuple({"name": each} if isinstance(each, str) else each for each in value)
        return value

    @field_validator("methods", mode="after")
    @classmethod
    def _some(cls, value: tuple[MethodChoice, ...]) -> tuple[MethodChoice, ...]:
        # Not by min_length, which also complains of methods that are refused for another reason.
        if not value:
            raise ValueError("no method is named; allowed: one or more")
        return value

    @model_validator(mode="after")
    def _labels_differ(self) -> ExplainSettings:
        labels = [method.label for method in self.methods]
        if doubled := {label for label in labels if labels.count(label) > 1}:
            raise ValueError(f"methods {', '.join(sorted(doubled))} are named twice; give each a label")
        return self


class MapRecord(Settings):
    """What one map is and what it cost; written beside it."""

    key: str
    case: str
    method: str
    label: str
    options: dict[str, Any]
    target: str
    explained: str = Field(description="class that the target stands for, by name or index")
    score: float
    seconds: float
    shape: tuple[int, ...]
    signed: bool
    tiles: int = 1
    measured: dict[str, float] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class Failed(Settings):
    """A map that was not made, and why."""

    case: str
    label: str = ""
    target: str = ""
    reason: str
