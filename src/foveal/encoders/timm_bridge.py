"""Any timm backbone as an encoder: patch tokens, its own pooled vector, and maps for dense tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import timm
import torch
from einops import rearrange
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from foveal.blocks.soft_cap import cap_attention
from foveal.encoders.base import Encoder
from foveal.encoders.features import Features
from foveal.encoders.jax_vit import from_jax_vit, is_jax_vit
from foveal.encoders.preprocessing import EncoderPreprocess
from foveal.settings import unknown_name

_COLOUR_ONLY = ("csatv2",)  # its first layer turns red, green and blue into a fixed colour space
_ELSEWHERE = ("hf-hub:", "hf_hub:", "local-dir:")  # names that timm resolves itself


@dataclass(frozen=True)
class _Plan:
    """How a timm model is used: with its pyramid (`channels`, `strides`), or for its last tokens."""

    settings: dict[str, Any]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    own_pooled: bool = False
    depths: tuple[int, ...] = ()


class TimmEncoder(Encoder):
    """A timm model behind the encoder contract.

    Models whose stages have several strides (convolutional and hierarchical ones) give their pyramid; patch
    tokens are the cells of its coarsest map and the pooled vector is their mean. All others (ViT, DINOv2,
    DeiT, EVA, BEiT, SigLIP towers, mixers) give their patch tokens without class and register tokens, the
    model's own pooled or class vector, and a pyramid of one map: the patch grid. With `out_indices` these
    give the maps of the layers named instead, all of one stride.

    Args:
        name: timm's name of the model, e.g. `resnet18` or `vit_small_patch14_dinov2`; `hf-hub:` and
            `local-dir:` names work too.
        in_channels: channels of the input images; timm adapts pretrained stem weights.
        image_size: side of the images in pixels, or (height, width), for models that are built for one;
            timm resizes pretrained positions to it. Models that take any size need none.
        pretrained: load timm's weights (needs them in the hub's cache, or network access).
        out_indices: pyramid levels, or layers, to return; None takes all levels, or the last layer.
        drop_path: greatest rate of stochastic depth.
        soft_cap: logits of attention are kept within +-this by a tanh, as locality alignment trains vision
            transformers; None leaves attention as it is. The weights are the same.
        **settings: passed on to `timm.create_model`.

    Raises:
        ValueError: timm has no model of that name, the model does not know a setting, or gives no map or
            tokens on one grid (such as CrossViT with its two grids).
    """

    registered_name = "timm"

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        image_size: int | Sequence[int] | None = None,
        pretrained: bool = False,
        out_indices: Sequence[int] | None = None,
        drop_path: float = 0.0,
        soft_cap: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if not name.startswith(_ELSEWHERE) and not timm.is_model(name):
            raise ValueError(unknown_name("timm model", name, timm.list_models()))
        if name.startswith(_COLOUR_ONLY) and in_channels != 3:
            raise ValueError(
                f"in_channels {in_channels}: timm's {name} takes colour photographs only, 3 channels"
            )
        self.timm_name, self.in_channels = name, in_channels
        if image_size is not None:
            settings["img_size"] = image_size if isinstance(image_size, int) else tuple(image_size)
        if drop_path:
            settings["drop_path_rate"] = drop_path
        self._size = {"img_size": settings["img_size"]} if "img_size" in settings else {}
        plan = _plan(name, in_channels, settings, out_indices)
        self.backbone = timm.create_model(name, pretrained=pretrained, in_chans=in_channels, **plan.settings)
        if soft_cap is not None:
            cap_attention(self.backbone, soft_cap)
        self.pyramid_channels, self.pyramid_strides = plan.channels, plan.strides
        self.dim, self.patch_size = plan.channels[-1], plan.strides[-1]
        self._features_only = "features_only" in plan.settings
        self._own_pooled, self._depths = plan.own_pooled, plan.depths
        # Swin-like models hand out channels-last maps; timm says so in `output_fmt`.
        self._channels_last = str(getattr(self.backbone, "output_fmt", "NCHW")).upper().endswith("NHWC")
        data = resolve_model_data_config(self.backbone)
        # timm tells the size of the published weights, also of a model made for another one.
        built = settings.get("img_size", data["input_size"][-1])
        self.preprocess = EncoderPreprocess(
            size=built if isinstance(built, int) else max(built),
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
        ).for_channels(in_channels)
        # What is saved are the weights: they are not fetched again when it is rebuilt.
        self.settings = {
            key: value for key, value in self.settings.items() if key not in ("name", "pretrained")
        }

    @property
    def name(self) -> str:
        """`timm/NAME`."""
        return f"timm/{self.timm_name}"

    def official_layouts(self) -> dict[str, Callable[[dict[str, Tensor]], Any]]:
        """Layouts registered for this name, and those that timm reads for the model itself."""
        return {**super().official_layouts(), "timm": self._from_timm}

    def _from_timm(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Official weights as timm remaps them; its classifier apart, and parts behind the pyramid left."""
        whole: nn.Module = self.backbone
        if self._features_only:
            bare = _bare(self.timm_name, self.in_channels, self._size, complain=True)[0]
            whole = cast(nn.Module, bare)
        if is_jax_vit(state):
            state = from_jax_vit(state)
        remap = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
        if remap is not None:
            state = remap(state, whole)
        classifier = (getattr(whole, "pretrained_cfg", None) or {}).get("classifier") or "head"
        places = [classifier] if isinstance(classifier, str) else list(classifier)
        head = {
            kind: state[f"{places[0]}.{kind}"]
            for kind in ("weight", "bias")
            if f"{places[0]}.{kind}" in state
        }
        wanted, behind = self.backbone.state_dict().keys(), whole.state_dict().keys()
        tops = {key.partition(".")[0] for key in wanted}
        kept = {}
        for key, tensor in state.items():
            name = key
            first, _, rest = key.partition(".")
            second, _, deeper = rest.partition(".")
            if f"{first}_{second}" in tops:  # timm flattens stages where it takes features
                name = f"{first}_{second}.{deeper}"
            if name in wanted or not (key in behind or key.rpartition(".")[0] in places):
                kept[f"backbone.{name}"] = tensor
        return kept, head or None

    def forward(self, images: Tensor) -> Features:
        """(B, C, H, W) images to features.

        Raises:
            ValueError: the model is built for another size of image.
        """
        try:
            return self._pyramid(images) if self._features_only else self._tokens(images)
        except (AssertionError, RuntimeError) as error:
            size = _built_for(self.backbone)
            if size is None or size == tuple(images.shape[-2:]) or images.shape[1] != self.in_channels:
                raise
            raise ValueError(
                f"images of {images.shape[-2]} x {images.shape[-1]} px; {self.name} is built for "
                f"{size[0]} x {size[1]}: resize them, or make it with image_size= ({error})"
            ) from error

    def _pyramid(self, images: Tensor) -> Features:
        maps = self.backbone(images)
        if self._channels_last:
            maps = [rearrange(m, "b h w c -> b c h w") for m in maps]
        patches = rearrange(maps[-1], "b d h w -> b (h w) d")
        return Features(patches, tuple(maps[-1].shape[-2:]), pooled=patches.mean(dim=1), pyramid=tuple(maps))

    def _tokens(self, images: Tensor) -> Features:
        model = cast(Any, self.backbone)
        pyramid: tuple[Tensor, ...] | None = None
        if self._depths:
            last, maps = model.forward_intermediates(images, indices=list(self._depths), output_fmt="NCHW")
            pyramid = tuple(maps)
        else:
            last = model.forward_features(images)
        patches, grid = _patches_of(last, model, tuple(images.shape[-2:]))
        pooled = model.forward_head(last, pre_logits=True) if self._own_pooled else patches.mean(dim=1)
        if pyramid is None:
            pyramid = (rearrange(patches, "b (h w) d -> b d h w", h=grid[0]),)
        return Features(patches, grid, pooled=pooled, pyramid=pyramid)


def _plan(name: str, in_channels: int, settings: dict[str, Any], out_indices: Sequence[int] | None) -> _Plan:
    """Find out, without memory for weights, what a model gives."""
    levels = {} if out_indices is None else {"out_indices": tuple(out_indices)}
    model, used = _bare(name, in_channels, {**settings, **levels, "features_only": True})
    if model is not None:
        info = cast(Any, model).feature_info
        strides = tuple(info.reduction())
        if len(set(strides)) > 1 or (len(strides) == 1 and out_indices is not None):
            return _Plan(used, tuple(info.channels()), strides)
    model, used = _bare(name, in_channels, {**settings, "num_classes": 0}, complain=True)
    assert model is not None
    side = settings.get("img_size", resolve_model_data_config(model)["input_size"][-2:])
    size = (side, side) if isinstance(side, int) else tuple(side)
    device = next(model.parameters()).device
    try:
        with torch.no_grad(), device:
            last = cast(Any, model).forward_features(torch.zeros(2, in_channels, *size))
            patches, grid = _patches_of(last, model, size)
            own = _own_pooled(model, last, patches)
            depths = tuple(out_indices or ())
            if depths:
                cast(Any, model).forward_intermediates(
                    torch.zeros(2, in_channels, *size), indices=list(depths), output_fmt="NCHW"
                )
    except AssertionError:
        # A side that is no multiple of the patch (SigLIP's 384 px in patches of 14) wants one fixed size.
        if "dynamic_img_size" in settings or not used.get("dynamic_img_size"):
            raise
        return _plan(name, in_channels, {**settings, "dynamic_img_size": False}, out_indices)
    except (AttributeError, TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"timm's {name} cannot be an encoder: it gives no tokens or map on one grid ({error}); "
            "take another model, timm.list_models() names them all"
        ) from error
    stride = round(size[0] / grid[0])
    count = len(depths) or 1
    return _Plan(used, (patches.shape[2],) * count, (stride,) * count, own, depths)


def _bare(
    name: str, in_channels: int, settings: dict[str, Any], *, complain: bool = False
) -> tuple[nn.Module | None, dict[str, Any]]:
    """The model without weights, made for any size of image where it can be, and the settings that did it.

    None where timm cannot make it so.

    Raises:
        ValueError: with `complain`, timm cannot make it.
    """
    reason: Exception | None = None
    free: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
    for extra in free:
        for device in ("meta", "cpu"):
            wanted = {**extra, **settings}
            try:
                with torch.device(device):
                    return timm.create_model(name, in_chans=in_channels, **wanted), wanted
            except TypeError as error:  # the constructor does not know a setting
                reason = error
                break
            except (RuntimeError, NotImplementedError, AssertionError, AttributeError, ValueError) as error:
                reason = error
    if complain:
        raise ValueError(f"timm cannot make {name} with {settings}: {reason}") from reason
    return None, {}


def _patches_of(last: Any, model: nn.Module, size: tuple[int, ...]) -> tuple[Tensor, tuple[int, int]]:
    """Patch tokens (B, N, D) and their grid in what `forward_features` gave for images of `size`.

    Raises:
        ValueError: it is neither one map nor tokens on one grid.
    """
    if not isinstance(last, Tensor) or last.ndim not in (3, 4):
        kind = tuple(last.shape) if isinstance(last, Tensor) else type(last).__name__
        raise ValueError(f"forward_features gives {kind}")
    if last.ndim == 4:
        if getattr(model, "output_fmt", "NCHW") == "NHWC" or last.shape[1] != cast(Any, model).num_features:
            last = rearrange(last, "b h w d -> b d h w")
        return rearrange(last, "b d h w -> b (h w) d"), (last.shape[2], last.shape[3])
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    grid = _grid_of(model, size, last.shape[1], prefix)
    if grid is None:
        raise ValueError(f"{last.shape[1]} tokens of images of {size} px are on no grid")
    return last[:, max(prefix, last.shape[1] - grid[0] * grid[1]) :], grid


def _grid_of(model: nn.Module, size: tuple[int, ...], tokens: int, prefix: int) -> tuple[int, int] | None:
    """The grid (h, w) with h w patch tokens and at most a few class and register tokens besides."""
    embed = getattr(model, "patch_embed", None)
    if hasattr(embed, "dynamic_feat_size"):
        grid = tuple(int(side) for side in cast(Any, embed).dynamic_feat_size(size))
        if 0 <= tokens - grid[0] * grid[1] <= 17:
            return grid[0], grid[1]
    for stride in (4, 7, 8, 12, 14, 16, 28, 32, 64):
        grid = tuple(-(-side // stride) for side in size)
        if 0 <= tokens - grid[0] * grid[1] <= prefix:
            return grid[0], grid[1]
    return None


def _own_pooled(model: nn.Module, last: Tensor, patches: Tensor) -> bool:
    """Whether the model has a pooled vector of its own, as long as a patch token."""
    try:
        pooled = cast(Any, model).forward_head(last, pre_logits=True)
    except (AttributeError, TypeError, RuntimeError):
        return False
    return isinstance(pooled, Tensor) and pooled.shape == (len(patches), patches.shape[2])


def _built_for(model: nn.Module) -> tuple[int, int] | None:
    """Size of image that a model is built for, where it says so."""
    embed = getattr(model, "patch_embed", None)
    size = getattr(embed, "img_size", None) or getattr(model, "img_size", None)
    if size is None:
        size = resolve_model_data_config(model)["input_size"][-2:]
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
