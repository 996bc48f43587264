import pytest
import torch
from torch.nn import functional as F

from foveal.scans.crop_views import CropBoxes, crop_views, draw_crops


def ramp(height, width):
    """Channels x and y, as shares of the sides at the centres of the pixels."""
    x = (torch.arange(width) + 0.5) / width
    y = (torch.arange(height) + 0.5) / height
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_crops_of_a_ramp_show_the_coordinates_that_are_told(flip):
    views, places = crop_views(ramp(96, 128), 24, stride=16, flip=flip, seed=1)
    shown = F.avg_pool2d(views, 16).movedim(1, -1)
    cell = torch.tensor([1 / 8, 1 / 6])  # of the whole image, in x and y
    assert float(((shown - places).abs() / cell).max()) < 0.06  # in cells; crops and resizing round pixels


def test_published_coordinates_go_from_edge_to_edge():
    boxes = draw_crops((64, 64), 5, seed=0)
    whole = boxes.coordinates((4, 4), at="edges")[-1]
    torch.testing.assert_close(whole[0, :, 0], torch.linspace(0, 1, 4))
    torch.testing.assert_close(whole[:, 0, 1], torch.linspace(0, 1, 4))
    centres = boxes.coordinates((4, 4))
    assert float((boxes.coordinates((4, 4), at="edges") - centres).abs().max()) <= 0.5 / 4 + 1e-6
    top, left, height, width = boxes.pixels[0].tolist()
    box = CropBoxes(boxes.pixels[:1], torch.tensor([True]), (64, 64)).coordinates((4, 4), at="edges")[0]
    torch.testing.assert_close(box[0, :, 0], torch.linspace(left + width, left, 4) / 64)
    torch.testing.assert_close(box[:, 0, 1], torch.linspace(top, top + height, 4) / 64)


def test_the_last_view_is_the_image_itself_with_the_centres_of_its_cells():
    image = torch.rand(3, 32, 48)
    views, places = crop_views(image, 3, stride=8, flip=1.0)
    assert torch.equal(views[-1], image)
    torch.testing.assert_close(places[-1, 0, :, 0], (torch.arange(6) + 0.5) / 6)
    torch.testing.assert_close(places[-1, :, 0, 1], (torch.arange(4) + 0.5) / 4)


def test_areas_and_ratios_keep_to_their_limits_and_places_to_the_image():
    boxes = draw_crops((200, 200), 200, seed=3)
    _, _, height, width = boxes.pixels[:-1].float().unbind(1)
    assert float((height * width / 200**2).min()) > 0.095
    assert float((height * width / 200**2).max()) < 0.505
    assert float((width / height).max()) < 4 / 3 + 0.03
    places = boxes.coordinates((5, 5))
    assert float(places.min()) >= 0
    assert float(places.max()) <= 1
    assert 60 < int(boxes.flipped.sum()) < 140


def test_the_same_seed_gives_the_same_crops_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (draw_crops((64, 64), 8, seed=2) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first.pixels, draw_crops((64, 64), 8, seed=3).pixels)


def test_images_that_no_whole_number_of_cells_fills_are_refused():
    with pytest.raises(ValueError, match=r"resize it, e\.g\. to 48 x 64"):
        crop_views(torch.rand(3, 50, 64), 4, stride=16)
    with pytest.raises(ValueError, match=r"float \(C, H, W\)"):
        crop_views(torch.rand(1, 3, 64, 64), 4, stride=16)


def test_fewer_than_two_views_and_wrong_scales_are_refused():
    with pytest.raises(ValueError, match="1 views; allowed: 2 or more"):
        crop_views(torch.rand(3, 64, 64), 1, stride=16)
    with pytest.raises(ValueError, match="the smaller first"):
        draw_crops((64, 64), 4, scale=(0.5, 0.1))
    with pytest.raises(ValueError, match="'edges'"):
        draw_crops((64, 64), 4).coordinates((4, 4), at="corners")
