"""Networks of the Mamba survey (arXiv 2410.02362) that are `SSMUNet` with certain parts, and baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from foveal.models.networks.base import register_network
from foveal.models.networks.ssm_unet import SSMUNet
from foveal.settings import unknown_name

NNUNET_DIMS = {2: (32, 64, 128, 256, 512, 512), 3: (32, 64, 128, 256, 320, 320)}
# nnU-Net's frame: residual blocks with the strides in them, transposed convolutions, joined skips.
RESIDUAL = {"stem": "residual", "down": "residual", "up": "transposed", "skip": "concat", "block_enc": "conv"}
# Swin-Unet's frame: patches of 4 pixels, cells merged and expanded, joined skips through a linear layer.
PATCHES = {"stem": "patch", "stem_stride": 4, "down": "merge", "up": "expand", "skip": "concat"}
FOUR = {"dims": (32, 64, 128, 256)}


def everywhere(block: str) -> dict[str, str]:
    """One block in the encoder, the bottleneck and the decoder."""
    return {"block_enc": block, "block_bot": block, "block_dec": block}


# What each network changes of `SSMUNet`'s defaults. Widths and depths of all but U-Mamba and Mamba-UNet are
# unconfirmed: those of a small U-Net stand in.
PRESETS: dict[str, Mapping[str, Any]] = {
    # Baselines of equal frame: convolutions alone, and attention alone (the survey's CNN and ViT students).
    "conv-unet": RESIDUAL | FOUR | {"block_bot": "conv"},
    "transformer-unet": PATCHES | everywhere("attention") | {"dims": (64, 128, 256), "depths": 2},
    # Mamba-UNet (arXiv 2402.05079): VM-UNet's frame with joined skips.
    "mamba-unet": PATCHES | everywhere("ss2d") | {"dims": (96, 192, 384, 768), "depths": 2, "drop_path": 0.2},
    # HMT-UNet (arXiv 2408.11289): convolutions, then scans, and attention in the deepest stages.
    "hmt-unet": RESIDUAL
    | FOUR
    | {
        "block_enc": ["conv", "conv", ["conv-then-scan", "attention"]],
        "block_bot": ["mamba", "attention"],
        "block_dec": "conv",
    },
    # nnMamba (arXiv 2402.03526): a scan shared by all flips and orders of axes beside convolutions.
    "nnmamba": RESIDUAL | FOUR | {"block_enc": ["conv", "siamese", "siamese"], "block_bot": "siamese"},
    # P-Mamba (arXiv 2402.08506): Perona-Malik diffusion beside the scans.
    "p-mamba": PATCHES
    | everywhere("p-mamba")
    | {"dims": (32, 64, 128, 256), "stem_stride": 2, "stem": "conv", "block_dec": "conv"},
    # LKM-UNet (arXiv 2403.07332): scans within large windows, and of the windows.
    "lkm-unet": RESIDUAL
    | FOUR
    | {"block_enc": ["conv", *[["conv", "pixel-patch"]] * 2], "block_bot": "pixel-patch"},
    # SliceMamba (arXiv 2407.08481): strips of rows and of columns, both ways.
    "slicemamba": PATCHES | everywhere("ss2d") | FOUR | {"scan": "strips"},
    # VmambaIR (arXiv 2403.11423), for restoration: outputs = in_channels.
    "vmambair": RESIDUAL | FOUR | everywhere("omnidirectional"),
    # MambaMIR (arXiv 2402.18451), for reconstruction: masks are drawn, see foveal.blocks.masked_scan.
    "mambamir": RESIDUAL | FOUR | everywhere("masked"),
    # Vivim (arXiv 2401.14168), for video (B, C, T, H, W): frames and moments in turn.
    "vivim": RESIDUAL
    | FOUR
    | {"block_enc": ["conv", "conv", "mamba"], "block_bot": "mamba", "scan": "spatio-temporal"},
    # VMRNN (arXiv 2403.16536), for video: scans between the gates of an LSTM.
    "vmrnn": PATCHES | everywhere("vmrnn") | {"dims": (32, 64, 128), "stem_stride": 2},
    # MambaMorph (arXiv 2401.13934), for registration: moving and fixed volume in, displacements out.
    "mambamorph": RESIDUAL | FOUR | {"block_bot": ["conv", "mamba"]},
    # VMambaMorph (arXiv 2404.05105): the same with VMamba's block in the deep stages.
    "vmambamorph": RESIDUAL
    | FOUR
    | {"block_enc": ["conv", "conv", ["conv", "ss2d"]], "block_bot": ["conv", "ss2d"]},
    # TM-UNet (arXiv 2403.17701): each axis of (H, W, C) in turn the features, for one size of images.
    "tm-unet": RESIDUAL | FOUR | {"block_bot": ["conv", "triplet"], "fixed_size": True},
}
DIMENSIONS = {"vivim": (3,), "vmrnn": (3,), "tm-unet": (2,)}


def make_preset(
    name: str,
    *,
    outputs: int = 1,
    in_channels: int | None = None,
    spatial_dims: int | None = None,
    **settings: Any,
) -> SSMUNet:
    """The network of a name of `PRESETS`.

    Args:
        name: of the preset.
        outputs: logits of each pixel.
        in_channels: 3 by default for images and 1 for volumes.
        spatial_dims: 2 by default where the network takes it.
        **settings: of `SSMUNet`, in place of those of the preset.

    Raises:
        ValueError: axes that the network does not take, or what `SSMUNet` refuses.
    """
    allowed = DIMENSIONS.get(name, (2, 3))
    axes = allowed[0] if spatial_dims is None else spatial_dims
    if axes not in allowed:
        raise ValueError(f"network {name!r} takes spatial_dims {' or '.join(map(str, allowed))}, not {axes}")
    chosen = dict(PRESETS[name]) | settings
    return SSMUNet(outputs=outputs, in_channels=in_channels, spatial_dims=axes, **chosen)


for _name in PRESETS:
    register_network(_name)(partial(make_preset, _name))


def make_u_mamba(
    place: str,
    *,
    outputs: int = 1,
    in_channels: int | None = None,
    spatial_dims: int = 2,
    dims: Sequence[int] | None = None,
    image_size: Sequence[int] | None = None,
    **settings: Any,
) -> SSMUNet:
    """U-Mamba (arXiv 2401.04722): nnU-Net's residual frame with `UMambaLayer` after some of its stages.

    Args:
        place: "bot" for a layer after the last stage; "enc" for one after every second stage, the last too.
        outputs: logits of each pixel.
        in_channels: 3 by default for images and 1 for volumes.
        spatial_dims: 2 or 3.
        dims: channels of the stages, finest first.
        image_size: of the patches. With it stages of no more cells than channels take channels as tokens, as
            the released code does, and the network takes images of that size alone; without it the tokens
            are cells everywhere, and any size fits.
        **settings: of `SSMUNet`.

    Raises:
        ValueError: a place that is not known, or what `SSMUNet` refuses.
    """
    if place not in ("bot", "enc"):
        raise ValueError(unknown_name("place", place, ("bot", "enc")))
    dims = NNUNET_DIMS.get(spatial_dims, NNUNET_DIMS[2]) if dims is None else tuple(dims)
    last = len(dims) - 1
    enc = [
        ["conv", "u-mamba"] if place == "enc" and (last - level) % 2 == 0 else ["conv"]
        for level in range(last)
    ]
    own: dict[str, Any] = {"block_enc": enc, "block_bot": ["conv", "u-mamba"], "dims": dims}
    if image_size is not None:
        own |= {"image_size": image_size, "fixed_size": True}
    return SSMUNet(
        outputs=outputs, in_channels=in_channels, spatial_dims=spatial_dims, **{**RESIDUAL, **own, **settings}
    )


_U_MAMBA: dict[str, Callable[..., SSMUNet]] = {
    "umamba-bot": partial(make_u_mamba, "bot"),
    "umamba-enc": partial(make_u_mamba, "enc"),
}
for _name, _make in _U_MAMBA.items():
    register_network(_name)(_make)
