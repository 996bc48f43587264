"""Why the model said so: relevance maps of any classifier or segmenter, by one call."""

from foveal.explanation.methods import attribute, explain, list_methods
from foveal.explanation.targets import region

__all__ = ["attribute", "explain", "list_methods", "region"]
