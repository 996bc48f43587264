"""foveal: a retina-first toolkit for vision and vision-language models in medical imaging."""

__version__ = "0.1.0"
