"""Networks of the Mamba survey: sizes, shapes, gradients, saving, errors."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.encoders.vmamba import VMamba
from foveal.models import Preprocess, Segmenter, SegmenterConfig
from foveal.models.networks import create_network, list_networks
from foveal.models.networks.named_unets import PRESETS
from foveal.models.networks.segmamba import SegMamba

TINY: dict[str, dict[str, Any]] = {name: {"dims": (8, 8, 8, 16)} for name in PRESETS} | {
    "h-vmunet": {"dims": (4, 8, 16), "orders": (2, 3)},
    "lightm-unet": {"filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)},
    "segmamba": {"dims": (8, 8), "depths": (1, 1), "hidden": 8},
    "ssm-unet": {"dims": (8, 16)},
    "swin-umamba": {"encoder": {"dim": 8, "depths": (1, 1)}},
    "tm-unet": {"dims": (8, 16), "image_size": (32, 32)},
    "transformer-unet": {"dims": (32, 64, 64), "depths": 1},
    "ultralight-vm-unet": {"dims": (8, 8, 8, 8)},
    "umamba-bot": {"dims": (8, 8, 16)},
    "umamba-enc": {"dims": (8, 8, 16)},
    "vm-ddpm": {"dims": (8, 16), "step_width": 8},
    "vmrnn": {"dims": (8, 16), "depths": 1},
}
TINY["hmt-unet"] = {"dims": (32, 32, 32, 32)}
ONLY_VIDEO, ONLY_IMAGES = {"vivim", "vmrnn"}, {"swin-umamba", "tm-unet"}
PAIRS = [
    (name, axes)
    for name in TINY
    for axes in (2, 3)
    if not (name in ONLY_VIDEO and axes == 2) and not (name in ONLY_IMAGES and axes == 3)
]


def parameters(name: str, **settings: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in create_network(name, **{"outputs": 1} | settings).parameters())


def assert_learns(network: torch.nn.Module, images: torch.Tensor, outputs: int) -> None:
    logits = network(images)
    (logits * torch.randn_like(logits)).sum().backward()
    assert logits.shape == (len(images), outputs, *images.shape[2:])
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_all_networks_are_tried_here_or_elsewhere() -> None:
    assert set(list_networks()) == {*TINY, "vm-unet"}


def test_ultralight_vm_unet_has_its_published_size() -> None:
    assert parameters("ultralight-vm-unet", in_channels=3, outputs=1) == 49_457


@pytest.mark.parametrize(
    ("name", "settings", "millions"),
    [
        ("segmamba", {"spatial_dims": 3, "in_channels": 4, "outputs": 4}, 67.42),
        ("mamba-unet", {"in_channels": 1, "outputs": 4}, 19.01),
        ("lightm-unet", {"filters": 8}, 0.38),
        ("lightm-unet", {}, 5.01),  # as counted from the released code
        ("swin-umamba", {}, 59.88),
        ("h-vmunet", {}, 9.0),
        ("umamba-bot", {"spatial_dims": 2}, 34.46),
    ],
)
def test_sizes_of_the_derived_designs(name: str, settings: Mapping[str, Any], millions: float) -> None:
    assert round(parameters(name, **settings) / 1e6, 2) == millions


@pytest.mark.parametrize(("name", "axes"), PAIRS)
def test_logits_have_the_size_of_the_images_and_every_parameter_learns(name: str, axes: int) -> None:
    settings = TINY[name] | {"in_channels": 2, "outputs": 3, "spatial_dims": axes, "drop_path": 0.0}
    if name in ("h-vmunet", "lightm-unet", "segmamba", "swin-umamba", "ultralight-vm-unet"):
        settings.pop("drop_path")
    if name == "swin-umamba":
        settings["encoder"] = TINY[name]["encoder"] | {"drop_path": 0.0}
    size = settings.get("image_size", (30, 32) if axes == 2 else (10, 16, 18))
    assert_learns(create_network(name, **settings), torch.randn(2, 2, *size), 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TINY))
def test_networks_of_full_size_run_forward_and_backward_at_64_px_in_ten_seconds(name: str) -> None:
    begin = time.monotonic()
    settings = {"image_size": (64, 64)} if name == "tm-unet" else {}
    axes = 3 if name in ONLY_VIDEO else 2
    network = create_network(name, outputs=1, spatial_dims=axes, **settings)
    network(torch.randn(1, network.in_channels, *(4, 64, 64)[-axes:])).square().mean().backward()
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    "name", ["ultralight-vm-unet", "lightm-unet", "umamba-bot", "segmamba", "swin-umamba"]
)
def test_another_scan_can_be_put_in(name: str) -> None:
    network = create_network(name, outputs=1, spatial_dims=2, scan="snake", **TINY[name])
    assert {m.routes for m in network.modules() if hasattr(m, "routes")} == {"snake"}
    assert network(torch.randn(1, network.in_channels, 16, 16)).shape[2:] == (16, 16)


def test_a_diffusion_network_is_told_the_steps() -> None:
    torch.manual_seed(0)
    network = create_network("vm-ddpm", outputs=1, in_channels=2, **TINY["vm-ddpm"])
    images, steps = torch.randn(2, 2, 18, 16), torch.tensor([3, 700])
    assert torch.equal(network(images, steps), network(images))  # scales and shifts begin at 0
    for layer in network.told:
        torch.nn.init.normal_(layer.weight)
    noise = network(images, steps)
    assert noise.shape == (2, 1, 18, 16)
    assert not torch.allclose(noise, network(images, steps.flip(0)))
    torch.testing.assert_close(noise[:1], network(images[:1], steps[:1]))
    with pytest.raises(ValueError, match=r"steps of shape \(3,\); allowed: \(2,\)"):
        network(images, torch.zeros(3))
    with pytest.raises(ValueError, match="step_width is 7; allowed: even"):
        create_network("vm-ddpm", outputs=1, step_width=7)


def test_u_mamba_takes_channels_as_tokens_where_cells_are_few() -> None:
    network = create_network("umamba-enc", outputs=1, dims=(4, 4, 32), image_size=(16, 16))
    layers = [stage[-1].grid for stage in network.encoder if hasattr(stage[-1], "grid")]
    assert layers == [None, (4, 4)]
    assert network(torch.randn(1, 3, 16, 16)).shape == (1, 1, 16, 16)
    with pytest.raises(ValueError, match=r"made for \(16, 16\) alone; resize them, or cut patches"):
        network(torch.randn(1, 3, 32, 16))


def test_u_mamba_enc_has_layers_after_every_second_stage_and_the_last() -> None:
    for dims, expected in [((8,) * 6, [1, 3, 5]), ((8,) * 5, [0, 2, 4])]:
        network = create_network("umamba-enc", outputs=1, dims=dims)
        assert [k for k, stage in enumerate(network.encoder) if len(stage) == 2] == expected


def test_slices_follow_the_size_of_the_volume_or_are_told() -> None:
    network = SegMamba(spatial_dims=3, **TINY["segmamba"])
    for size in ((8, 16, 16), (12, 8, 8)):
        assert network(torch.randn(1, 1, *size)).shape[2:] == size
    with pytest.raises(ValueError, match="nslices is 5; allowed: a divisor of the 256 tokens"):
        SegMamba(spatial_dims=3, **TINY["segmamba"], nslices=(5, 2))(torch.randn(1, 1, 8, 16, 16))
    with pytest.raises(ValueError, match="as many of each"):
        SegMamba(**TINY["segmamba"], nslices=(4,))


@pytest.mark.parametrize("name", ["segmamba", "umamba-bot"])
def test_volumes_larger_than_patches_slide_through_a_window(name: str) -> None:
    from monai.inferers import sliding_window_inference

    network = create_network(name, outputs=2, spatial_dims=3, **TINY[name]).eval()
    volume = torch.randn(1, 1, 20, 17, 16)
    with torch.no_grad():
        whole = sliding_window_inference(volume, (16, 16, 16), 2, network, overlap=0.25)
    assert whole.shape == (1, 2, 20, 17, 16)
    assert torch.isfinite(whole).all()


@pytest.mark.parametrize("name", ["ultralight-vm-unet", "umamba-enc", "h-vmunet"])
def test_segmenters_of_the_networks_are_saved_and_loaded(name: str, tmp_path: Path) -> None:
    config = SegmenterConfig(
        network=name, network_settings=TINY[name], classes=("a", "b"), preprocess=Preprocess(contrast_sigma=0)
    )
    model = Segmenter(config).eval()
    model.save_pretrained(tmp_path)
    images = torch.rand(1, 3, 27, 32)
    torch.testing.assert_close(Segmenter.from_pretrained(tmp_path)(images), model(images))


def test_networks_run_under_autocast() -> None:
    network = create_network("ultralight-vm-unet", outputs=1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(torch.randn(1, 3, 32, 32))
    assert torch.isfinite(logits).all()


def test_stages_of_a_pretrained_encoder_are_taken() -> None:
    network = create_network("swin-umamba", outputs=1, **TINY["swin-umamba"])
    encoder = VMamba(**network.encoder.settings)
    network.take_stages(encoder)
    assert torch.equal(network.encoder.downs[0].reduction.weight, encoder.downs[0].reduction.weight)
    assert torch.equal(
        network.encoder.stages[1][0].mixer.in_proj.weight, encoder.stages[1][0].mixer.in_proj.weight
    )
    with pytest.raises(ValueError, match=r"do not fit, such as .*encoder=encoder\.settings"):
        network.take_stages(VMamba(dim=16, depths=(1, 1)))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown network 'umamba'"):
        create_network("umamba", outputs=1)
    with pytest.raises(ValueError, match="10 channels do not divide into 4"):
        create_network("ultralight-vm-unet", outputs=1, dims=(8, 8, 8, 10))
    with pytest.raises(ValueError, match="network 'vivim' takes spatial_dims 3, not 2"):
        create_network("vivim", outputs=1, spatial_dims=2)
    with pytest.raises(ValueError, match="allowed: 2, VMamba's"):
        create_network("swin-umamba", outputs=1, spatial_dims=3)
    with pytest.raises(ValueError, match="fixed_size without an image_size"):
        create_network("tm-unet", outputs=1)
    with pytest.raises(ValueError, match="one fewer up than down"):
        create_network("lightm-unet", outputs=1, blocks_up=(1,))
    with pytest.raises(ValueError, match="fewer orders than stages"):
        create_network("h-vmunet", outputs=1, dims=(8, 16), orders=(2, 3))
    with pytest.raises(ValueError, match="spatial_dims is 4; allowed: 2"):
        create_network("umamba-bot", outputs=1, spatial_dims=4)


def test_images_that_leave_one_cell_are_refused_with_advice() -> None:
    network = create_network("umamba-bot", outputs=1, dims=(8, 8, 16))
    with pytest.raises(ValueError, match="take larger images, or a network of fewer stages"):
        network(torch.randn(1, 3, 4, 4))
