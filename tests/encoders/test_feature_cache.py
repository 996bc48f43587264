import torch

from foveal.encoders import create_encoder
from foveal.encoders.feature_cache import cache_key, cached_features, encoder_hash, image_hash


def _encoder(seed: int = 0, **settings):
    torch.manual_seed(seed)
    return create_encoder("multi-scale", encoder_settings={"widths": (4, 6)}, **settings)


def test_the_key_depends_on_image_weights_settings_and_sizes():
    image = torch.rand(3, 8, 8)
    keys = {
        cache_key(image_hash(img), encoder_hash(encoder), sizes)
        for img in (image, image.flip(0), image.reshape(3, 4, 16))
        for encoder in (_encoder(), _encoder(1), _encoder(scales=(1, 3)))
        for sizes in ([(8, 8)], [(8, 8), (16, 16)])
    }
    assert len(keys) == 18
    assert encoder_hash(_encoder()) == encoder_hash(_encoder())


def test_features_are_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return torch.arange(3.0)

    first = cached_features(tmp_path / "features", "key", compute)
    assert torch.equal(cached_features(tmp_path / "features", "key", compute), first)
    assert len(calls) == 1
