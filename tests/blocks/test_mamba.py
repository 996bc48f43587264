import warnings

import pytest
import torch

from foveal.blocks.mamba import MambaMixer


def as_transformers(mixer):
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer as Theirs

    dim, width = mixer.out_proj.weight.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Theirs(
            MambaConfig(
                hidden_size=dim,
                state_size=mixer.scan.states,
                intermediate_size=width,
                time_step_rank=mixer.scan.rank,
                use_mambapy=False,
            ),
            0,
        )
    theirs.load_state_dict({key.removeprefix("scan."): value for key, value in mixer.state_dict().items()})
    return theirs


def test_the_mixer_equals_that_of_transformers():
    mixer, x = MambaMixer(24, states=8), torch.randn(2, 33, 24)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), as_transformers(mixer)(x), rtol=1e-5, atol=1e-5)


def test_the_mixer_equals_that_of_mambapy():
    from mambapy.mamba import MambaBlock, MambaConfig

    mixer, x = MambaMixer(24, states=8), torch.randn(2, 33, 24)
    theirs = MambaBlock(MambaConfig(d_model=24, n_layers=1, d_state=8, use_cuda=False))
    theirs.load_state_dict({key.removeprefix("scan."): value for key, value in mixer.state_dict().items()})
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_parts_of_a_sequence_with_the_state_between_them_equal_the_whole():
    mixer, x = MambaMixer(16), torch.randn(2, 11, 16)
    first, state = mixer.continued(x[:, :2], None)
    second, state = mixer.continued(x[:, 2:7], state)
    third, _ = mixer.continued(x[:, 7:], state)
    torch.testing.assert_close(torch.cat([first, second, third], dim=1), mixer(x))


def test_a_token_does_not_change_those_before_it():
    mixer, x = MambaMixer(16), torch.randn(1, 12, 16)
    changed = x.clone()
    changed[:, 7] += 1
    before, after = mixer(x), mixer(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7:], after[:, 7:])


def test_rates_of_sixty_four_bits_are_not_rounded():
    scan = MambaMixer(8).double().scan
    assert torch.equal(scan._weights(torch.randn(1, 6, 16).double())[2], -torch.exp(scan.A_log))


def test_tokens_that_are_not_finite_are_reported():
    mixer, x = MambaMixer(8), torch.randn(1, 6, 8)
    x[0, 3, 2] = float("nan")
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        mixer(x)
