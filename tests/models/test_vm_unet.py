"""VM-UNet: published sizes, shapes, saving, errors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foveal.models import Preprocess, Segmenter, SegmenterConfig
from foveal.models.networks import create_network, list_networks
from foveal.models.networks.vm_unet import VMUNet

SMALL: dict[str, Any] = {"dims": (8, 16, 24), "depths_enc": (1, 1, 1), "depths_dec": (1, 1, 1)}


def millions(**settings: object) -> float:
    with torch.device("meta"):
        return sum(p.numel() for p in VMUNet(**settings).parameters()) / 1e6  # type: ignore[arg-type]


def test_networks_have_the_derived_numbers_of_parameters() -> None:
    three, four = millions(block_settings={"heads": 3}), millions(block_settings={"heads": 4})
    plain = millions(block="ss2d")
    assert (round(three, 2), round(four, 2)) == (17.39, 17.26)
    assert round(plain, 1) == 27.4
    assert three / plain < 0.65


@pytest.mark.parametrize("block", ["mhs", "ss2d"])
def test_logits_have_the_size_of_the_images_and_every_parameter_learns(block: str) -> None:
    network = create_network("vm-unet", outputs=2, block=block, drop_path=0.0, **SMALL)
    logits = network(torch.randn(2, 3, 32, 48))
    (logits * torch.randn_like(logits)).sum().backward()
    assert logits.shape == (2, 2, 32, 48)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_grey_images_are_repeated() -> None:
    network, grey = VMUNet(**SMALL).eval(), torch.randn(1, 1, 32, 32)
    assert torch.equal(network(grey), network(grey.expand(-1, 3, -1, -1)))


def test_any_block_can_be_put_in() -> None:
    made: list[float] = []

    def block(dim: int, drop_path: float) -> nn.Module:
        made.append(round(drop_path, 3))
        return nn.Identity()

    VMUNet(block=block, dims=(8, 16), depths_enc=(1, 2), depths_dec=(2, 1))
    assert made == [0.0, 0.1, 0.2, 0.2, 0.1, 0.0]


def through_identities(**settings: Any) -> VMUNet:
    return VMUNet(
        block=lambda dim, drop_path: nn.Identity(),
        dims=(8, 16), depths_enc=(1, 1), depths_dec=(1, 1), **settings,
    ).eval()  # fmt: skip


def test_a_stage_of_the_decoder_gets_what_entered_the_encoder_at_its_size() -> None:
    network, seen = through_identities(), []
    network.decoder[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(1, 3, 16, 16)
    network(images)
    finest = network.patch_embed(images).movedim(1, -1)
    torch.testing.assert_close(seen[0], network.ups[0](network.downs[0](finest)) + finest)


def test_released_skips_are_added_below_and_leave_the_finest_patches_out() -> None:
    network, seen = through_identities(skip="released"), []
    network.ups[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(1, 3, 16, 16)
    network(images)
    entered = network.downs[0](network.patch_embed(images).movedim(1, -1))
    torch.testing.assert_close(seen[0], 2 * entered)


def test_a_scan_takes_the_place_of_the_blocks_own() -> None:
    rows = VMUNet(block="ss2d", scan="snake", **SMALL)
    assert rows.encoder[0][0].mixer.routes == "snake"
    heads = VMUNet(scan=("C", "X", "X", "Z"), **SMALL)
    assert heads.encoder[0][0].mixer.scan.heads == ("C", "X", "X", "Z")
    assert rows(torch.randn(1, 3, 16, 32)).shape == heads(torch.randn(1, 3, 16, 32)).shape
    with pytest.raises(ValueError, match="the block a function; give it in block_settings"):
        through_identities(scan="snake")


def test_segmenter_of_the_network_is_saved_and_loaded(tmp_path: Path) -> None:
    assert "vm-unet" in list_networks()
    config = SegmenterConfig(
        network="vm-unet", network_settings=SMALL, classes=("a", "b"), preprocess=Preprocess(contrast_sigma=0)
    )
    model = Segmenter(config).eval()
    model.save_pretrained(tmp_path)
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(Segmenter.from_pretrained(tmp_path)(images), model(images))


def test_wrong_sizes_and_names_are_refused() -> None:
    network = VMUNet(block="ss2d", depths_enc=(1, 1, 1, 1), depths_dec=(1, 1, 1, 1), dims=(8, 16, 32, 64))
    with pytest.raises(ValueError, match="multiples of 32"):
        network(torch.randn(1, 3, 48, 64))
    with pytest.raises(ValueError, match="allowed: \\(B, 3, H, W\\)"):
        network(torch.randn(1, 2, 64, 64))
    with pytest.raises(ValueError, match="did you mean 'mhs'"):
        VMUNet(block="mhss")
    with pytest.raises(ValueError, match="unknown skip 'released-code'"):
        VMUNet(skip="released-code")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"allowed: 2, the patches'\. For volumes take 'mamba-unet'"):
        create_network("vm-unet", outputs=1, spatial_dims=3)
    with pytest.raises(ValueError, match="as many depths as dims"):
        VMUNet(dims=(8, 16))
    with pytest.raises(ValueError, match="unknown network 'vm-unt'"):
        create_network("vm-unt", outputs=1)
    with pytest.raises(ValueError, match=r"allowed: unet, unet\+\+, .*vm-unet"):
        Segmenter(SegmenterConfig(network="vm-unt"))
