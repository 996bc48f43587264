"""VM-UNet: published sizes, shapes, saving, errors."""

from pathlib import Path

import pytest
import torch
from torch import nn

from foveal.models import Preprocess, Segmenter, SegmenterConfig
from foveal.models.networks import create_network, list_networks
from foveal.models.networks.vm_unet import VMUNet

SMALL = {"dims": (8, 16, 24), "depths_enc": (1, 1, 1), "depths_dec": (1, 1, 1)}


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
    network, grey = VMUNet(**SMALL).eval(), torch.randn(1, 1, 32, 32)  # type: ignore[arg-type]
    assert torch.equal(network(grey), network(grey.expand(-1, 3, -1, -1)))


def test_any_block_can_be_put_in_and_skips_are_added_to_what_comes_up() -> None:
    made: list[float] = []

    def block(dim: int, drop_path: float) -> nn.Module:
        made.append(round(drop_path, 3))
        return nn.Identity()

    network = VMUNet(block=block, dims=(8, 16), depths_enc=(1, 2), depths_dec=(2, 1)).eval()
    assert made == [0.0, 0.1, 0.2, 0.2, 0.1, 0.0]
    seen = []
    network.ups[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randn(1, 3, 16, 16)
    network(images)
    entered = network.downs[0](network.patch_embed(images).movedim(1, -1))
    torch.testing.assert_close(seen[0], 2 * entered)


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
    with pytest.raises(ValueError, match="as many depths as dims"):
        VMUNet(dims=(8, 16))
    with pytest.raises(ValueError, match="unknown network 'vm-unt'"):
        create_network("vm-unt", outputs=1)
    with pytest.raises(ValueError, match=r"allowed: unet, unet\+\+, .*vm-unet"):
        Segmenter(SegmenterConfig(network="vm-unt"))
