"""The biomarkers: one short documented function each, in the registry once this package is imported."""

# The order here is the order of the columns.
from foveal.measurement.biomarkers import (  # noqa: I001
    extent,
    calibre,
    central,
    tortuosity,
    branching,
    fractal,
    sparsity,
    position,
)
from foveal.measurement.registry import BIOMARKERS

__all__ = [
    "BIOMARKERS",
    "branching",
    "calibre",
    "central",
    "extent",
    "fractal",
    "position",
    "sparsity",
    "tortuosity",
]
