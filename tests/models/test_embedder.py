import pytest
import torch
from torch.nn import functional as F

from foveal.encoders import create_encoder
from foveal.encoders.base import Encoder
from foveal.encoders.preprocessing import EncoderPreprocess
from foveal.models import Classifier, ClassifierConfig, Embedder, EmbedderConfig

SMALL = EmbedderConfig(
    encoder="conv-pyramid", encoder_settings={"widths": (4, 8)}, preprocess=EncoderPreprocess(size=32)
)


def test_images_of_any_size_become_the_pooled_vectors_of_the_normalised_image(tmp_path):
    torch.manual_seed(0)
    embedder = Embedder(SMALL).eval()
    images = torch.rand(3, 3, 32, 32)
    mean, std = torch.tensor(SMALL.preprocess.mean), torch.tensor(SMALL.preprocess.std)
    normal = (images - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    torch.testing.assert_close(embedder(images), embedder.encoder(normal).pooled)
    torch.testing.assert_close(embedder.embed(images, batch=2), embedder(images))
    assert embedder(torch.rand(1, 3, 50, 70)).shape == (1, 8)
    again = Embedder.from_pretrained(embedder.save_pretrained(tmp_path))
    assert torch.equal(again(images), embedder(images))


def test_an_embedder_around_an_encoder_takes_the_preprocessing_of_its_weights(tmp_path):
    encoder = create_encoder("timm/resnet10t", in_channels=1).eval()
    embedder = Embedder.of(encoder, unit=True).eval()
    images = torch.rand(2, 1, 40, 40)
    assert embedder.encoder is encoder
    assert embedder.config.preprocess == encoder.preprocess
    torch.testing.assert_close(embedder(images).norm(dim=1), torch.ones(2))
    again = Embedder.from_pretrained(embedder.save_pretrained(tmp_path))
    torch.testing.assert_close(again(images), embedder(images))


def test_mistakes_are_named():
    class Nameless(Encoder):
        pass

    with pytest.raises(ValueError, match="no registered name"):
        Embedder.of(Nameless())
    with pytest.raises(ValueError, match=r"images of shape \(1, 1, 8, 8\); allowed: \(B, 3, H, W\)"):
        Embedder(SMALL)(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="batch 0"):
        Embedder(SMALL).embed(torch.rand(1, 3, 8, 8), batch=0)


def test_a_classifier_takes_the_official_head_where_the_classes_fit():
    torch.manual_seed(0)
    settings = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    source = create_encoder("timm/vit_tiny_patch16_224", **settings)
    official = source.backbone.state_dict() | {"head.weight": torch.rand(3, 24), "head.bias": torch.rand(3)}
    for classes, fits in ((("a", "b", "c"), True), (("a", "b"), False)):
        config = ClassifierConfig(
            encoder="timm/vit_tiny_patch16_224", encoder_settings=settings, classes=classes, size=32
        )
        model = Classifier(config)
        loaded = model.load_official({"state_dict": official})
        assert loaded.head is not None
        assert (model.head.weight.shape == (3, 24)) == fits
        if fits:
            torch.testing.assert_close(model.head.weight.data, official["head.weight"])
        images = torch.rand(1, 3, 32, 32)
        torch.testing.assert_close(model.encoder(images).pooled, source(images).pooled)


def test_unit_vectors_have_length_one():
    vectors = Embedder(SMALL.replace(unit=True)).eval()(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(vectors, F.normalize(vectors, dim=1))
