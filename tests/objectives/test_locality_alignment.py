"""Locality alignment: targets of unit variance, a first loss of one, and what takes part in it."""

from copy import deepcopy
from functools import cache

import pytest
import torch

from foveal.blocks.patch_masks import MaskSettings, masked_images
from foveal.encoders import create_encoder
from foveal.encoders.vit_tokens import vit_of, vit_tokens
from foveal.models.masked_embedding import MaskedEmbedding
from foveal.models.token_adapter import TokenAdapter
from foveal.objectives.locality_alignment import (
    LocalityAlignment,
    MaskedTokenPrediction,
    pooled_variance,
    token_losses,
)

TINY = {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
SIGLIP = {"class_token": False, "global_pool": "map"}
KINDS = [{}, SIGLIP, {"reg_tokens": 4}, {"global_pool": "avg"}]


@cache
def encoder(**options):
    torch.manual_seed(0)
    return create_encoder("timm/vit_tiny_patch16_224", **{**TINY, **options}).eval()


def aligned(options=None, student=None, **settings):
    teacher = encoder(**(options or {}))
    made = LocalityAlignment(MaskedEmbedding.of(teacher, **(student or {})), teacher, **settings)
    made.calibrate([IMAGES])
    return made


IMAGES = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("options", "head"), [*((kind, "linear") for kind in KINDS), ({}, "mlp")])
def test_the_first_loss_is_one_and_the_first_prediction_does_not_see_the_image(options, head):
    objective = aligned(options, {"head": head})
    losses = objective({"images": IMAGES})
    assert set(losses) == {"loss", "whole", "parts"}
    assert 0.9 < losses["loss"].item() < 1.1
    masks = objective.draw(IMAGES)
    first, _, _ = objective.predicted(IMAGES, masks)
    assert torch.equal(first, objective.predicted(IMAGES.flip(0), masks)[0])
    losses["loss"].backward()
    trained = {n for n, p in objective.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(name.startswith("student.head") for name in trained)
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())


@pytest.mark.parametrize("options", KINDS)
def test_every_weight_of_the_student_that_is_trained_takes_part(options):
    objective = aligned(options)
    torch.nn.init.normal_(objective.student.head.weight)
    objective({"images": IMAGES})["loss"].backward()
    idle = [n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_targets_have_unit_variance_whatever_the_batches_are():
    objective = aligned()
    scale = float(objective.scale)
    assert objective.calibrate(list(IMAGES.split(3))) == pytest.approx(scale)
    parts = [torch.randn(7) + 3, torch.randn(2, 50) * 4, torch.randn(3) - 9]
    whole = torch.cat([part.flatten() for part in parts])
    assert pooled_variance(parts) == pytest.approx(float(whole.var(correction=0)), rel=1e-5)
    with pytest.raises(ValueError, match="no values"):
        pooled_variance([])


def test_the_teacher_tells_the_penultimate_tokens_of_the_masked_image():
    objective = aligned()
    masks = objective.draw(IMAGES)
    _, target, shown = objective.predicted(IMAGES, masks)
    standard = objective.student.standardised(IMAGES)
    wanted = vit_tokens(objective.teacher, masked_images(standard, masks, 8), skip_blocks=1) * objective.scale
    torch.testing.assert_close(target, wanted)
    assert not shown[:, 0].any()
    assert torch.equal(shown[:, 1:], masks.flatten(0, 1))


def test_the_student_begins_with_the_encoders_weights_a_new_norm_and_a_cap():
    pretrained = deepcopy(encoder(reg_tokens=2))
    torch.nn.init.normal_(pretrained.backbone.norm.weight)
    student = MaskedEmbedding.of(pretrained)
    assert student.encoder.settings["soft_cap"] == 30.0
    norm = vit_of(student.encoder).norm
    assert torch.equal(norm.weight, torch.ones(32))
    assert not norm.bias.any()
    torch.testing.assert_close(
        student.encoder.backbone.blocks.state_dict(), pretrained.backbone.blocks.state_dict()
    )


def test_masks_that_are_given_are_used():
    objective, keep = aligned(), torch.rand(8, 2, 16) < 0.5
    losses = objective({"images": IMAGES, "keep": keep})
    assert set(losses) == {"loss"}
    assert torch.equal(losses["loss"], objective({"images": IMAGES, "keep": keep})["loss"])


def test_each_loss_is_its_formula_and_prefix_tokens_count_as_masked():
    prediction, target = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    kept = torch.tensor([[False, True, True, False, False], [False] * 5])
    errors = (prediction - target).square()
    for kind, wanted in {
        "mse": errors.mean((1, 2)),
        "l1": (prediction - target).abs().mean((1, 2)),
        "masked_mse": torch.stack([errors[0, [0, 3, 4]].mean(), errors[1].mean()]),
        "unmasked_mse": torch.stack([errors[0, 1:3].mean(), torch.zeros(())]),
    }.items():
        torch.testing.assert_close(token_losses(prediction, target, kept, kind=kind), wanted)
    same = token_losses(2 * target, target, kept, kind="cosine")
    torch.testing.assert_close(same, torch.zeros(2))
    objective = aligned(loss="cosine")
    keep = objective.draw(IMAGES)
    wanted = token_losses(*objective.predicted(IMAGES, keep), kind="cosine").mean()
    assert torch.equal(objective({"images": IMAGES, "keep": keep})["loss"], wanted)


def test_prefix_tokens_alone_can_be_reconstructed():
    objective = aligned(student={"prefix_only": True})
    prediction, target, shown = objective.predicted(IMAGES, objective.draw(IMAGES))
    assert prediction.shape == target.shape == (24, 1, 32)
    assert not shown.any()


def test_the_precursor_tells_the_whole_image_from_its_parts():
    teacher = encoder()
    student = MaskedEmbedding.of(teacher)
    masks = MaskSettings(kind="bernoulli", antithetic=False, whole=False)
    precursor = MaskedTokenPrediction(student, teacher, masks=masks)
    precursor.calibrate([IMAGES])
    losses = precursor({"images": IMAGES})
    assert 0.85 < losses["loss"].item() < 1.15
    losses["loss"].backward()
    assert precursor.predict.weight.grad.any()
    assert not any(parameter.requires_grad for parameter in student.decoder.parameters())
    LocalityAlignment(student, teacher)
    assert all(parameter.requires_grad for parameter in student.decoder.parameters())


def test_pairs_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match=r"patches of \(16, 16\) px, the student of \(8, 8\)"):
        LocalityAlignment(MaskedEmbedding.of(encoder()), encoder(patch_size=16))
    with pytest.raises(ValueError, match="5 prefix tokens"):
        LocalityAlignment(MaskedEmbedding.of(encoder()), encoder(reg_tokens=4))
    with pytest.raises(ValueError, match="target_dim=48"):
        LocalityAlignment(MaskedEmbedding.of(encoder()), encoder(embed_dim=48))
    LocalityAlignment(MaskedEmbedding.of(encoder(), target_dim=48), encoder(embed_dim=48))
    with pytest.raises(ValueError, match="no vision transformer"):
        MaskedEmbedding.of(create_encoder("conv-pyramid"))
    with pytest.raises(ValueError, match=r"want \(8, R, 16\)"):
        aligned()({"images": IMAGES, "keep": torch.ones(8, 3, 9, dtype=torch.bool)})
    with pytest.raises(ValueError, match="allowed: mse"):
        aligned(loss="huber")


def test_student_and_decoder_come_back_from_a_folder_and_the_encoder_alone_too(tmp_path):
    objective = aligned(SIGLIP)
    torch.nn.init.normal_(objective.student.head.weight)
    objective.student.save_pretrained(tmp_path / "decoder")
    objective.student.encoder.save_pretrained(tmp_path / "model")
    masks = objective.draw(IMAGES)
    with torch.no_grad():
        loaded = MaskedEmbedding.from_pretrained(tmp_path / "decoder")
        torch.testing.assert_close(loaded(IMAGES, masks), objective.eval().student(IMAGES, masks))
        drop_in = type(objective.teacher).from_pretrained(tmp_path / "model")
        torch.testing.assert_close(drop_in(IMAGES).patches, objective.student.encoder(IMAGES).patches)


def test_adapters_give_a_token_a_patch_and_the_decoder_is_shared():
    student = MaskedEmbedding.of(encoder(reg_tokens=2))
    torch.nn.init.normal_(student.head.weight)
    for kind in ("mlp", "decoder"):
        adapter = TokenAdapter(student, 40, adapter=kind)
        assert adapter(student.standardised(IMAGES)).shape == (8, 16, 40)
    assert adapter.decoder is student.decoder
    with pytest.raises(ValueError, match="allowed: 'mlp', 'decoder'"):
        TokenAdapter(student, 40, adapter="perceiver")
