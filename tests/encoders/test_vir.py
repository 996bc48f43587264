"""ViR and its hybrid: modes, streams, the class token, ViT weights, errors."""

import pytest
import timm
import torch

from foveal.encoders import Features, create_encoder
from foveal.encoders.vir import ViR

TINY = {"dim": 24, "heads": 3, "depth": 3, "patch_size": 4, "image_size": 32, "in_channels": 1}


def vir(**options: object) -> ViR:
    torch.manual_seed(0)
    return ViR(**(TINY | options)).double().eval()  # type: ignore[arg-type]


def images(side: int = 32) -> torch.Tensor:
    return torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vir", TINY),
        ("vir", TINY | {"grid": "corners"}),
        ("hvir", {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1), "head_dim": 8}),
    ],
)
def test_encoders_keep_the_contract(name: str, settings: dict[str, object]) -> None:
    encoder = create_encoder(name, **settings).eval()
    features = encoder(torch.rand(2, encoder.in_channels, 64, 64))
    height, width = features.grid
    assert height == width == 64 // encoder.patch_size
    assert features.patches.shape == (2, height * width, encoder.dim)
    assert features.pooled.shape == (2, encoder.dim)
    assert [level.shape[1] for level in features.pyramid] == list(encoder.pyramid_channels)
    assert [64 // level.shape[-1] for level in features.pyramid] == list(encoder.pyramid_strides)


@pytest.mark.parametrize("grid", [None, "up-left", "corners"])
def test_modes_switch_after_making_and_give_equal_features(grid: str | None) -> None:
    encoder, x = vir(grid=grid), images()
    outputs: list[Features] = []
    for mode in ("parallel", "recurrent", "chunkwise"):
        encoder.set_mode(mode, chunk=7)  # type: ignore[arg-type]
        outputs.append(encoder(x))
    for other in outputs[1:]:
        torch.testing.assert_close(other.patches, outputs[0].patches, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(other.pooled, outputs[0].pooled, rtol=1e-10, atol=1e-10)


def test_strips_of_an_image_streamed_are_the_whole_image() -> None:
    encoder, x = vir(), images()
    whole = encoder(x)
    strips = [
        encoder.embed(x[:, :, row : row + 8], first_row=row // 4, grid=(8, 8)) for row in range(0, 32, 8)
    ]
    seen = list(encoder.stream(strips))
    torch.testing.assert_close(torch.cat([part.tokens for part in seen], dim=1), whole.patches)
    torch.testing.assert_close(seen[-1].pooled, whole.pooled)
    assert [tuple(state.shape) for state in seen[-1].memory] == [(2, 3, 8, 8)] * 3
    resumed = list(encoder.stream(strips[2:], seen[1].memory))
    torch.testing.assert_close(resumed[-1].pooled, whole.pooled)


def test_no_patch_sees_a_later_one_and_the_class_token_sees_all() -> None:
    encoder, x = vir(), images().requires_grad_()
    features = encoder(x)
    early = torch.autograd.grad(features.patches[:, 9, 0].sum(), x, retain_graph=True)[0]
    cells = early.unfold(2, 4, 4).unfold(3, 4, 4).abs().sum((0, 1, 4, 5)).flatten()
    assert (cells[:10] > 0).all()
    assert not cells[10:].any()
    assert (torch.autograd.grad(features.pooled[:, 0].sum(), x)[0] != 0).all()


def test_it_has_the_parameters_of_deit_and_one_norm_a_block_more() -> None:
    ours = sum(p.numel() for p in ViR(size="tiny").parameters())
    deit = timm.create_model("deit_tiny_patch16_224", num_classes=0)
    theirs = sum(p.numel() for p in deit.parameters())
    assert ours - theirs == 12 * 2 * 192
    assert ours / theirs < 1.01


def test_weights_of_a_vit_are_taken_over_with_the_class_position_at_the_end() -> None:
    vit = timm.create_model("deit_tiny_patch16_224", num_classes=0, depth=2, img_size=64)
    encoder = ViR(size="tiny", depth=2, image_size=128, patch_size=8).load_vit(vit)
    assert torch.equal(encoder.class_tokens.positions[0], vit.pos_embed[0, :1])
    assert torch.equal(encoder.blocks[1].mixer.qkv.weight, vit.blocks[1].attn.qkv.weight)
    assert encoder.positions.table.shape == (1, 256, 192)
    same = ViR(size="tiny", depth=2, image_size=64).load_vit(vit)
    assert torch.equal(same.positions.table, vit.pos_embed[:, 1:])
    with pytest.raises(ValueError, match="unexpected"):
        ViR(size="tiny", depth=1, image_size=64).load_vit(vit)


def test_unknown_modes_sizes_and_strange_memories_are_refused() -> None:
    with pytest.raises(ValueError, match="chunkwise"):
        vir().set_mode("chunk")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tiny"):
        ViR(size="tiniest")
    encoder = vir()
    tokens, memory = encoder.embed(images()).flatten(1, 2), encoder.init_state(3)
    with pytest.raises(ValueError, match="initial_state has shape"):
        encoder.step(tokens, memory)
    with pytest.raises(ValueError, match="does not lie in a grid"):
        vir().embed(images(), first_row=1, grid=(8, 8))
    with pytest.raises(ValueError, match="multiples of 32"):
        create_encoder("hvir", depths=(1, 1, 1, 1))(torch.rand(1, 3, 48, 64))
