import pytest
import torch

from foveal.encoders import Encoder, create_encoder
from foveal.encoders.denoised import Denoised

VIT = {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def vit():
    torch.manual_seed(0)
    return create_encoder("timm/vit_tiny_patch16_224", **VIT).eval()


def test_it_is_the_encoder_with_its_patch_tokens_cleaned():
    encoder = vit()
    denoised = Denoised(encoder=encoder, grid=(4, 4)).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        raw, found = encoder(images), denoised(images)
        clean = denoised.denoiser(raw.patches.view(2, 4, 4, 32))
    torch.testing.assert_close(found.patches, clean.flatten(1, 2))
    torch.testing.assert_close(found.pyramid[-1], clean.movedim(-1, 1))
    torch.testing.assert_close(found.pooled, raw.pooled)
    assert found.grid == raw.grid
    assert (denoised.dim, denoised.patch_size) == (encoder.dim, encoder.patch_size)


def test_levels_of_a_pyramid_that_are_not_its_patches_stay():
    encoder = create_encoder("conv-pyramid", widths=(8, 16)).eval()
    denoised = Denoised(encoder=encoder, grid=(4, 4)).eval()
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        raw, found = encoder(images).pyramid, denoised(images).pyramid
    assert torch.equal(raw[0], found[0])
    assert not torch.equal(raw[-1], found[-1])


def test_a_frozen_encoder_stays_as_it_is_in_training():
    denoised = Denoised(encoder=vit(), grid=(4, 4)).train()
    assert not denoised.encoder.training
    denoised(torch.rand(1, 3, 32, 32)).patches.sum().backward()
    assert all(p.grad is None for p in denoised.encoder.parameters())
    assert all(p.grad is not None for p in denoised.denoiser.parameters())
    free = Denoised(encoder=vit(), grid=(4, 4), frozen=False).train()
    free(torch.rand(1, 3, 32, 32)).patches.sum().backward()
    assert any(p.grad is not None for p in free.encoder.parameters())


def test_a_saved_one_comes_back_with_encoder_and_block(tmp_path):
    denoised = Denoised(encoder=vit(), grid=(4, 4)).eval()
    images = torch.rand(1, 3, 32, 32)
    again = Encoder.from_pretrained(denoised.save_pretrained(tmp_path / "saved"))
    with torch.no_grad():
        torch.testing.assert_close(again(images).patches, denoised(images).patches)
    assert isinstance(again, Denoised)


def test_images_of_other_sizes_get_resized_positions():
    denoised = create_encoder(
        "denoised", encoder="timm/vit_tiny_patch16_224", encoder_settings=VIT, grid=(4, 4)
    ).eval()
    assert denoised(torch.rand(1, 3, 48, 32)).grid == (6, 4)


def test_an_encoder_with_its_settings_is_refused():
    with pytest.raises(ValueError, match="made already"):
        Denoised(encoder=vit(), encoder_settings=VIT)
