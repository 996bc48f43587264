"""VMamba and MSVMamba: sizes of the published models, shapes, errors."""

import pytest
import torch

from foveal.encoders.base import create_encoder
from foveal.models import Classifier, ClassifierConfig

SMALL = {"dim": 8, "depths": (1, 1, 1, 1)}


def parameters(name: str, **settings: object) -> int:
    encoder = create_encoder(name, **settings)
    return sum(p.numel() for p in encoder.parameters()) + 1000 * (encoder.dim + 1)


@pytest.mark.parametrize(
    ("size", "count"), [("nano", 6_864_136), ("micro", 11_879_272), ("tiny", 33_046_312)]
)
def test_first_version_has_the_derived_number_of_parameters_with_1000_classes(size: str, count: int) -> None:
    with torch.device("meta"):
        assert parameters("msvmamba", size=size) == count


def test_second_version_and_vmamba_have_about_the_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        for size, millions in (("tiny", 32), ("small", 50), ("base", 91)):
            assert round(parameters("msvmamba", variant="v2", size=size) / 1e6) == millions
        assert round(parameters("vmamba") / 1e6) == 30


@pytest.mark.parametrize("name", ["vmamba", "msvmamba"])
def test_pyramid_has_strides_4_to_32_and_odd_sizes_are_filled_up(name: str) -> None:
    encoder = create_encoder(name, **SMALL).eval()
    maps = encoder(torch.randn(1, 3, 224, 224)).pyramid
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 56, 56), (16, 28, 28), (32, 14, 14), (64, 7, 7)]
    features = encoder(torch.randn(1, 3, 230, 250))
    assert features.grid == (8, 8)
    assert [tuple(m.shape[-2:]) for m in features.pyramid] == [(58, 63), (29, 32), (15, 16), (8, 8)]


def test_last_stage_of_224_px_scans_4_by_4_cells_and_returns_to_7_by_7() -> None:
    mixer = create_encoder("msvmamba", **SMALL).stages[3][0].mixer
    shapes = []
    mixer.conv_low.register_forward_hook(lambda *hook: shapes.append(tuple(hook[2].shape[-2:])))
    assert mixer(torch.randn(1, 7, 7, 64)).shape == (1, 7, 7, 64)
    assert shapes == [(4, 4)]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("msvmamba", {"variant": "v2"}),
        ("msvmamba", {"route_full": "col", "reset_state": True, "convolve": False}),
        ("vmamba", {"routes": "window", "route_options": {"window": 2}}),
        ("vmamba", {"states": 4, "expand": 2, "gate": True, "mlp_ratio": 0, "style": "patches"}),
    ],
)
def test_every_parameter_of_a_pyramid_learns_and_it_is_rebuilt_from_its_settings(
    name: str, settings: dict[str, object]
) -> None:
    encoder = create_encoder(name, **SMALL, **settings, drop_path=0.0)
    encoder(torch.randn(2, 3, 64, 64)).pooled.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())
    again = create_encoder(name, **encoder.settings)
    again.load_state_dict(encoder.state_dict())
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(again.eval()(images).pooled, encoder.eval()(images).pooled)


def test_low_routes_are_those_that_are_not_scanned_in_full() -> None:
    mixer = create_encoder("msvmamba", **SMALL, route_full="col").stages[0][0].mixer
    assert mixer.routes_low == ("row", "row_r", "col_r")


def test_classifier_with_a_scan_pyramid_is_saved_and_loaded(tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = ClassifierConfig(encoder="msvmamba", encoder_settings=SMALL, classes=("a", "b"), size=64)
    model = Classifier(config).eval()
    model.save_pretrained(tmp_path)
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(Classifier.from_pretrained(tmp_path)(images), model(images))


def test_small_images_and_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="sides of 32 pixels or more"):
        create_encoder("msvmamba", **SMALL)(torch.randn(1, 3, 31, 64))
    with pytest.raises(ValueError, match="did you mean 'nano'"):
        create_encoder("msvmamba", size="nanoo")
    with pytest.raises(ValueError, match="unknown variant 'v3'"):
        create_encoder("msvmamba", variant="v3")
    with pytest.raises(ValueError, match="unknown route_full"):
        create_encoder("msvmamba", route_full="X")
    with pytest.raises(ValueError, match="states is 0"):
        create_encoder("msvmamba", **SMALL, states=0)
    with pytest.raises(ValueError, match="unknown style"):
        create_encoder("vmamba", **SMALL, style="patch")
