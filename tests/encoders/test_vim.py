import pytest
import torch
from mambapy.mamba import MambaBlock, MambaConfig
from safetensors.torch import save_file
from torch.nn import functional as F

from foveal.encoders.base import create_encoder
from foveal.encoders.checkpoints import load_official
from foveal.encoders.vim import Vim

SMALL = {"dim": 32, "depth": 2, "image_size": 32, "patch_size": 8, "states": 4}


def official_state(double=False, dim=32, depth=2, side=4, states=4, generator=None):
    """Weights in the layout of hustvl/Vim."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator) * 0.2

    width, rank = 2 * dim, -(-dim // 16)
    state = {
        "patch_embed.proj.weight": draw(dim, 3, 8, 8),
        "patch_embed.proj.bias": draw(dim),
        "pos_embed": draw(1, side**2 + 1 + double, dim),
        "norm_f.weight": 1 + draw(dim),
        "head.weight": draw(5, dim),
        "head.bias": draw(5),
    }
    for name in ("cls_token_head", "cls_token_tail") if double else ("cls_token",):
        state[name] = draw(1, 1, dim)
    for i in range(depth):
        block = {"norm.weight": 1 + draw(dim)}
        block |= {"mixer.in_proj.weight": draw(2 * width, dim), "mixer.out_proj.weight": draw(dim, width)}
        for back in ("", "_b"):
            block |= {
                f"mixer.conv1d{back}.weight": draw(width, 1, 4),
                f"mixer.conv1d{back}.bias": draw(width),
                f"mixer.x_proj{back}.weight": draw(rank + 2 * states, width),
                f"mixer.dt_proj{back}.weight": draw(width, rank),
                f"mixer.dt_proj{back}.bias": draw(width),
                "mixer.A_b_log" if back else "mixer.A_log": draw(width, states),
                f"mixer.D{back}": 1 + draw(width),
            }
        state |= {f"layers.{i}.{name}": tensor for name, tensor in block.items()}
    return state


def official_forward(state, images, depth=2, states=4):
    """What the paper says, with mambapy's mixers: the class token in the middle, normalised."""

    def norm(x, weight):
        return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight

    def mixed(x, i, back):
        block = MambaBlock(MambaConfig(d_model=x.shape[-1], n_layers=1, d_state=states, use_cuda=False))
        prefix = f"layers.{i}.mixer."
        names = {
            name: name.replace(".", f"{back}.", 1) if "." in name else name + back
            for name in block.state_dict()
        }
        names |= {name: name for name in ("in_proj.weight", "out_proj.weight")}
        names["A_log"] = "A_b_log" if back else "A_log"
        block.load_state_dict({name: state[prefix + theirs] for name, theirs in names.items()})
        return block(x)

    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=8)
    x = x.flatten(2).mT
    half = x.shape[1] // 2
    x = torch.cat([x[:, :half], state["cls_token"].expand(len(x), -1, -1), x[:, half:]], dim=1)
    x = x + state["pos_embed"]
    residual = torch.zeros_like(x)
    for i in range(depth):
        residual = residual + x
        x = norm(residual, state[f"layers.{i}.norm.weight"])
        x = (mixed(x, i, "") + mixed(x.flip(1), i, "_b").flip(1)) / 2
    return norm(residual + x, state["norm_f.weight"])[:, half]


def test_official_weights_give_what_the_paper_says(tmp_path):
    state = official_state()
    save_file(state, tmp_path / "vim.safetensors")
    encoder = Vim(**SMALL).eval()
    loaded = load_official(encoder, tmp_path / "vim.safetensors")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(images).pooled, official_forward(state, images), rtol=1e-4, atol=1e-5
        )
    assert loaded.layout == "hustvl"
    assert torch.equal(loaded.head["weight"], state["head.weight"])


def test_official_weights_with_two_class_tokens_load():
    state = official_state(double=True)
    encoder = Vim(**SMALL, class_token="double")
    load_official(encoder, {"model": state})
    ends = torch.cat([state["cls_token_head"], state["cls_token_tail"]], dim=1)
    assert torch.equal(encoder.class_tokens.tokens, ends)
    assert torch.equal(encoder.class_tokens.positions, state["pos_embed"][:, [0, -1]])


def test_official_weights_load_at_half_the_stride_with_resized_positions():
    encoder = Vim(**SMALL, stride=4)
    loaded = load_official(encoder, official_state())
    assert any("positions.table" in line for line in loaded.fitted)
    assert encoder(torch.randn(1, 3, 32, 32)).grid == (7, 7)


@pytest.mark.parametrize(("size", "parameters"), [("tiny", 7_148_008), ("small", 25_796_584)])
def test_parameters_are_those_of_the_paper(size, parameters):
    encoder = create_encoder("vim", size=size)
    assert sum(p.numel() for p in encoder.parameters()) + 1000 * encoder.dim + 1000 == parameters


@pytest.mark.parametrize("place", ["middle", "head", "tail", "double", "none"])
def test_features_hold_the_patches_and_not_the_class_tokens(place):
    encoder = Vim(**SMALL, class_token=place)
    features = encoder(torch.randn(2, 3, 32, 48))
    assert features.grid == (4, 6)
    assert features.pyramid[0].shape == (2, 32, 4, 6)
    assert torch.equal(features.pyramid[0].flatten(2).mT, features.patches)
    same = torch.equal(features.pooled, features.patches.mean(dim=1))
    assert same == (place == "none")


def test_the_map_of_overlapping_patches_covers_the_image():
    encoder = Vim(**SMALL, stride=4)
    features = encoder(torch.randn(1, 3, 32, 40))
    assert features.grid == (7, 9)
    assert features.pyramid[0].shape == (1, 32, 8, 10)
    # The centre of a cell lies midway between those of two patches; beyond the last there is one.
    columns = torch.arange(9.0).expand(1, 1, 7, 9)
    found = encoder._at_cells(columns, torch.zeros(1, 3, 32, 40))
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8]))


def test_the_mean_of_patches_is_pooled_although_there_is_a_class_token():
    features = Vim(**SMALL, pool="mean")(torch.randn(2, 3, 32, 32))
    assert torch.equal(features.pooled, features.patches.mean(dim=1))


def test_a_forward_only_class_token_in_the_middle_does_not_see_the_lower_half():
    images = torch.randn(1, 3, 32, 32)
    changed = images.clone()
    changed[:, :, 16:] += 1
    ahead, both = Vim(**SMALL, direction="forward").eval(), Vim(**SMALL).eval()
    assert torch.equal(ahead(images).pooled, ahead(changed).pooled)
    assert not torch.equal(both(images).pooled, both(changed).pooled)


def test_stochastic_depth_drops_the_output_of_the_block_before():
    encoder = Vim(**{**SMALL, "depth": 4}, drop_path=0.3)
    rates = [block.drop_path.drop_prob for block in encoder.blocks]
    assert rates == pytest.approx([0, 0, 0.1, 0.2])
    assert encoder.drop_path.drop_prob == pytest.approx(0.3)


def test_computing_blocks_again_changes_no_gradient():
    plain, again = Vim(**SMALL), Vim(**SMALL, checkpointing=True)
    again.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 32, 32)
    for encoder in (plain, again):
        encoder(images).pooled.square().sum().backward()
    for mine, theirs in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad) if mine.grad is not None else theirs.grad is None


def test_the_running_sum_stays_in_32_bits_under_autocast():
    encoder, seen = Vim(**SMALL).eval(), []
    encoder.blocks[1].register_forward_hook(lambda module, inputs, outputs: seen.append(outputs[1].dtype))
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        exact = encoder(images).pooled
        with torch.autocast("cpu", dtype=torch.float16):
            half = encoder(images).pooled
    assert seen == [torch.float32] * 2
    torch.testing.assert_close(half.float(), exact, rtol=0.02, atol=0.02)


def test_other_image_sizes_need_resized_positions():
    Vim(**SMALL)(torch.randn(1, 3, 48, 40))
    with pytest.raises(ValueError, match="resize=True"):
        Vim(**SMALL, resize_positions=False)(torch.randn(1, 3, 48, 40))
    with pytest.raises(ValueError, match="do not divide"):
        Vim(**SMALL)(torch.randn(1, 3, 33, 32))


def test_images_that_are_not_finite_are_reported():
    images = torch.randn(1, 3, 32, 32)
    images[0, 0, 5, 5] = torch.nan
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        Vim(**SMALL)(images)


@pytest.mark.parametrize(
    "settings",
    [{"size": "tini"}, {"direction": "back"}, {"pool": "max"}, {"class_token": "midle"}, {"image_size": 7}],
)
def test_unknown_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r"unknown|less than a patch"):
        Vim(**{**SMALL, **settings})
