"""Settings, schedules, groups and the sample stream: the parts of training that are pure functions."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from foveal.encoders import create_encoder
from foveal.settings import Settings
from foveal.training.averaging import WeightAverage
from foveal.training.groups import decay_groups, layer_decay_groups
from foveal.training.sampling import StreamPositions, check_weights, epoch_order, sample_seed, stream_loader
from foveal.training.schedules import learning_rate_factor
from foveal.training.settings import FREE_ON_RESUME, TrainingSettings


def positions(length=7, **changes):
    options = {"seed": 3, "batch_size": 4, "last_step": 9} | changes
    return StreamPositions(length, **options)


class Echo:
    """Samples that tell their number and the first draw of their generator."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def sample(self, index, generator):
        return {"ids": index, "draw": torch.rand(1, generator=generator).item()}


def test_unknown_setting_suggests_the_nearest_name():
    with pytest.raises(
        ValidationError,
        match=r"unknown setting 'learing_rate'; did you mean 'learning_rate'\? allowed: .*steps",
    ):
        TrainingSettings(learing_rate=0.1)


def test_each_unknown_setting_of_a_subclass_is_named():
    class Decoder(Settings):
        channels: int = 4

    with pytest.raises(
        ValidationError, match=r"(?s)'chanels'; did you mean 'channels'.*'zzz'; allowed: channels"
    ):
        Decoder(chanels=1, zzz=2)


def test_settings_are_frozen_and_a_changed_copy_is_checked():
    settings = TrainingSettings(steps=5)
    with pytest.raises(ValidationError):
        settings.steps = 6
    assert settings.replace(seed=2).steps == 5
    with pytest.raises(ValidationError, match="not a multiple"):
        settings.replace(gradient_accumulation=3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"betas": (0.9, 1.0)},
        {"warmup_steps": 1000},
        {"warmup_steps": 5, "warmup_fraction": 0.1},
        {"mixed_precision": "fp8"},
        {"ema_decay": 1.0},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(ValidationError):
        TrainingSettings(**wrong)


def test_settings_free_on_resume_exist():
    assert set(TrainingSettings.model_fields) >= FREE_ON_RESUME


def test_cosine_rises_to_one_and_falls_to_its_floor():
    settings = TrainingSettings(steps=100, warmup_fraction=0.1, minimum_factor=0.05)
    factors = [learning_rate_factor(settings, step) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert factors[9] == factors[10] == max(factors) == 1.0
    assert factors[-1] == pytest.approx(0.05)
    assert factors[10 + 89 // 2] == pytest.approx(0.525, abs=0.02)
    assert all(earlier >= later for earlier, later in pairwise(factors[9:]))


def test_step_schedule_drops_after_the_warm_up():
    settings = TrainingSettings(steps=50, schedule="step", step_every=10, step_factor=0.5, warmup_steps=5)
    assert [learning_rate_factor(settings, step) for step in (4, 14, 15, 25)] == [1.0, 1.0, 0.5, 0.25]


@given(st.integers(1, 30), st.integers(0, 5), st.integers(0, 2**40))
@hypothesis_settings(deadline=None, max_examples=40)
def test_epoch_visits_each_sample_once(length, epoch, seed):
    assert sorted(epoch_order(length, seed, epoch)) == list(range(length))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20).filter(lambda w: sum(w) > 0.1), st.integers(0, 99))
@hypothesis_settings(deadline=None, max_examples=60)
def test_weighted_epoch_is_as_near_to_the_weights_as_whole_numbers_allow(weights, seed):
    array = np.asarray(weights)
    counts = np.bincount(epoch_order(len(array), seed, 0, array), minlength=len(array))
    expected = array / array.sum() * len(array)
    assert counts.sum() == len(array)
    assert (np.abs(counts - expected) < 2).all()
    assert (counts[array == 0] == 0).all()


def test_weights_are_met_over_many_epochs():
    weights = np.array([1.0, 2.0, 0.0, 5.0, 0.5])
    drawn = np.concatenate([epoch_order(5, 0, epoch, weights) for epoch in range(2000)])
    assert np.bincount(drawn, minlength=5) / len(drawn) == pytest.approx(weights / weights.sum(), abs=0.01)


@pytest.mark.parametrize("wrong", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]])
def test_wrong_weights_are_refused(wrong):
    with pytest.raises(ValueError, match="weights"):
        check_weights(wrong, 2)


@given(
    length=st.integers(1, 20),
    first_step=st.integers(0, 8),
    rounds=st.sampled_from([1, 2, 3]),
    processes=st.sampled_from([1, 2, 4]),
)
@hypothesis_settings(deadline=None, max_examples=60)
def test_batch_of_a_step_depends_on_seed_and_step_alone(length, first_step, rounds, processes):
    common = {"batch_size": 24, "last_step": 9}
    whole = list(positions(length, **common))
    parts = [
        list(
            positions(length, rounds=rounds, first_step=first_step, rank=rank, processes=processes, **common)
        )
        for rank in range(processes)
    ]
    assert all(len(part) == (9 - first_step) * rounds for part in parts)
    for step in range(first_step, 9):
        shared = [
            key
            for turn in range(rounds)
            for part in parts
            for key in part[(step - first_step) * rounds + turn]
        ]
        assert shared == whole[step]


def test_stream_sees_every_sample_equally_often_across_batch_borders():
    keys = [key for batch in positions(7, batch_size=4, last_step=14) for key in batch]
    assert [position for _, position in keys] == list(range(56))
    assert Counter(index for index, _ in keys) == dict.fromkeys(range(7), 8)


def test_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="multiples of 6"):
        positions(7, batch_size=4, rounds=3, processes=2)


def test_sample_randomness_is_its_own_whatever_the_workers():
    batches = [list(stream_loader(Echo(7), positions(), workers=workers)) for workers in (0, 2)]
    draws = [torch.cat([batch["draw"] for batch in one]) for one in batches]
    assert torch.equal(*draws)
    assert len(draws[0].unique()) == 36, "a sample that comes again is augmented anew"
    later = list(stream_loader(Echo(7), positions(first_step=5)))
    assert torch.equal(torch.cat([batch["draw"] for batch in later]), draws[0][20:])


def test_sample_seeds_of_neighbours_and_runs_differ():
    seeds = [sample_seed(seed, position) for seed in range(20) for position in range(200)]
    assert len(set(seeds)) == len(seeds)


def test_loader_leaves_the_global_generators_alone():
    before = torch.get_rng_state()
    list(stream_loader(Echo(7), positions()))
    assert torch.equal(torch.get_rng_state(), before)


def test_biases_and_norms_do_not_decay():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    model[2].weight.requires_grad_(False)
    groups = decay_groups(model, 0.3)
    decayed = {id(value) for group in groups if group["weight_decay"] for value in group["params"]}
    assert decayed == {id(model[0].weight)}
    assert sum(len(group["params"]) for group in groups) == 5


@pytest.mark.parametrize(
    ("name", "settings", "spared"),
    [
        ("vim", {"dim": 16, "depth": 1, "image_size": 32}, {"A_log", "positions.table", "tokens"}),
        ("channelvit", {"dim": 16, "depth": 1, "heads": 2, "image_size": 32}, {"class_token", "embedding"}),
        ("timm/vit_tiny_patch16_224", {"depth": 1}, {"pos_embed", "cls_token"}),
    ],
)
def test_positions_tokens_and_rates_do_not_decay(name, settings, spared):
    model = create_encoder(name, **settings)
    decayed = {
        id(value) for group in decay_groups(model, 0.3) if group["weight_decay"] for value in group["params"]
    }
    for end in spared:
        found = [parameter for name, parameter in model.named_parameters() if name.endswith(end)]
        assert found, end
        assert not decayed & {id(parameter) for parameter in found}, end
    assert decayed


def test_layers_learn_slower_the_further_they_are_from_the_output():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    groups = layer_decay_groups(model, lambda name: int(name.split(".")[0]), 0.5, 0.1)
    scale = {id(value): group["lr_scale"] for group in groups for value in group["params"]}
    assert [scale[id(layer.weight)] for layer in model] == [0.25, 0.5, 1.0]
    assert [scale[id(layer.bias)] for layer in model] == [0.25, 0.5, 1.0]


def test_model_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        decay_groups(nn.Linear(1, 1).requires_grad_(False), 0.1)


def test_lent_averages_are_taken_back_even_after_an_error():
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model.weight.add_(1.0)
    own = model.weight.clone()

    def fail_inside():
        with average.in_place():
            assert torch.equal(model.weight, average.state()["weight"])
            assert not torch.equal(model.weight, own)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail_inside()
    assert torch.equal(model.weight, own)


def test_averages_of_another_model_are_refused():
    with pytest.raises(ValueError, match="differing names"):
        WeightAverage(nn.Linear(2, 2), 0.5).load({"weight": torch.zeros(2, 2)})
