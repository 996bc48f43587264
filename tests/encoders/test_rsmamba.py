import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from foveal.blocks.mamba import MambaMixer
from foveal.blocks.multi_path import MultiPath, spread_over_shuffles
from foveal.encoders.base import create_encoder
from foveal.encoders.checkpoints import load_official
from foveal.encoders.rsmamba import PATH_TYPES, RSMamba

SMALL = {"dim": 48, "depth": 2, "image_size": 32, "patch_size": 8, "stride": 4, "states": 8}


def theirs_of(mixer):
    """transformers' mixer with the weights of ours."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer as Theirs

    dim, width = mixer.out_proj.weight.shape
    shape = {"state_size": mixer.scan.states, "time_step_rank": mixer.scan.rank}
    theirs = Theirs(MambaConfig(hidden_size=dim, intermediate_size=width, use_mambapy=False, **shape), 0)
    theirs.load_state_dict({key.removeprefix("scan."): value for key, value in mixer.state_dict().items()})
    return theirs


@torch.no_grad()
def test_a_block_equals_three_indexings_around_the_mixer_of_transformers():
    torch.manual_seed(0)
    block, x, order = MultiPath(MambaMixer(48, states=8), 48), torch.randn(2, 25, 48), torch.randperm(25)
    theirs = theirs_of(block.mixer)
    forward, reverse, shuffled = theirs(torch.cat([x, x.flip(1), x[:, order]])).chunk(3)
    paths = [forward, reverse.flip(1), shuffled[:, order.argsort()]]
    means = torch.cat([path.mean(1) for path in paths], dim=-1)
    gate = torch.softmax(F.linear(means, block.gate[0].weight), dim=-1)
    wanted = sum(gate[:, k, None, None] * paths[k] for k in range(3))
    torch.testing.assert_close(
        block(x, orders=["forward", "reverse", order]), wanted, rtol=1e-5, atol=1e-5
    )  # fmt: skip


def official_state(encoder, classes=5):
    """Our weights under the names of KyanChen/RSMamba within mmpretrain."""
    names = {
        "patches.weight": "patch_embed.projection.weight",
        "positions.table": "pos_embed",
        "norms.0.": "pre_norm.",
        "pooled_norm.": "ln2.",
        "mixer.scan.": "",
        "mixer.": "",
    }
    state = {}
    for key, tensor in encoder.state_dict().items():
        name = key.replace("blocks.", "gate_layers." if "gate" in key else "layers.").replace(".gate.", ".")
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        name = name.replace("norm.", "ln1.") if key.startswith("norm.") else name
        state[f"backbone.{name}"] = tensor.clone()
    return state | {"head.fc.weight": torch.randn(classes, 48), "head.fc.bias": torch.randn(classes)}


def test_official_weights_load(tmp_path):
    torch.manual_seed(0)
    first, second = RSMamba(**SMALL).eval(), RSMamba(**SMALL).eval()
    state = official_state(first)
    assert {"backbone.layers.1.A_log", "backbone.gate_layers.0.0.weight", "backbone.ln1.bias"} <= state.keys()
    save_file(state, tmp_path / "rsmamba.safetensors")
    loaded = load_official(second, tmp_path / "rsmamba.safetensors")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(first(images).pooled, second(images).pooled)
    assert loaded.layout == "mmpretrain"
    assert torch.equal(loaded.head["bias"], state["head.fc.bias"])


@pytest.mark.parametrize(
    ("size", "classes", "parameters"), [("b", 21, 6_381_141), ("h", 21, 33_053_141), ("s", 21, 4_355_157)]
)
def test_parameters_follow_from_the_list_of_layers(size, classes, parameters):
    encoder = create_encoder("rsmamba", size=size)
    assert sum(p.numel() for p in encoder.parameters()) + (encoder.dim + 1) * classes == parameters
    gates = sum(p.numel() for name, p in encoder.named_parameters() if ".gate." in name)
    assert gates == 9 * encoder.dim * len(encoder.blocks)


def test_corner_padding_gives_28_patches_of_224_pixels():
    encoder = RSMamba(dim=8, depth=1)
    assert encoder.positions.grid == (28, 28)
    padded = encoder.padded_patches(224, 224)
    assert padded.shape == (28, 28)
    assert padded[:27, :27].sum() == 0
    assert padded[27].all()
    assert padded[:, 27].all()


def test_odd_images_are_padded_at_their_corner():
    encoder = RSMamba(**SMALL).eval()
    images = torch.randn(1, 3, 33, 38)
    features = encoder(images)
    assert features.grid == (9, 10) == tuple(encoder.padded_patches(33, 38).shape)
    by_hand = encoder(F.pad(images, (0, 2, 0, 3)))
    assert by_hand.grid == (9, 10)
    torch.testing.assert_close(features.patches, by_hand.patches)


def test_a_gate_on_the_forward_path_reduces_the_model_to_plain_mamba():
    torch.manual_seed(0)
    plain = RSMamba(**SMALL, path_type="forward").eval()
    gated = RSMamba(**SMALL).eval()
    gated.load_state_dict(plain.state_dict(), strict=False)
    for block in gated.blocks:
        block.gate = OnFirst()
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(gated(images).pooled, plain(images).pooled, rtol=0, atol=0)


class OnFirst(nn.Module):
    def forward(self, means):
        return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(means), 3)


@pytest.mark.parametrize(
    ("path_type", "sees"),
    [("forward", False), ("forward_reverse_mean", True), ("forward_reverse_shuffle_gate", True)],
)
def test_the_first_token_sees_the_last_but_for_the_forward_path_alone(path_type, sees):
    encoder = RSMamba(**{**SMALL, "stride": 8}, path_type=path_type).eval()
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    encoder(images).patches[0, 0].square().sum().backward()
    assert bool(images.grad[:, :, 24:, 24:].abs().sum() > 0) == sees


def test_fixed_permutations_are_bit_reproducible_and_the_seed_matters():
    encoder, images = RSMamba(**SMALL).eval(), torch.randn(1, 3, 32, 32)
    assert torch.equal(encoder(images).pooled, encoder(images).pooled)
    other = RSMamba(**SMALL, seed=1).eval()
    other.load_state_dict(encoder.state_dict())
    assert not torch.equal(encoder(images).pooled, other(images).pooled)
    assert len({block.seed for block in encoder.blocks}) == 2


def test_the_spread_over_permutations_is_reported():
    encoder = RSMamba(**SMALL).eval()

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, images):
            return self.encoder(images).pooled

    mean, spread = spread_over_shuffles(Pooled().eval(), torch.randn(2, 3, 32, 32), passes=4)
    assert mean.shape == spread.shape == (2, 48)
    assert (spread > 0).all()


def test_autocast_changes_little():
    encoder, images = RSMamba(**SMALL).eval(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        exact = encoder(images).pooled
        with torch.autocast("cpu", dtype=torch.float16):
            half = encoder(images).pooled
    torch.testing.assert_close(half.float(), exact, rtol=0.05, atol=0.05)


def test_one_norm_is_shared_by_all_blocks_unless_each_is_to_have_its_own():
    assert len(RSMamba(**SMALL).norms) == 1
    assert len(RSMamba(**SMALL, share_norm=False).norms) == 2


@pytest.mark.parametrize("path_type", PATH_TYPES)
def test_every_path_type_learns(path_type):
    encoder = RSMamba(**SMALL, path_type=path_type)
    encoder(torch.randn(2, 3, 32, 32)).pooled.square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("place", ["head", "tail", "middle", "double"])
def test_class_tokens_are_pooled_at_any_place(place):
    features = RSMamba(**SMALL, class_token=place, positions="sine")(torch.randn(2, 3, 32, 36))
    assert features.pooled.shape == (2, 48)
    assert features.grid == (8, 9)


def test_computing_blocks_again_draws_the_same_permutations():
    plain, again = RSMamba(**SMALL), RSMamba(**SMALL, checkpointing=True)
    again.load_state_dict(plain.state_dict())
    images, gradients = torch.randn(2, 3, 32, 32), []
    for encoder in (plain, again):
        torch.manual_seed(3)
        encoder(images).pooled.square().sum().backward()
        gradients.append(encoder.patches.weight.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"path_type": "forward_revers_gate"}, "did you mean 'forward_reverse_gate'"),
        ({"size": "xl"}, "unknown size"),
        ({"positions": "fourier"}, "unknown positions"),
        ({"class_token": "head_tail"}, "unknown place"),
        ({"image_size": 4}, "smaller than a patch"),
    ],
)
def test_unknown_settings_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        RSMamba(**{**SMALL, **settings})


def test_images_smaller_than_a_patch_are_refused():
    with pytest.raises(ValueError, match="6 px are smaller than a patch of 8 px"):
        RSMamba(**SMALL)(torch.randn(1, 3, 32, 6))
