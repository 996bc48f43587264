"""T-TAME: the frozen model stays, the head learns, the losses are theirs."""

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import interpolate

from foveal.explanation import explain
from foveal.explanation.taps import tapped
from foveal.explanation.ttame import (
    MapHead,
    MapHeadConfig,
    MirroredImages,
    TTame,
    TTameObjective,
    total_variation,
)
from foveal.training import TrainingSettings, fit


class Standardised(nn.Module):
    """A small convolutional classifier that standardises its images."""

    def __init__(self, conv=nn.Conv2d, norm=nn.BatchNorm2d, pool=nn.AdaptiveAvgPool2d, dimensions=2):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(conv(3, 8, 3, stride=2, padding=1), norm(8), nn.ReLU())
        self.second = nn.Sequential(conv(8, 12, 3, stride=2, padding=1), norm(12), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Sequential(pool(1), nn.Flatten(), nn.Linear(12, 4))
        self.register_buffer("mean", torch.full((3, *[1] * dimensions), 0.4))

    def forward(self, images):
        return self.head(self.second(self.first((images - self.mean) / 0.2)))


@pytest.fixture
def model():
    return Standardised().eval()


IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Samples:
    def __len__(self):
        return 4

    def sample(self, index, generator):
        return {"images": IMAGES[index]}


def test_maps_have_the_first_layers_grid(model):
    ttame = TTame.untrained(model, IMAGES, ["first", "second"]).eval()
    maps = ttame(IMAGES)
    assert maps.shape == (4, 4, 16, 16)
    assert TTame.untrained(model, IMAGES, ["second"])(IMAGES).shape == (4, 4, 8, 8)
    small = TTame.untrained(model, IMAGES, ["first"], most_cells=5)
    assert small(IMAGES).shape == (4, 4, 5, 5)
    found = explain(model, IMAGES, 1, method="t-tame", trained=ttame)
    assert found.shape == (4, 32, 32)
    assert found.amin() == 0
    assert found.amax() <= 1


def test_volumes_have_maps_too():
    model = Standardised(nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d, dimensions=3).eval()
    volumes = torch.rand(2, 3, 8, 16, 16)
    ttame = TTame.untrained(model, volumes, ["first", "second"]).eval()
    assert ttame(volumes).shape == (2, 4, 4, 8, 8)
    losses = TTameObjective(ttame)({"images": volumes})
    assert torch.isfinite(losses["loss"])


def test_the_model_is_the_same_to_the_bit_after_training(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ttame = TTame.untrained(model, IMAGES, ["first", "second"])
    first = [p.clone() for p in ttame.head.parameters()]
    settings = TrainingSettings(steps=3, batch_size=2, optimizer="sgd", learning_rate=0.01, tensorboard=False)
    fit(TTameObjective(ttame), Samples(), settings, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(
        torch.equal(a, b) for a, b in zip(first, ttame.head.parameters(), strict=True) if a.ndim > 1
    )


def test_only_the_head_is_switched_to_training(model):
    ttame = TTame.untrained(model, IMAGES, ["first"]).train()
    assert ttame.head.training
    assert not any(module.training for module in model.modules())


def test_losses_of_an_even_map_are_their_formula(model):
    ttame = TTame.untrained(model, IMAGES, ["first"]).eval()
    nn.init.zeros_(ttame.head.fuse.weight)
    nn.init.zeros_(ttame.head.fuse.bias)  # a = 1 / 2
    losses = TTameObjective(ttame)({"images": IMAGES[:1]})
    side = 16
    assert losses["area"].item() == pytest.approx(0.5005**0.3, abs=1e-6)
    assert losses["variation"].item() == pytest.approx(0.3 * 4 * side * 0.25 / 2, abs=1e-5)
    total = 1.5 * losses["classification"] + 2 * losses["area"] + 0.01 * losses["variation"]
    torch.testing.assert_close(losses["loss"], total)


def test_variation_is_the_sum_of_squared_steps_and_borders():
    maps = torch.tensor([[[[0.0, 1.0], [0.5, 0.0]]]])
    steps = 0.5**2 + 1 + 1 + 0.5**2
    borders = 0.3 * 2 * (1 + 0.5**2)  # each cell of 2 x 2 is at two borders
    assert total_variation(maps).item() == pytest.approx((steps + borders) / 2)


@pytest.mark.parametrize("masking", ["standardised", "raw"])
def test_a_map_of_ones_leaves_the_image_as_it_is(model, masking):
    objective = TTameObjective(TTame.untrained(model, IMAGES, ["first"]), masking=masking)
    torch.testing.assert_close(objective.masked(IMAGES, torch.ones(4, 16, 16)), IMAGES)
    nothing = objective.masked(IMAGES, torch.zeros(4, 16, 16))
    wanted = 0.4 if masking == "standardised" else 0.0
    torch.testing.assert_close(nothing, torch.full_like(IMAGES, wanted))


def test_regularisation_takes_all_classes_of_the_batch_or_ones_own(model):
    ttame = TTame.untrained(model, IMAGES, ["first"]).eval()
    maps, outputs = ttame.with_outputs(IMAGES)
    classes, a = outputs.argmax(1), maps.sigmoid()
    batch = TTameObjective(ttame)({"images": IMAGES})["area"]
    own = TTameObjective(ttame, regularise="own")({"images": IMAGES})["area"]
    torch.testing.assert_close(batch, (a[:, classes] + 0.0005).pow(0.3).mean())
    torch.testing.assert_close(own, (a[torch.arange(4), classes] + 0.0005).pow(0.3).mean())


def test_each_class_of_a_batch_is_regularised_as_often_as_it_is_there(model):
    ttame = TTame.untrained(model, IMAGES, ["first"]).eval()
    classes = torch.tensor([2, 0, 2, 2])
    a = ttame(IMAGES).sigmoid()[:, classes]
    losses = TTameObjective(ttame, target=lambda _: classes)({"images": IMAGES})
    torch.testing.assert_close(losses["area"], (a + 0.0005).pow(0.3).mean())
    torch.testing.assert_close(losses["variation"], total_variation(a) / 4)


def test_classes_are_fused_before_their_maps_are_enlarged(model):
    ttame = TTame.untrained(model, IMAGES, ["first", "second"]).eval()
    with tapped(model, ["first", "second"]) as kept:
        model(IMAGES)
    head, parts = ttame.head, []
    for x, conv, norm in zip(kept.values(), head.convs, head.norms, strict=True):
        parts.append(interpolate((norm(conv(x)) + x).relu(), size=16, mode="bilinear"))
    torch.testing.assert_close(ttame(IMAGES), head.fuse(torch.cat(parts, dim=1)))


def test_branches_of_attention_give_maps_too_and_are_saved(model, tmp_path):
    options = {"branches": "attention", "heads": 4}
    ttame = TTame.untrained(model, IMAGES, ["first", "second"], **options).eval()
    assert ttame(IMAGES).shape == (4, 4, 16, 16)
    TTameObjective(ttame)({"images": IMAGES})["loss"].backward()
    assert all(p.grad is not None for p in ttame.head.parameters())
    ttame.head.save_pretrained(tmp_path)
    assert torch.equal(TTame(model, MapHead.from_pretrained(tmp_path))(IMAGES), ttame(IMAGES))
    with pytest.raises(ValueError, match="do not divide 8 channels"):
        TTame.untrained(model, IMAGES, ["first"], branches="attention")


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
    return timm.create_model("vit_tiny_patch16_224", **options).eval()


def test_patches_are_multiplied_by_the_class_token(vit):
    ttame = TTame.untrained(vit, IMAGES, ["blocks.1.norm2"])
    tokens = torch.randn(4, 17, 16)
    found = ttame._maps(tokens, IMAGES)
    expected = torch.einsum("bnd,bd->bdn", tokens[:, 1:], tokens[:, 0]).view(4, 16, 4, 4)
    torch.testing.assert_close(found, expected)


def test_a_dropped_class_token_has_no_say(vit):
    ttame = TTame.untrained(vit, IMAGES, ["blocks.1.norm2"], class_token="drop")
    tokens = torch.randn(4, 17, 16)
    changed = tokens.clone()
    changed[:, 0] += 1
    assert torch.equal(ttame._maps(tokens, IMAGES), ttame._maps(changed, IMAGES))


def test_half_of_the_samples_are_mirrored():
    samples = MirroredImages(IMAGES)
    drawn = [samples.sample(1, torch.Generator().manual_seed(seed))["images"] for seed in range(40)]
    mirrored = [not torch.equal(image, IMAGES[1]) for image in drawn]
    assert len(samples) == 4
    assert 10 < sum(mirrored) < 30
    assert all(
        torch.equal(x, IMAGES[1].flip(-1)) for x, turned in zip(drawn, mirrored, strict=True) if turned
    )


def test_a_saved_head_gives_the_same_maps(model, tmp_path):
    ttame = TTame.untrained(model, IMAGES, ["first", "second"]).eval()
    ttame.head.save_pretrained(tmp_path)
    again = TTame(model, MapHead.from_pretrained(tmp_path))
    assert torch.equal(again(IMAGES), ttame(IMAGES))


def test_what_does_not_fit_is_refused(model, vit):
    with pytest.raises(ValueError, match="did you mean 'second'"):
        TTame.untrained(model, IMAGES, ["secnd"])
    registers = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, reg_tokens=3
    ).eval()
    with pytest.raises(ValueError, match="prefix_tokens"):
        TTame.untrained(registers, IMAGES, ["blocks.0"])
    assert TTame.untrained(registers, IMAGES, ["blocks.0"], prefix_tokens=4)(IMAGES).shape[2:] == (4, 4)
    with pytest.raises(ValueError, match="give one of each"):
        MapHead(MapHeadConfig(layers=("a", "b"), channels=(3,), classes=2))
    with pytest.raises(ValueError, match="another model"):
        explain(vit, IMAGES, 0, method="t-tame", trained=TTame.untrained(model, IMAGES, ["first"]))
    with pytest.raises(ValueError, match="needs trained"):
        explain(vit, IMAGES, 0, method="t-tame")
    with pytest.raises(ValueError, match="masking"):
        TTameObjective(TTame.untrained(model, IMAGES, ["first"]), masking="zero")
