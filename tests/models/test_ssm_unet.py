"""The builder: every part by name, any size, images and volumes, errors."""

from itertools import product
from pathlib import Path

import pytest
import torch

from foveal.blocks.grid_blocks import GRID_BLOCKS
from foveal.models import Preprocess, Segmenter, SegmenterConfig
from foveal.models.networks import create_network
from foveal.models.networks.frame import count_stages
from foveal.models.networks.ssm_unet import SSMUNet
from foveal.models.networks.unet_parts import DOWNS, SKIPS, UPS, CellExpanding, CellMerging

SMALL = {"dims": (8, 16, 16), "in_channels": 1}


def assert_learns(network: torch.nn.Module, *sizes: int, channels: int = 1, outputs: int = 1) -> None:
    logits = network(torch.randn(2, channels, *sizes))
    (logits * torch.randn_like(logits)).sum().backward()
    assert logits.shape == (2, outputs, *sizes)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "dimensions"), [(n, d) for n, k in GRID_BLOCKS.items() for d in k.dimensions]
)
def test_every_block_is_a_bottleneck_of_images_or_volumes(name: str, dimensions: int) -> None:
    size = (16, 12, 8)[-dimensions:]
    own = {"attention": {"head_dim": 8}}.get(name, {})
    network = create_network(
        "ssm-unet",
        outputs=2,
        spatial_dims=dimensions,
        block_bot=name,
        block_settings={name: own},
        image_size=size,
        fixed_size=True,
        **SMALL,
    )
    assert_learns(network, *size, outputs=2)


@pytest.mark.parametrize(
    ("stem", "down", "up", "skip"),
    [*product(["residual"], DOWNS, ["linear"], ["concat"]), *product(["patch"], ["merge"], UPS, SKIPS)],
)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_part_fits_the_others(stem: str, down: str, up: str, skip: str, dimensions: int) -> None:
    network = SSMUNet(
        spatial_dims=dimensions, stem=stem, stem_stride=2, down=down, up=up, skip=skip, depths_dec=2, **SMALL
    )
    assert_learns(network, *(16, 9, 14)[-dimensions:])


def test_the_plain_network_has_the_same_frame() -> None:
    plain, mixed = SSMUNet(block_bot="conv", **SMALL), SSMUNet(block_bot="mamba", **SMALL)
    assert {k for k in plain.state_dict() if not k.startswith("encoder.2")} == {
        k for k in mixed.state_dict() if not k.startswith("encoder.2")
    }


def test_cells_are_merged_and_expanded_side_by_side() -> None:
    merge, expand = CellMerging(3, 12, dimensions=2), CellExpanding(12, 3, dimensions=2)
    merge.layer.layer[0], expand.norm = torch.nn.Identity(), torch.nn.Identity()
    x = torch.randn(2, 3, 4, 6)
    with torch.no_grad():
        merge.layer.layer[1].weight.copy_(torch.eye(12))
        expand.expand.weight.copy_(torch.eye(12)[..., None, None])
        torch.testing.assert_close(merge(x)[0, :3, 1, 2], x[0, :, 2, 4])
        torch.testing.assert_close(expand(merge(x)), x)


def test_stages_are_counted_by_the_size() -> None:
    assert [count_stages(size) for size in [(4, 90), (8, 8), (64, 70), (1024, 1024)]] == [1, 2, 5, 6]
    network = SSMUNet(dims=8, image_size=(32, 48), in_channels=1, most_channels=24)
    assert network.multiple == 8
    assert network(torch.randn(1, 1, 20, 30)).shape == (1, 1, 20, 30)


def test_deep_heads_tell_logits_of_all_sizes() -> None:
    network = SSMUNet(dims=(8, 8, 16, 16), in_channels=1, deep_supervision=True)
    shapes = [tuple(x.shape[2:]) for x in network.deep_logits(torch.randn(1, 1, 30, 32))]
    assert shapes == [(30, 32), (16, 16), (8, 8)]
    with pytest.raises(ValueError, match="build it with deep_supervision=True"):
        SSMUNet(**SMALL).deep_logits(torch.randn(1, 1, 16, 16))


def test_blocks_can_differ_from_stage_to_stage() -> None:
    network = SSMUNet(
        block_enc=["conv", ["conv", "mamba"]],
        block_bot=["conv", "u-mamba"],
        block_dec=["mamba", "pvm"],
        **SMALL,
    )
    names = [[type(block).__name__ for block in stage] for stage in network.encoder]
    assert names == [["ResidualConv"], ["ResidualConv", "ChannelsFirst"], ["ResidualConv", "UMambaLayer"]]
    assert_learns(network, 16, 16)


def test_one_scan_is_told_to_all_blocks() -> None:
    network = SSMUNet(block_enc="ss2d", block_bot="mamba", block_dec="tri-orientated", scan="snake", **SMALL)
    routes = {module.routes for module in network.modules() if hasattr(module, "routes")}
    assert routes == {"snake"}


def test_routes_take_turns_from_block_to_block() -> None:
    network = SSMUNet(block_enc="mamba", block_dec="pvm", scan="zigzag", turns=True, depths=3, **SMALL)
    walked = [module.numbers for module in network.modules() if hasattr(module, "numbers")]
    assert walked == [(k % 8,) for k in range(15)]
    with pytest.raises(ValueError, match="cannot walk one route"):
        SSMUNet(block_bot="ss2d", turns=True, **SMALL)


def test_volumes_larger_than_patches_slide_through_a_window() -> None:
    from monai.inferers import sliding_window_inference

    network = SSMUNet(spatial_dims=3, outputs=2, **SMALL).eval()
    volume = torch.randn(1, 1, 20, 24, 17)
    with torch.no_grad():
        whole = sliding_window_inference(volume, (16, 16, 16), 2, network, overlap=0.25)
    assert whole.shape == (1, 2, 20, 24, 17)
    assert torch.isfinite(whole).all()


def test_segmenter_of_the_network_is_saved_and_loaded(tmp_path: Path) -> None:
    config = SegmenterConfig(
        network="ssm-unet",
        network_settings={"dims": [8, 16], "block_bot": ["conv", "pvm"]},
        classes=("a", "b"),
        preprocess=Preprocess(contrast_sigma=0),
    )
    model = Segmenter(config).eval()
    model.save_pretrained(tmp_path)
    images = torch.rand(1, 3, 21, 32)
    torch.testing.assert_close(Segmenter.from_pretrained(tmp_path)(images), model(images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_bot": "mambo"}, "unknown block 'mambo'; did you mean 'mamba'"),
        ({"scan": "snail"}, "unknown scan 'snail'"),
        ({"down": "stairs"}, "unknown down 'stairs'"),
        ({"depths": (1, 2)}, "allowed: 3 numbers"),
        ({"block_enc": ["conv"]}, "block_enc has 1 entries; allowed: 2"),
        ({"block_bot": "vmrnn"}, "takes spatial_dims 3, not 2"),
        ({"block_bot": "mhs", "spatial_dims": 3}, "takes spatial_dims 2, not 3"),
        ({"block_bot": "triplet"}, "build the network with image_size"),
        ({"block_settings": {"rvm": {}}}, "block_settings of rvm: no such block"),
        ({"stem_stride": 3}, "powers of 2"),
        ({"dims": 8}, "give image_size to count stages by"),
        ({"dims": (8, 6), "block_bot": "pvm"}, "6 channels do not divide into 4 equal parts"),
        ({"image_size": (16, 18), "fixed_size": True}, "2 sizes, multiples of 4"),
        ({"spatial_dims": 1}, "spatial_dims is 1; allowed: 2"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SSMUNet(**SMALL | settings)


def test_wrong_images_are_refused() -> None:
    network = SSMUNet(image_size=(16, 16), fixed_size=True, **SMALL)
    with pytest.raises(ValueError, match=r"spatial_dims=2; allowed: \(B, 1, H, W\)"):
        network(torch.randn(1, 1, 8, 16, 16))
    with pytest.raises(ValueError, match=r"allowed: \(B, 1, H, W\)"):
        network(torch.randn(1, 2, 16, 16))
    with pytest.raises(ValueError, match=r"made for \(16, 16\) alone"):
        network(torch.randn(1, 1, 16, 32))
    images = torch.randn(1, 1, 16, 16)
    images[0, 0, 3, 3] = torch.nan
    with pytest.raises(FloatingPointError, match="1 of 256 values NaN or infinite"):
        network(images)
