import pytest
import torch
from torch.nn import functional as F

from foveal.encoders import Encoder, Features, create_encoder
from foveal.explanation.decomposition import (
    DecompositionSettings,
    SingleImageDenoiser,
    average_views,
    decompose,
    dense_features,
    fit_decomposition,
)
from foveal.scans.crop_views import draw_crops

TINY = DecompositionSettings.laptop(
    views=12, levels=3, table_size=1024, max_resolution=32, steps=40, warmup_steps=4, batch_size=128
)


def views_of(dim=8, side=4, count=12):
    torch.manual_seed(0)
    places = draw_crops((side * 8, side * 8), count, seed=0).coordinates((side, side))
    return torch.randn(count + 1, side, side, dim), places


def vit():
    torch.manual_seed(0)
    return create_encoder(
        "timm/vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2
    )


class Flat(Encoder):
    """Patches without a grid of two axes."""

    dim, patch_size, in_channels = 4, 8, 3

    def forward(self, images):
        patches = torch.zeros(len(images), 16, 4)
        return Features(patches, (1, 4, 4), patches.mean(1))


def test_it_takes_any_encoder_apart_and_leaves_it_as_it_was():
    encoder = vit().train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = decompose(encoder, torch.rand(3, 32, 32), TINY)
    for part in (found.clean, found.artifact, found.residual, found.raw, found.subtracted):
        assert part.shape == (4, 4, 16)
        assert not part.requires_grad
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())
    pyramid = create_encoder("conv-pyramid", widths=(4, 8))
    assert decompose(pyramid, torch.rand(3, 32, 48), TINY.replace(steps=5)).clean.shape[-1] == 8


def test_two_runs_give_identical_losses():
    features, places = views_of()
    first, second = (fit_decomposition(features, places, TINY) for _ in range(2))
    assert torch.equal(first.losses, second.losses)
    assert torch.equal(first.clean, second.clean)
    other = fit_decomposition(features, places, TINY.replace(seed=1))
    assert not torch.equal(first.losses, other.losses)


def test_artifacts_stay_to_the_bit_in_the_second_phase(monkeypatch):
    features, places = views_of()
    seen = []
    own = SingleImageDenoiser.loss

    def watched(model, *values, late):
        seen.append((late, model.artifact.detach().clone(), model.rest[0].weight.detach().clone()))
        return own(model, *values, late=late)

    monkeypatch.setattr(SingleImageDenoiser, "loss", watched)
    found = fit_decomposition(features, places, TINY.replace(centred=False, standardise=False))
    early, late = seen[:20], seen[20:]
    assert [each[0] for each in seen] == [False] * 20 + [True] * 20
    assert not torch.equal(early[0][1], early[-1][1])
    assert all(torch.equal(each[1], late[0][1]) for each in late)
    assert torch.equal(found.artifact.flatten(0, 1), late[0][1])
    assert all(torch.equal(each[2], late[0][2]) for each in early)
    assert not torch.equal(late[0][2], late[-1][2])


def test_the_residual_network_has_no_part_in_the_gradient_of_the_field():
    features, places = views_of()
    model = SingleImageDenoiser(8, (4, 4), TINY.replace(residual=0.1, sparsity=0.02))
    with torch.no_grad():
        for parameter in model.rest.parameters():
            parameter.normal_()
    rows = features.flatten(0, 2)[:64], places.flatten(0, 2)[:64], torch.arange(64) % 16
    inside = model.loss(*rows, late=True)
    field = list(model.field.parameters())
    found = torch.autograd.grad(inside, field)
    # The same with the residual's own terms left out, and its output a constant.
    constant = model.rest(rows[0]).detach()
    shared = model.field(rows[1]) + model.artifact.detach()[rows[2]] + constant
    wanted = torch.autograd.grad(
        F.mse_loss(shared, rows[0]) + 1 - F.cosine_similarity(shared, rows[0], dim=-1).mean(), field
    )
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_a_constant_moved_from_the_artifact_to_the_field_leaves_the_sum():
    features, places = views_of()
    centred = fit_decomposition(features, places, TINY)
    free = fit_decomposition(features, places, TINY.replace(centred=False))
    torch.testing.assert_close(centred.clean + centred.artifact, free.clean + free.artifact)
    assert float(centred.artifact.mean(dim=(0, 1)).abs().max()) < 1e-6
    moved = centred.clean - free.clean
    torch.testing.assert_close(moved, moved[:1, :1].expand_as(moved), atol=1e-6, rtol=0)


def test_features_come_with_or_without_the_last_normalisation():
    encoder, images = vit(), torch.rand(2, 3, 32, 32)
    normed = dense_features(encoder, images)
    raw = dense_features(encoder, images, layer="backbone.blocks.1")
    torch.testing.assert_close(encoder.backbone.norm(raw), normed, atol=1e-5, rtol=1e-5)


def test_views_wait_in_half_precision_where_that_is_wanted():
    found = decompose(vit(), torch.rand(3, 32, 32), TINY.replace(stored="float16", steps=6))
    assert found.raw.dtype == torch.float32
    assert bool(torch.isfinite(found.clean).all())


def test_averaged_views_of_features_that_their_place_tells_are_that_place():
    _, places = views_of(side=8, count=64)
    mean = average_views(places, places, (8, 8))
    wanted = (torch.arange(8) + 0.5) / 8
    assert float((mean[..., 0] - wanted).abs().max()) < 0.5 / 8
    assert float((mean[..., 1] - wanted[:, None]).abs().max()) < 0.5 / 8


def test_images_and_views_that_cannot_be_are_refused():
    encoder = vit()
    with pytest.raises(ValueError, match="does not divide into cells of 8 px"):
        decompose(encoder, torch.rand(3, 30, 32), TINY)
    with pytest.raises(ValueError, match="views 1"):
        TINY.replace(views=1)
    with pytest.raises(ValueError, match="nothing of steps"):
        TINY.replace(warmup_steps=40)
    features, places = views_of()
    with pytest.raises(ValueError, match="allowed: 0 to 1"):
        fit_decomposition(features, places + 0.5, TINY)
    with pytest.raises(ValueError, match="two views or more"):
        fit_decomposition(features[:1], places[:1], TINY)
    with pytest.raises(ValueError, match="NaN or infinity"):
        fit_decomposition(features / 0, places, TINY)
    with pytest.raises(ValueError, match="two axes are wanted"):
        decompose(Flat(), torch.rand(3, 32, 32), TINY)


def test_no_layer_of_that_name_is_told():
    with pytest.raises(ValueError, match="no layer"):
        dense_features(vit(), torch.rand(1, 3, 32, 32), layer="backbone.block.1")


def test_standardised_fits_are_the_same_at_any_scale_of_features():
    features, places = views_of()
    one, large = (fit_decomposition(scale * features, places, TINY) for scale in (1, 8))
    for name in ("clean", "artifact", "residual", "raw"):
        torch.testing.assert_close(8 * getattr(one, name), getattr(large, name), atol=1e-3, rtol=1e-3)
    plain = fit_decomposition(8 * features, places, TINY.replace(standardise=False))
    assert float(plain.losses[-1]) > float(large.losses[-1])
