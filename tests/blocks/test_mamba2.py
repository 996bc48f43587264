"""The Mamba-2 mixer: equal to another implementation, its state, its errors."""

import pytest
import torch
from transformers import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer as TheirMixer

from foveal.blocks.mamba2 import Mamba2Mixer


@pytest.mark.parametrize("groups", [1, 2])
def test_with_copied_weights_it_is_the_mixer_of_transformers(groups: int) -> None:
    torch.manual_seed(0)
    config = Mamba2Config(
        hidden_size=32,
        num_heads=4,
        head_dim=16,
        state_size=8,
        n_groups=groups,
        conv_kernel=4,
        chunk_size=16,
        num_hidden_layers=1,
    )
    theirs = TheirMixer(config, layer_idx=0).eval()
    ours = Mamba2Mixer(32, states=8, head_dim=16, groups=groups, chunk=7)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 37, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_tokens_one_by_one_or_in_two_parts_are_one_pass() -> None:
    torch.manual_seed(0)
    mixer = Mamba2Mixer(32, states=8, head_dim=16).double()
    x = torch.randn(2, 12, 32, dtype=torch.float64)
    whole = mixer(x)
    first, state = mixer.continued(x[:, :2], None)
    parts = [first, mixer.continued(x[:, 2:], state)[0]]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-10, atol=1e-10)
    state, outputs = None, []
    for token in x.unbind(1):
        y, state = mixer.step(token, state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, dim=1), whole, rtol=1e-10, atol=1e-10)


def test_no_token_sees_a_later_one() -> None:
    mixer = Mamba2Mixer(32, states=8, head_dim=16)
    x = torch.randn(1, 9, 32)
    changed = x.clone()
    changed[:, 5] += 1
    with torch.no_grad():
        assert torch.equal(mixer(x)[:, :5], mixer(changed)[:, :5])


def test_strong_decay_in_chunks_of_256_has_finite_gradients() -> None:
    mixer = Mamba2Mixer(32, states=8, head_dim=16, chunk=256)
    with torch.no_grad():
        mixer.dt_bias.fill_(1.25)
        mixer.A_log.fill_(2.77)  # d A of about -24 at each of 256 tokens
    mixer(torch.randn(1, 300, 32)).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in mixer.parameters() if p.grad is not None)


def test_widths_that_do_not_divide_into_heads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"inner width of 96 .* heads of 64"):
        Mamba2Mixer(48)
    with pytest.raises(ValueError, match="groups=3 of 2 heads"):
        Mamba2Mixer(64, groups=3)
