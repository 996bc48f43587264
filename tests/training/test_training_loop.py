import csv
import math

import pytest
import torch
from torch import nn
from training_parts import BASE, Stripes, TwoClasses, same_weights

from foveal.objectives.base import Objective
from foveal.training.loop import fit
from foveal.training.settings import TrainingSettings


class Distance(Objective):
    """(mean(w) - mean(x))^2 of a scalar weight: each gradient can be worked out by hand."""

    def __init__(self, start=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 1), start))

    def forward(self, batch):
        return {"loss": (self.weight - batch["x"].mean()).square().mean()}


class Numbers:
    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def sample(self, index, generator):
        return {"x": torch.tensor(float(self.values[index]))}


PLAIN = TrainingSettings(
    steps=4,
    batch_size=2,
    optimizer="sgd",
    momentum=0.0,
    learning_rate=0.1,
    weight_decay=0.0,
    schedule="constant",
)


def test_sgd_step_is_the_one_worked_out_by_hand():
    objective = Distance(1.0)
    fit(objective, Numbers([3.0, 3.0]), PLAIN.replace(steps=1))
    assert objective.weight.item() == pytest.approx(1.0 - 0.1 * 2 * (1.0 - 3.0))


def test_accumulated_rounds_give_the_gradient_of_the_whole_batch():
    weights = []
    for rounds in (1, 4):
        objective = nn.Linear(1, 1)
        torch.manual_seed(0)
        objective = Distance()
        objective.forward = lambda batch, o=objective: {"loss": (o.weight - batch["x"]).square().mean()}
        fit(objective, Numbers(range(9)), PLAIN.replace(batch_size=4, gradient_accumulation=rounds))
        weights.append(objective.weight.item())
    assert weights[0] == pytest.approx(weights[1], rel=1e-6)


def test_clipping_bounds_the_step():
    objective = Distance()
    result = fit(objective, Numbers([1000.0]), PLAIN.replace(steps=1, gradient_clip=0.5))
    assert objective.weight.item() == pytest.approx(0.1 * 0.5, rel=1e-4)
    assert result.history[-1]["gradient_norm"] == pytest.approx(2000.0)


def test_objective_ends_with_the_average_of_its_weights():
    seen = []

    class Spy(Distance):
        def forward(self, batch):
            seen.append(self.weight.item())
            return super().forward(batch)

    settings = PLAIN.replace(ema_decay=0.75, ema_warmup=False)
    averaged, last = Spy(), Distance()
    fit(last, Numbers([1.0]), settings.replace(ema_decay=None))
    fit(averaged, Numbers([1.0]), settings)
    expected = seen[0]
    for value in [*seen[1:], last.weight.item()]:
        expected = 0.75 * expected + 0.25 * value
    assert averaged.weight.item() == pytest.approx(expected, rel=1e-6)


def test_evaluation_sees_averaged_weights_in_eval_mode_without_changing_the_training():
    seen = []

    def evaluate(model):
        seen.append((model.training, torch.is_grad_enabled(), model.network[0].weight.clone()))
        torch.manual_seed(99)
        return {"figure": 0.0}

    evaluated, plain, raw = TwoClasses(), TwoClasses(), TwoClasses()
    fit(evaluated, Stripes(), BASE.replace(evaluate_every=1), evaluate=evaluate)
    fit(plain, Stripes(), BASE)
    fit(raw, Stripes(), BASE.replace(ema_decay=None))
    assert same_weights(evaluated, plain)
    assert {entry[:2] for entry in seen} == {(False, False)}
    assert torch.equal(seen[-1][2], evaluated.network[0].weight)
    assert not torch.equal(raw.network[0].weight, evaluated.network[0].weight)
    assert torch.equal(raw.network[1].running_mean, evaluated.network[1].running_mean), "buffers are copied"


@pytest.mark.parametrize("on_disk", [False, True])
def test_patience_stops_the_run_and_the_best_weights_come_back(on_disk, tmp_path):
    figures = iter([1.0, 3.0, 2.0, float("nan"), 9.0])
    kept = []

    def evaluate(model):
        kept.append(model.weight.item())
        return {"score": next(figures)}

    objective = Distance()
    result = fit(
        objective,
        Numbers([1.0]),
        PLAIN.replace(steps=10, evaluate_every=2, patience=2, final_weights="best"),
        evaluate=evaluate,
        monitor="score",
        folder=tmp_path if on_disk else None,
    )
    assert result.stopped_early
    assert result.step == 8
    assert (result.best.step, result.best.value) == (4, 3.0)
    assert objective.weight.item() == kept[1]
    if on_disk:
        again = Distance()
        resumed = fit(
            again,
            Numbers([1.0]),
            PLAIN.replace(steps=10, evaluate_every=2, patience=2, final_weights="best"),
            evaluate=evaluate,
            monitor="score",
            folder=tmp_path,
        )
        assert resumed.stopped_early
        assert resumed.step == 8
        assert again.weight.item() == kept[1]


def test_lower_is_better_when_asked():
    figures = iter([3.0, 1.0, 2.0, 4.0])
    result = fit(
        Distance(),
        Numbers([1.0]),
        PLAIN.replace(evaluate_every=1),
        evaluate=lambda model: {"error": next(figures)},
        monitor="error",
        direction="lower",
    )
    assert (result.best.step, result.best.value) == (2, 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_the_run_before_it_spoils_the_weights(value, tmp_path):
    class Spoilt(Distance):
        calls = 0

        def forward(self, batch):
            losses = super().forward(batch)
            self.calls += 1
            return {
                "loss": losses["loss"] * (value if self.calls == 4 else 1),
                "other": losses["loss"] * 0 + 7,
            }

    objective = Spoilt()
    with pytest.raises(FloatingPointError, match=r"at step 3.*other=7"):
        fit(objective, Numbers([1.0]), PLAIN.replace(steps=9, checkpoint_every=1), folder=tmp_path)
    assert math.isfinite(objective.weight.item())
    assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == "step-00000003"


def test_mixed_precision_leaves_no_trace_on_the_objective():
    objective = TwoClasses()
    kept = objective.forward.__func__
    fit(objective, Stripes(), BASE.replace(mixed_precision="bf16"))
    assert objective.forward.__func__ is kept
    exact = TwoClasses()
    fit(exact, Stripes(), BASE)
    assert not same_weights(exact, objective), "bf16 has to round differently"
    assert {value.dtype for value in objective.parameters()} == {torch.float32}


def test_half_precision_without_a_gpu_is_refused():
    with pytest.raises(ValueError, match="'bf16'"):
        fit(Distance(), Numbers([1.0]), PLAIN.replace(mixed_precision="fp16", device="cpu"))


def test_callers_random_state_is_given_back():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    fit(TwoClasses(), Stripes(), BASE)
    assert torch.equal(torch.rand(2), expected)


def test_same_seed_same_weights_other_seed_other_weights():
    runs = [TwoClasses() for _ in range(3)]
    for objective, seed in zip(runs, (1, 1, 2), strict=True):
        fit(objective, Stripes(), BASE.replace(seed=seed))
    assert same_weights(runs[0], runs[1])
    assert not same_weights(runs[0], runs[2])


def test_records_are_readable_and_average_what_they_cover(tmp_path):
    losses = []

    class Spy(Distance):
        def forward(self, batch):
            out = super().forward(batch)
            losses.append(out["loss"].item())
            return out

    settings = PLAIN.replace(steps=5, log_every=2, tensorboard=True)
    result = fit(Spy(), Numbers([1.0, 2.0, 4.0]), settings, folder=tmp_path)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [int(row["step"]) for row in rows] == [2, 4, 5]
    assert [float(row["loss"]) for row in rows] == pytest.approx(
        [sum(losses[:2]) / 2, sum(losses[2:4]) / 2, losses[4]]
    )
    assert [float(row["epoch"]) for row in rows] == pytest.approx([4 / 3, 8 / 3, 10 / 3])
    assert [row["loss"] for row in result.history] == [float(row["loss"]) for row in rows]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 5]


def test_learning_rates_follow_schedule_and_group_scale():
    class Two(Objective):
        def __init__(self):
            super().__init__()
            self.slow, self.fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

        def forward(self, batch):
            return {"loss": (self.slow + self.fast).sum()}

    objective = Two()
    fit(
        objective,
        Numbers([1.0]),
        PLAIN.replace(steps=3),
        parameter_groups=lambda model: [{"params": [model.slow], "lr_scale": 0.1}, {"params": [model.fast]}],
    )
    assert objective.fast.item() == pytest.approx(-0.3)
    assert objective.slow.item() == pytest.approx(-0.03)


def test_parameter_left_out_of_the_groups_is_named():
    with pytest.raises(ValueError, match=r"network\.1\.weight"):
        fit(
            TwoClasses(),
            Stripes(),
            BASE,
            parameter_groups=lambda model: [{"params": [model.network[0].weight, model.network[0].bias]}],
        )


def test_objective_without_a_loss_is_named():
    class Silent(Distance):
        def forward(self, batch):
            return {"cost": self.weight.sum()}

    with pytest.raises(ValueError, match=r"Silent returned \['cost'\]"):
        fit(Silent(), Numbers([1.0]), PLAIN)


def test_objective_with_a_loss_for_each_sample_is_named():
    class Unreduced(Distance):
        def forward(self, batch):
            return {"loss": self.weight - batch["x"]}

    with pytest.raises(ValueError, match=r"'loss' as \(1, 2\)"):
        fit(Unreduced(), Numbers([1.0]), PLAIN)


def test_monitor_has_to_be_evaluated():
    with pytest.raises(ValueError, match="needs an evaluate"):
        fit(Distance(), Numbers([1.0]), PLAIN, monitor="auc")
    with pytest.raises(ValueError, match=r"'auc' is not among .*\['dice'\]"):
        fit(Distance(), Numbers([1.0]), PLAIN, evaluate=lambda model: {"dice": 1.0}, monitor="auc")
    with pytest.raises(ValueError, match="need monitor"):
        fit(Distance(), Numbers([1.0]), PLAIN.replace(patience=2))
    with pytest.raises(ValueError, match="allowed: 'higher', 'lower'"):
        fit(Distance(), Numbers([1.0]), PLAIN, direction="max")


def test_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="empty"):
        fit(Distance(), Numbers([]), PLAIN)
