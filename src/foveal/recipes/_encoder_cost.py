"""What passes through encoders cost: times taken in turn in one run."""

from foveal.machine import seconds_of

__all__ = ["seconds_of"]
