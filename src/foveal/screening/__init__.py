"""The main job: a folder of scans in, a report out."""

from foveal.screening.run import ScreenSummary, screen
from foveal.screening.settings import ScreenSettings

__all__ = ["ScreenSettings", "ScreenSummary", "screen"]
