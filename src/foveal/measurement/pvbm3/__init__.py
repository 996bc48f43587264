"""What the package pvbm 3.0.1.8 measures, with its numbers: to reproduce and to compare published tables.

Equal to the package to 1e-9 (counts exactly), and written anew from a description of what it computes, to run
in compiled loops with a memory and a time that its recursion does not have. For new work the exact
biomarkers of `foveal.measurement.biomarkers` are the better choice.
"""

from foveal.measurement.pvbm3.equivalents import Pvbm3Equivalents, measure_equivalents
from foveal.measurement.pvbm3.fractals import Pvbm3Fractals, measure_fractals
from foveal.measurement.pvbm3.geometry import Pvbm3Geometry, measure_geometry
from foveal.measurement.pvbm3.legacy import Pvbm3LegacyGeometry, measure_legacy_geometry
from foveal.measurement.pvbm3.measure import PVBM3_FAMILIES, measure_pvbm3
from foveal.measurement.pvbm3.zones import calibre_zone, geometry_zone, whole_pixel_disc

__all__ = [
    "PVBM3_FAMILIES",
    "Pvbm3Equivalents",
    "Pvbm3Fractals",
    "Pvbm3Geometry",
    "Pvbm3LegacyGeometry",
    "calibre_zone",
    "geometry_zone",
    "measure_equivalents",
    "measure_fractals",
    "measure_geometry",
    "measure_legacy_geometry",
    "measure_pvbm3",
    "whole_pixel_disc",
]
