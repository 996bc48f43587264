import io

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.explanation.feature_pictures import feature_lengths, features_png, likeness, principal_colours


def test_colours_follow_the_largest_components_on_shared_axes():
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 8)
    first = torch.zeros(8, 8, 5)
    first[..., 3] = 10 * ramp
    first[..., 1] = 3 * ramp[:, None]
    first[..., 0] = torch.randn(8, 8) * 0.1
    colours, again = principal_colours([first, first])
    assert np.array_equal(colours, again)
    red = colours[..., 0].astype(float)
    assert abs(np.corrcoef(red.ravel(), first[..., 3].numpy().ravel())[0, 1]) > 0.99


def test_lengths_and_likeness_are_norms_and_cosines():
    torch.manual_seed(0)
    features = torch.randn(4, 5, 6)
    np.testing.assert_allclose(feature_lengths(features), features.norm(dim=-1).numpy(), rtol=1e-6)
    found = likeness(features, (1, 2))
    assert found[1, 2] == pytest.approx(1)
    assert found.shape == (4, 5)


def test_the_sheet_is_a_picture_of_all_maps():
    torch.manual_seed(0)
    maps = {name: torch.randn(6, 8, 4) for name in ("raw", "clean", "artifact")}
    png = features_png(maps, torch.rand(3, 48, 64), cell=(2, 3), together=("raw", "clean"))
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    assert picture.shape[0] > 500
    assert picture.std() > 10


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="rows 0 to 3"):
        likeness(torch.randn(4, 5, 6), (4, 0))
    with pytest.raises(ValueError, match="three are wanted"):
        principal_colours([torch.randn(4, 4, 2)])
    with pytest.raises(ValueError, match="did you mean 'raw'"):
        features_png({"raw": torch.randn(4, 4, 3)}, torch.rand(3, 8, 8), together=("rwa",))
    with pytest.raises(ValueError, match="of one D"):
        principal_colours([torch.randn(4, 4, 3), torch.randn(4, 4, 5)])
