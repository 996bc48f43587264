"""Adventurer: who sees whom, token counts, memory, other patch sizes, errors."""

import pytest
import torch
from torch import Tensor, nn

from foveal.encoders import create_encoder
from foveal.encoders.adventurer import Adventurer, AdventurerBlock
from foveal.encoders.resize_patch import resize_patch
from foveal.evaluation.tensor_memory import TensorMemory

TINY = {"dim": 32, "depth": 2, "patch_size": 4, "image_size": 32, "in_channels": 1, "states": 8}


def adventurer(**options: object) -> Adventurer:
    torch.manual_seed(0)
    return Adventurer(**(TINY | options)).eval()  # type: ignore[arg-type]


def block(*, flip: bool, heading: bool = False, mixer: nn.Module | None = None) -> AdventurerBlock:
    from foveal.blocks.mamba2 import Mamba2Mixer

    torch.manual_seed(0)
    mixer = mixer or Mamba2Mixer(32, states=8)
    return AdventurerBlock(mixer, 32, flip=flip, heading=heading).double()


def tokens() -> Tensor:
    return torch.randn(1, 10, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def seen_by(token: int, layer: AdventurerBlock) -> list[bool]:
    """Which tokens the output of one depends on."""
    x = tokens().requires_grad_()
    return (torch.autograd.grad(layer(x)[0, token, 0], x)[0][0].abs().sum(-1) > 0).tolist()


class MeanMixer(nn.Module):
    """Every token gets the mean of all; no order matters to it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1, keepdim=True).expand_as(x)


def test_a_flip_does_nothing_to_a_mixer_without_order_and_something_to_a_causal_one() -> None:
    x = tokens()
    plain, flipped = block(flip=False, mixer=MeanMixer()), block(flip=True, mixer=MeanMixer())
    flipped.load_state_dict(plain.state_dict())
    torch.testing.assert_close(plain(x), flipped(x))
    plain, flipped = block(flip=False), block(flip=True)
    flipped.load_state_dict(plain.state_dict())
    assert not torch.allclose(plain(x), flipped(x))


def test_the_first_patch_sees_the_last_one_in_flipped_blocks_only() -> None:
    assert seen_by(0, block(flip=False)) == [True] + [False] * 9
    assert seen_by(0, block(flip=True)) == [True] * 9 + [False]
    assert seen_by(8, block(flip=True)) == [False] * 8 + [True, False]


@pytest.mark.parametrize("flip", [True, False])
def test_the_class_token_sees_all_patches_and_the_heading_lets_every_token_do_so(flip: bool) -> None:
    assert all(seen_by(9, block(flip=flip)))
    for token in (0, 4, 8, 9):
        assert all(seen_by(token, block(flip=flip, heading=True)))


def test_flips_are_those_of_the_paper_or_of_the_released_code() -> None:
    deep = {"depth": 12}
    assert [b.flip for b in adventurer(**deep).blocks] == [False, True] * 6
    released = [b.flip for b in adventurer(**deep, flip="released").blocks]
    assert [at for at, flip in enumerate(released) if flip] == [2, 3]
    assert not any(b.flip for b in adventurer(**deep, flip="none").blocks)


def test_it_keeps_the_contract() -> None:
    encoder = create_encoder("adventurer", **TINY).eval()
    features = encoder(torch.rand(2, 1, 24, 40))
    assert features.grid == (6, 10)
    assert features.patches.shape == (2, 60, 32)
    assert features.pooled.shape == (2, 32)
    torch.testing.assert_close(features.pyramid[0][0, :, 1, 2], features.patches[0, 12])


def test_one_token_a_pixel_of_224_gives_50176_tokens_and_a_class_token() -> None:
    with torch.device("meta"):
        encoder = Adventurer(patch_size=1)
    assert encoder.positions.table.shape == (1, 50176, 256)
    assert encoder.class_tokens.count == 1


def test_checkpointing_changes_memory_and_not_the_gradients() -> None:
    x, grads, peaks = torch.rand(1, 1, 32, 32), [], []
    for again in (True, False):
        encoder = adventurer(checkpointing=again, depth=4, patch_size=2)
        with TensorMemory() as memory:
            encoder(x).pooled.square().sum().backward()
        grads.append(encoder.patches.weight.grad)
        peaks.append(memory.peak)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)
    assert peaks[0] < 0.5 * peaks[1]


@pytest.mark.parametrize("options", [{}, {"checkpointing": True}, {"dim": 64, "depth": 3, "states": 64}])
def test_the_estimate_of_memory_is_near_what_tensors_take(options: dict[str, object]) -> None:
    encoder = adventurer(patch_size=2, **options)
    with TensorMemory() as memory:
        encoder(torch.rand(4, 1, 32, 32)).pooled.sum().backward()
    assert encoder.training_bytes(257, batch=4) == pytest.approx(memory.peak, rel=0.3)


def test_weights_go_to_another_patch_size() -> None:
    encoder = adventurer()
    smaller = resize_patch(encoder, 2)
    assert isinstance(smaller, Adventurer)
    assert smaller.positions.table.shape == (1, 256, 32)
    assert smaller.patches.kernel_size == (2, 2)
    assert torch.equal(smaller.blocks[1].mixer.A_log, encoder.blocks[1].mixer.A_log)
    # A patch of 8 px that is the enlarged one of 4 px gives the same token (FlexiViT).
    larger = resize_patch(encoder, 8)
    image = torch.rand(1, 1, 4, 4)
    enlarged = nn.functional.interpolate(image, size=8, mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(larger.patches(enlarged), encoder.patches(image), rtol=1e-4, atol=1e-5)


def test_a_vim_goes_to_another_patch_size_as_well() -> None:
    vim = create_encoder("vim", dim=16, depth=1, patch_size=4, image_size=16, states=4)
    assert resize_patch(vim, 2).positions.table.shape == (1, 64, 16)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="heads of 64"):
        adventurer(dim=48)
    with pytest.raises(ValueError, match="every_other"):
        adventurer(flip="every")
    with pytest.raises(ValueError, match="tiny"):
        adventurer(size="tinny")
    with pytest.raises(ValueError, match="30 x 32 px do not divide into patches of 4 px"):
        adventurer()(torch.rand(1, 1, 30, 32))
    with pytest.raises(ValueError, match="no registered encoder"):
        resize_patch(nn.Linear(1, 1), 2)  # type: ignore[arg-type]
