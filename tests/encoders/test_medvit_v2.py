import pytest
import torch
from torch import Tensor, nn

from foveal.blocks.hybrid import GlobalPerception, PooledAttention
from foveal.blocks.local_feed_forward import LocalFeedForward
from foveal.encoders import create_encoder
from foveal.encoders.checkpoints import load_official

SMALL = {"dims": (16, 32, 32, 48), "depths": (2, 2, 3, 1), "head_dim": 8, "stem": (8, 8, 16)}


def lively(encoder: nn.Module) -> nn.Module:
    """Batch normalisations with statistics and weights of their own, as after training."""
    generator = torch.Generator().manual_seed(1)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.running_var, 0.5), (module.bias, -0.5)):
                tensor.data.uniform_(low, low + 1, generator=generator)
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
    return encoder.eval()


@pytest.mark.parametrize(
    ("size", "millions", "released"),
    [("tiny", 10.35, 11.34), ("small", 26.83, 29.58), ("base", 60.09, 66.23), ("large", 106.4, 117.3)],
)
def test_parameters_are_those_of_the_paper(size: str, millions: float, released: float) -> None:
    with torch.device("meta"):
        encoder = create_encoder("medvit-v2", size=size)
        count = sum(p.numel() for p in encoder.parameters()) + 9 * (encoder.dim + 1)
        unused = [
            LocalFeedForward(module.norm2.num_features, expand=2)
            for module in encoder.modules()
            if isinstance(module, GlobalPerception)
        ]
    assert float(f"{count / 1e6:.4g}") == millions
    count += sum(p.numel() for branch in unused for p in branch.parameters())
    assert float(f"{count / 1e6:.4g}") == released


@pytest.mark.parametrize("layout", ["correct", "released"])
def test_folded_batch_norms_change_nothing(layout: str) -> None:
    torch.manual_seed(0)
    encoder = lively(create_encoder("medvit-v2", layout=layout, **SMALL))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        single = encoder(images).pooled
        encoder, images = encoder.double(), images.double()
        before = encoder(images)
        norms = sum(isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d) for m in encoder.modules())
        after = encoder.merge_batch_norms()(images)
    assert before.pooled.abs().max() > 0.1
    for one, other in zip(after.pyramid, before.pyramid, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)
    torch.testing.assert_close(encoder.float()(images.float()).pooled, single, atol=1e-4, rtol=0)
    assert sum(isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d) for m in encoder.modules()) < norms / 3


def test_folding_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"call \.eval\(\)"):
        create_encoder("medvit-v2", **SMALL).train().merge_batch_norms()


@pytest.mark.parametrize("sides", [(224, 224), (65, 97), (32, 32), (28, 28)])
def test_any_image_size_gives_a_pyramid_of_four(sides: tuple[int, int]) -> None:
    encoder = create_encoder("medvit-v2", **SMALL).eval()
    with torch.no_grad():
        features = encoder(torch.randn(1, 3, *sides))
    for level, stride, channels in zip(features.pyramid, (4, 8, 16, 32), SMALL["dims"], strict=True):
        assert level.shape == (1, channels, *(-(-side // stride) for side in sides))
    assert features.pooled.shape == (1, 48)


def test_the_two_layouts_share_weights_and_differ() -> None:
    torch.manual_seed(0)
    correct = create_encoder("medvit-v2", **SMALL).eval()
    released = create_encoder("medvit-v2", layout="released", **SMALL).eval()
    released.load_state_dict(correct.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert (correct(images).pooled - released(images).pooled).abs().max() > 1e-4


def test_every_second_local_block_is_dilated_as_far_as_its_grid_allows() -> None:
    from foveal.blocks.neighbourhood_attention import NeighbourhoodAttention2d

    encoder = create_encoder("medvit-v2", dilation="alternate")
    blocks = [m for m in encoder.modules() if isinstance(m, NeighbourhoodAttention2d)]
    grids = [(56, 56)] * 2 + [(28, 28)] + [(14, 14)] * 4
    dilations = [block.neighbourhood(grid)[1][0] for block, grid in zip(blocks, grids, strict=True)]
    assert dilations == [1, 8, 1, 2, 1, 2, 1]


def test_pooled_attention_averages_runs_of_tokens_with_or_without_the_tail() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 10, 32)
    for keep, runs in ((True, [slice(0, 4), slice(4, 8), slice(8, 10)]), (False, [slice(0, 4), slice(4, 8)])):
        attention = PooledAttention(32, ratio=2, keep_tail=keep).eval()
        short = attention.norm(torch.stack([x[:, run].mean(1) for run in runs], -1)).mT
        scores = attention.q(x) @ attention.k(short).mT / 32**0.5
        wanted = attention.proj(scores.softmax(-1) @ attention.v(short))
        torch.testing.assert_close(attention(x), wanted)


def test_local_feed_forward_has_its_own_residual_and_a_narrow_gate() -> None:
    block = LocalFeedForward(64).eval()
    assert block.layers[6].fc1.out_channels == 3
    nn.init.zeros_(block.layers[7].weight)
    x = torch.randn(1, 64, 5, 5)
    torch.testing.assert_close(block(x), x)


def test_grey_images_are_repeated() -> None:
    encoder = create_encoder("medvit-v2", **SMALL).eval()
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(grey).pooled, encoder(grey.expand(-1, 3, -1, -1)).pooled)


def test_what_cannot_be_built_or_normalised_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        create_encoder("medvit-v2", **{**SMALL, "dims": (16, 36, 32, 48)})
    with pytest.raises(ValueError, match="multiples of 3"):
        create_encoder("medvit-v2", depths=(2, 2, 4, 1))
    with pytest.raises(ValueError, match="at least 128"):
        create_encoder("medvit-v2", dims=(32, 96, 128, 128))
    with pytest.raises(ValueError, match="did you mean 'tiny'"):
        create_encoder("medvit-v2", size="tinny")
    with pytest.raises(ValueError, match="two images or more"):
        create_encoder("medvit-v2", **SMALL).train()(torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        create_encoder("medvit-v2", **SMALL)(torch.randn(1, 4, 32, 32))


def official(state: dict[str, Tensor], depths: tuple[int, ...], head: nn.Linear) -> dict[str, Tensor]:
    """Our weights under the names of the released code."""
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "mixer.qkv": "attn.qkv",
        "mixer.proj": "attn.proj",
        "mixer": "attn",
        "feed_forward.layers.6.fc1": "conv.conv.6.fc.0",
        "feed_forward.layers.6.fc2": "conv.conv.6.fc.2",
        **{f"feed_forward.layers.{i}": f"conv.conv.{i}" for i in (0, 1, 3, 4, 7, 8)},
        **{f"attention.{name}": f"e_mhsa.{name}" for name in ("q", "k", "v", "proj", "norm")},
        "projection.0": "projection.conv",
        "projection.1": "projection.norm",
        "convolution.0": "mhca.group_conv3x3",
        "convolution.1": "mhca.norm",
        "convolution.3": "mhca.projection",
        **{f"feed_forward.{i}.norm": f"kan.layers.{i}.layernorm" for i in (0, 1)},
        **{f"feed_forward.{i}.spline": f"kan.layers.{i}.spline_linear" for i in (0, 1)},
        **{f"feed_forward.{i}": f"kan.layers.{i}.rbf" for i in (0, 1)},
    }
    made = {"proj_head.0.weight": head.weight, "proj_head.0.bias": head.bias}
    for key, tensor in state.items():
        parts = key.split(".")
        if parts[0] == "stem":
            made[f"stem.{parts[1]}.{('conv', 'norm')[int(parts[2])]}.{parts[3]}"] = tensor
        elif parts[0] == "norm":
            made[key] = tensor
        else:
            stage, place = int(parts[1]), int(parts[2])
            number = sum(depths[:stage]) + place
            owner, leaf = ".".join(parts[3:-1]), parts[-1]
            whole = f"stages.{stage}.{place}.attention.q.weight" in state
            if owner.startswith("patch_embed"):
                renamed = "patch_embed." + ("conv" if tensor.ndim == 4 else "norm")
            else:
                renamed = "norm_global" if whole and owner == "norm1" else names[owner]
            leaf = {"bias": "rpb"}.get(leaf, leaf) if owner == "mixer" else leaf
            leaf = "grid" if leaf == "centres" else leaf
            made[f"features.{number}.{renamed}.{leaf}"] = (
                tensor.flatten(1) if ".fc." in renamed and leaf == "weight" else tensor
            )
            if whole:
                made[f"features.{number}.conv.conv.0.weight"] = torch.zeros(4, 4, 1, 1)
    return made


def test_official_weights_load_without_their_unused_branch() -> None:
    torch.manual_seed(0)
    depths = (2, 2, 3, 1)
    settings = {**SMALL, "dims": (16, 32, 40, 48), "layout": "released"}
    source, target = (create_encoder("medvit-v2", **settings) for _ in range(2))
    head = nn.Linear(48, 9)
    lively(source)
    loaded = load_official(target, {"model": official(source.state_dict(), depths, head)})
    assert loaded.layout == "official"
    assert loaded.head is not None
    torch.testing.assert_close(loaded.head["weight"], head.weight)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(target.eval()(images).pooled, source(images).pooled)
