"""Any vision model of the transformers library as an encoder, from a folder, the hub's cache or a config."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, cast

import torch
from einops import rearrange
from timm.models import adapt_input_conv
from torch import Tensor, nn

from foveal.encoders.base import Encoder
from foveal.encoders.features import Features
from foveal.encoders.preprocessing import IMAGENET_MEAN, IMAGENET_STD, EncoderPreprocess
from foveal.settings import unknown_name

_DENSE_POOLERS = ("vit", "deit")  # their pooler is a layer that few checkpoints have: the class token is used
_WINDOWED = ("swin", "donut-swin", "maskformer-swin")  # stages tell their maps before they are halved


@dataclass(frozen=True)
class _Plan:
    """What a model gives: with a pyramid where there are several strides."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


class TransformersEncoder(Encoder):
    """A vision model of transformers behind the encoder contract.

    Plain transformers (ViT, DeiT, MAE, DINOv2, DINOv3, BEiT, the towers of CLIP and SigLIP) give their patch
    tokens without class and register tokens, and a pyramid of one map; hierarchical models (Swin, ConvNeXt,
    ResNet) the maps of their stages. Positions are interpolated to the images that come. The pooled vector
    is the model's own: its pooler's where the weights have one, else the class token.

    Args:
        name: a folder that `save_pretrained` of transformers wrote, a repository of the hub, or, with
            `config`, the type of the model (such as "vit" or "dinov2").
        config: build from these settings of the model's configuration, without weights.
        model_type: type of the model that `config` is for; `name` where None.
        in_channels: channels of the images; None takes the model's. The first kernel is adapted.
        drop_path: greatest rate of stochastic depth; None keeps the configuration's.
        preprocess: size, mean and std; None reads the image processor's file beside the weights.
        local_files_only: use what is on this machine; False lets transformers download from the hub.
        revision: of the hub's repository.

    Raises:
        FileNotFoundError: there is no such folder, and the repository is not on this machine.
        ValueError: transformers has no vision model of that type, or it takes no such setting.
    """

    registered_name = "transformers"

    def __init__(
        self,
        name: str,
        *,
        config: dict[str, Any] | None = None,
        model_type: str | None = None,
        in_channels: int | None = None,
        drop_path: float | None = None,
        preprocess: dict[str, Any] | None = None,
        local_files_only: bool = True,
        revision: str | None = None,
    ) -> None:
        super().__init__()
        where = {"local_files_only": local_files_only, "revision": revision}
        changes = {} if drop_path is None else {"drop_path_rate": drop_path}
        if config is not None:
            made = _configure(model_type or name, config, changes)
            self.backbone = _build(_with_channels(made, in_channels))
        else:
            self.backbone = _load(name, changes, in_channels, where)
            preprocess = preprocess or _processor(name, where)
        settings = cast(Any, self.backbone).config
        self.in_channels, self.model_type = settings.num_channels, settings.model_type
        self.preprocess = None
        if preprocess is not None:
            self.preprocess = EncoderPreprocess(**preprocess).for_channels(self.in_channels)
        forward = inspect.signature(self.backbone.forward).parameters
        self._options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in forward else {}
        if self.model_type == "swinv2":  # takes no such option itself, as Swin does
            self.backbone.get_submodule("encoder").register_forward_pre_hook(
                _ask_for_stages, with_kwargs=True
            )
        self._staged = False
        plan = self._find_plan()
        self._staged = len(plan.strides) > 1
        self.pyramid_channels, self.pyramid_strides = plan.channels, plan.strides
        self.dim, self.patch_size = plan.channels[-1], plan.strides[-1]
        # It is rebuilt from its configuration: the folder it came from need not be there.
        self.settings = {"config": _plain(settings), "in_channels": self.in_channels}
        if self.preprocess is not None:
            self.settings["preprocess"] = self.preprocess.model_dump(mode="json")

    @property
    def name(self) -> str:
        """`transformers/TYPE`."""
        return f"transformers/{self.model_type}"

    def forward(self, images: Tensor) -> Features:
        """(B, C, H, W) images to features.

        Raises:
            ValueError: another number of channels.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(f"images of shape {tuple(images.shape)}; allowed: (B, {self.in_channels}, H, W)")
        output = self._run(images, staged=self._staged)
        maps = _stages(output, images) if self._staged else []
        grid = _grid(images, maps, self.patch_size)
        patches, prefix = _split(output.last_hidden_state, grid)
        last = rearrange(patches, "b (h w) d -> b d h w", h=grid[0])
        pooled = _pooled(output, patches, prefix)
        return Features(patches, grid, pooled=pooled, pyramid=(*maps[:-1], last))

    def _run(self, images: Tensor, *, staged: bool) -> Any:
        options: dict[str, Any] = dict(self._options)
        if staged:
            options["output_hidden_states"] = True
            if self.model_type in _WINDOWED:
                options["output_hidden_states_before_downsampling"] = True
                # On maps smaller than a window the library's own window and its table of biases disagree.
                config = cast(Any, self.backbone).config
                smallest = min(images.shape[-2:]) / (config.patch_size * 2 ** (len(config.depths) - 1))
                options["always_partition"] = smallest < config.window_size
        return self.backbone(images, return_dict=True, **options)

    def _find_plan(self) -> _Plan:
        """Channels and strides, from one small run of random pixels.

        Raises:
            ValueError: the model gives neither tokens nor maps of an image.
        """
        config = cast(Any, self.backbone).config
        patch = getattr(config, "patch_size", 32)
        patch = patch if isinstance(patch, int) else patch[0]
        side = patch * 2 ** (6 if getattr(config, "depths", None) else 2)
        side = min(side, 256) if getattr(config, "depths", None) else side
        training = self.backbone.training
        self.backbone.eval()
        try:
            with torch.no_grad():
                images = torch.zeros(1, self.in_channels, side, side)
                output = self._run(images, staged=True)
                maps = _stages(output, images)
                strides = tuple(round(side / m.shape[-1]) for m in maps) if len(maps) > 1 else (patch,)
                channels = tuple(m.shape[1] for m in maps) if len(maps) > 1 else ()
                patches, _ = _split(output.last_hidden_state, _grid(images, maps, strides[-1]))
        except (AttributeError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{type(self.backbone).__name__} of transformers cannot be an encoder: it gives no tokens or "
                f"maps of an image ({error})"
            ) from error
        finally:
            self.backbone.train(training)
        return _Plan(channels or (patches.shape[2],), strides)


def _ask_for_stages(
    module: nn.Module, values: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Have the stages tell their maps before they are halved."""
    if options.get("output_hidden_states"):
        options = {**options, "output_hidden_states_before_downsampling": True}
    return values, options


def _configure(model_type: str, config: dict[str, Any], changes: dict[str, Any]) -> Any:
    """The configuration of a vision model.

    Raises:
        ValueError: no such type, or no such setting of it.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if model_type not in CONFIG_MAPPING_NAMES:
        raise ValueError(unknown_name("transformers model type", model_type, list(CONFIG_MAPPING_NAMES)))
    plain = {key: value for key, value in config.items() if key not in ("model_type", "transformers_version")}
    known = AutoConfig.for_model(model_type).to_dict()
    for key in (*plain, *changes):
        if key not in known and key not in ("architectures", "dtype", "id2label", "label2id"):
            raise ValueError(unknown_name(f"setting of {model_type}", key, sorted(known)))
    return _vision(AutoConfig.for_model(model_type, **{**plain, **changes}))


def _vision(config: Any) -> Any:
    """The configuration for images: of CLIP and its like the tower, of MAE a ViT that hides nothing."""
    config = getattr(config, "vision_config", config)
    if config.model_type == "vit_mae":
        from transformers import ViTConfig

        known = ViTConfig().to_dict()
        kept = {key: value for key, value in config.to_dict().items() if key in known and key != "model_type"}
        config = ViTConfig(**kept)
    if not hasattr(config, "num_channels"):
        raise ValueError(f"transformers' {config.model_type} is no vision model: it has no num_channels")
    return config


def _with_channels(config: Any, channels: int | None) -> Any:
    if channels is not None:
        config.num_channels = channels
    return config


def _build(config: Any) -> nn.Module:
    from transformers import AutoModel

    return AutoModel.from_config(config, **_pooling(config))


def _pooling(config: Any) -> dict[str, Any]:
    return {"add_pooling_layer": False} if config.model_type in _DENSE_POOLERS else {}


def _load(name: str, changes: dict[str, Any], in_channels: int | None, where: dict[str, Any]) -> nn.Module:
    """The model with its weights; safetensors only.

    Raises:
        FileNotFoundError: it is not there.
    """
    from transformers import AutoConfig, AutoModel

    try:
        config = _vision(AutoConfig.from_pretrained(name, **where))
        for key, value in changes.items():
            if not hasattr(config, key):
                raise ValueError(f"transformers' {config.model_type} has no {key}")
            setattr(config, key, value)
        model: nn.Module = AutoModel.from_pretrained(
            name, config=config, use_safetensors=True, **where, **_pooling(config)
        )
    except OSError as error:
        hint = "" if not where["local_files_only"] else "; local_files_only=False lets it be downloaded"
        raise FileNotFoundError(
            f"transformers finds no model {name!r} in a folder or in the hub's cache{hint}: {error}"
        ) from error
    if in_channels is None or in_channels == config.num_channels:
        return model
    old, state = config.num_channels, model.state_dict()
    adapted = _build(_with_channels(config, in_channels))
    for key, tensor in adapted.state_dict().items():
        if tensor.ndim == 4 and tensor.shape != state[key].shape:
            state[key] = adapt_input_conv(in_channels, state[key], base_chans=old)
    adapted.load_state_dict(state)
    return adapted.eval()


def _processor(name: str, where: dict[str, Any]) -> dict[str, Any] | None:
    """Size, mean and std that the image processor beside the weights tells; None where there is none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        told, _ = ImageProcessingMixin.get_image_processor_dict(name, **where)
    except OSError:
        return None
    size = told.get("crop_size") if told.get("do_center_crop") else None
    size = size or told.get("size") or 224
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge") or 224
    plain = told.get("do_normalize") is False
    return {
        "size": int(size),
        "mean": tuple(told.get("image_mean") or IMAGENET_MEAN) if not plain else (0.0, 0.0, 0.0),
        "std": tuple(told.get("image_std") or IMAGENET_STD) if not plain else (1.0, 1.0, 1.0),
    }


def _plain(config: Any) -> dict[str, Any]:
    """What differs from the type's defaults, as JSON values."""
    return {
        key: value
        for key, value in config.to_diff_dict().items()
        if key not in ("model_type", "transformers_version", "architectures", "dtype", "id2label", "label2id")
        and key[0] != "_"
    }


def _stages(output: Any, images: Tensor) -> list[Tensor]:
    """Maps of the stages, finest first: of each stride the last; empty or one where it is isotropic."""
    states = getattr(output, "reshaped_hidden_states", None) or getattr(output, "hidden_states", None) or ()
    by_width = {m.shape[-1]: m for m in states if m.ndim == 4 and m.shape[-1] < images.shape[-1]}
    return [by_width[width] for width in sorted(by_width, reverse=True)]


def _grid(images: Tensor, maps: list[Tensor], stride: int) -> tuple[int, int]:
    if len(maps) > 1:
        return maps[-1].shape[-2], maps[-1].shape[-1]
    return images.shape[-2] // stride, images.shape[-1] // stride


def _split(last: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Patch tokens, and the class and register tokens before them.

    Raises:
        ValueError: there are fewer tokens than the grid has cells.
    """
    if last.ndim == 4:
        last = rearrange(last, "b d h w -> b (h w) d")
    prefix = last.shape[1] - grid[0] * grid[1]
    if prefix < 0:
        raise ValueError(f"{last.shape[1]} tokens on a grid of {grid[0]} x {grid[1]}")
    return last[:, prefix:], last[:, :prefix]


def _pooled(output: Any, patches: Tensor, prefix: Tensor) -> Tensor:
    """The model's own vector of an image, else the class token, else the mean of the patches."""
    own = getattr(output, "pooler_output", None)
    if own is not None and own.flatten(1).shape == (len(patches), patches.shape[2]):
        return own.flatten(1)
    return prefix[:, 0] if prefix.shape[1] else patches.mean(dim=1)
