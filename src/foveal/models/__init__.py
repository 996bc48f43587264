"""What is saved and loaded: an encoder, its head and its preprocessing."""

from foveal.models.classifier import Classifier, ClassifierConfig
from foveal.models.embedder import Embedder, EmbedderConfig
from foveal.models.pretrained import PretrainedModel, weights_hash
from foveal.models.segmenter import Preprocess, Segmenter, SegmenterConfig
from foveal.models.shipped import shipped_model

__all__ = [
    "Classifier",
    "ClassifierConfig",
    "Embedder",
    "EmbedderConfig",
    "Preprocess",
    "PretrainedModel",
    "Segmenter",
    "SegmenterConfig",
    "shipped_model",
    "weights_hash",
]
