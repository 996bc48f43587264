"""How images reach an encoder: the side, mean and deviation that its weights were trained with."""

from __future__ import annotations

from pydantic import Field

from foveal.settings import Settings

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class EncoderPreprocess(Settings):
    """Images in [0, 1] are resized to `size` x `size` px; then (x - mean) / std is taken by channel."""

    size: int = Field(224, ge=1)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def for_channels(self, channels: int) -> EncoderPreprocess:
        """The same for another number of channels: one is their average, more repeat them in turn."""
        if channels == len(self.mean) == len(self.std):
            return self
        if channels == 1:
            return self.replace(mean=(sum(self.mean) / len(self.mean),), std=(sum(self.std) / len(self.std),))
        places = [channel % len(self.mean) for channel in range(channels)]
        return self.replace(
            mean=tuple(self.mean[place] for place in places), std=tuple(self.std[place] for place in places)
        )
