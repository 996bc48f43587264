import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_parts import (
    BASE,
    GloballyRandomStripes,
    Stripes,
    TwoClasses,
    mean_weight,
    same_weights,
    train,
    untimed,
)

from foveal.training.checkpoints import CheckpointError, list_checkpoints
from foveal.training.loop import fit


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The killed child runs with one thread too: sums have to be taken in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    objective = TwoClasses()
    return objective, train(objective, folder), folder


def same_checkpoints(one: Path, other: Path) -> bool:
    """Whether the newest checkpoints hold the same bits: weights, average, optimiser and random states."""
    first, second = list_checkpoints(one / "checkpoints")[0], list_checkpoints(other / "checkpoints")[0]
    names = sorted(path.name for path in first.glob("*.safetensors"))
    assert names == [
        "average.safetensors",
        "model.safetensors",
        "optimizer.safetensors",
        "random.safetensors",
    ]
    for name in names:
        mine, yours = load_file(first / name), load_file(second / name)
        if mine.keys() != yours.keys() or not all(torch.equal(mine[key], yours[key]) for key in mine):
            return False
    head, other_head = (json.loads((path / "state.json").read_text())["values"] for path in (first, second))
    return head["random"] == other_head["random"] and head["best"] == other_head["best"]


@pytest.mark.parametrize("call", range(0, 24))
def test_run_interrupted_at_any_forward_pass_ends_with_the_same_bits(call, uninterrupted, tmp_path):
    whole, result, folder = uninterrupted
    with pytest.raises(InterruptedError):
        train(TwoClasses(fail_at_call=call), tmp_path)
    resumed = TwoClasses()
    again = train(resumed, tmp_path)
    assert same_weights(resumed, whole)
    assert same_checkpoints(tmp_path, folder)
    assert untimed(again.history) == untimed(result.history)
    assert again.best == result.best
    assert resumed.calls == 24 - 6 * (call // 6), (
        "it has to start from the checkpoint, not from the beginning"
    )


def test_killed_process_resumes_with_the_same_bits(uninterrupted, tmp_path):
    whole, result, folder = uninterrupted
    script = Path(__file__).with_name("training_parts.py")
    child = subprocess.run([sys.executable, script, tmp_path, "17"], timeout=120)
    assert child.returncode == -signal.SIGKILL
    resumed = TwoClasses()
    again = train(resumed, tmp_path)
    assert resumed.calls == 24 - 12, "it has to continue from the checkpoint of step 6"
    assert same_weights(resumed, whole)
    assert same_checkpoints(tmp_path, folder)
    assert untimed(again.history) == untimed(result.history)


def test_run_interrupted_twice_ends_with_the_same_bits(uninterrupted, tmp_path):
    for calls in (9, 7):
        with pytest.raises(InterruptedError):
            train(TwoClasses(fail_at_call=calls), tmp_path)
    resumed = TwoClasses()
    train(resumed, tmp_path)
    assert same_weights(resumed, uninterrupted[0])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_other_optimisers_and_layouts_resume_with_the_same_bits(optimizer, channels_last, tmp_path):
    settings = BASE.replace(optimizer=optimizer, channels_last=channels_last)
    whole, resumed = TwoClasses(), TwoClasses()
    train(whole, None, settings)
    with pytest.raises(InterruptedError):
        train(TwoClasses(fail_at_call=15), tmp_path, settings)
    train(resumed, tmp_path, settings)
    assert same_weights(resumed, whole)


@pytest.mark.parametrize("data", [Stripes(), GloballyRandomStripes()], ids=["generator", "global"])
def test_workers_and_interruption_do_not_change_the_samples(data, tmp_path):
    def run(objective, folder=None, **changes):
        return fit(objective, data, BASE.replace(**changes), folder=folder, progress=False)

    whole, resumed = TwoClasses(), TwoClasses()
    run(whole)
    with pytest.raises(InterruptedError):
        run(TwoClasses(fail_at_call=9), tmp_path, workers=2)
    run(resumed, tmp_path, workers=1)
    assert same_weights(resumed, whole)


def test_finished_run_trains_no_more_and_gives_its_weights_back(uninterrupted, tmp_path):
    whole, result, folder = uninterrupted
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    again = TwoClasses()
    assert untimed(train(again, tmp_path).history) == untimed(result.history)
    assert again.calls == 0
    assert same_weights(again, whole)


def test_log_has_each_row_once_after_a_resume(uninterrupted, tmp_path):
    with pytest.raises(InterruptedError):
        train(TwoClasses(fail_at_call=22), tmp_path)
    rows_before = (tmp_path / "log.csv").read_text().splitlines()
    assert rows_before[-1].startswith("10,"), "the test needs rows newer than the checkpoint of step 9"
    train(TwoClasses(), tmp_path)
    lines = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()]
    assert [line[0] for line in lines] == ["step", "4", "5", "8", "10", "12"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "state cut", "file gone", "empty folder"])
def test_spoilt_checkpoint_is_passed_over_with_a_warning(damage, uninterrupted, tmp_path):
    with pytest.raises(InterruptedError):
        train(TwoClasses(fail_at_call=15), tmp_path)
    newest = list_checkpoints(tmp_path / "checkpoints")[0]
    assert newest.name == "step-00000006"
    weights = newest / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "cut":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[-5] ^= 1
        weights.write_bytes(content)
    elif damage == "state cut":
        state = newest / "state.json"
        state.write_text(state.read_text()[:-40])
    elif damage == "file gone":
        weights.unlink()
    else:
        shutil.rmtree(newest)
        newest.mkdir()
    resumed = TwoClasses()
    with pytest.warns(UserWarning, match="step-00000006"):
        train(resumed, tmp_path)
    assert resumed.calls == 24 - 6, "it has to continue from the checkpoint of step 3"
    assert same_weights(resumed, uninterrupted[0])


def test_leftovers_of_a_killed_write_are_removed(uninterrupted, tmp_path):
    half = tmp_path / "checkpoints" / ".step-00000003.77.partial"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    objective = TwoClasses()
    train(objective, tmp_path)
    assert same_weights(objective, uninterrupted[0])
    assert not list(tmp_path.rglob("*.partial"))
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == [
        "step-00000012",
        "step-00000009",
    ]


def test_nothing_in_the_folder_has_to_be_unpickled(uninterrupted):
    endings = {path.suffix for path in uninterrupted[2].rglob("*") if path.is_file()}
    assert endings == {".safetensors", ".json", ".csv"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"learning_rate": 0.5}, "'learning_rate': saved 0.001, now 0.5"),
        ({"batch_size": 8}, "'batch_size': saved 4, now 8"),
        ({"ema_decay": None}, "'ema_decay': saved 0.9, now None"),
        ({"steps": 20}, "'steps': saved 12, now 20"),
    ],
)
def test_resuming_under_other_settings_names_what_differs(changes, told, tmp_path):
    with pytest.raises(InterruptedError):
        train(TwoClasses(fail_at_call=15), tmp_path)
    with pytest.raises(CheckpointError, match=told):
        train(TwoClasses(), tmp_path, BASE.replace(**changes))


def test_resuming_with_other_data_names_what_differs(tmp_path):
    train(TwoClasses(), tmp_path)
    with pytest.raises(CheckpointError, match="weights_sha256"):
        fit(
            TwoClasses(),
            Stripes(),
            BASE,
            folder=tmp_path,
            evaluate=mean_weight,
            monitor="weight",
            weights=[1.0] * 11,
        )


def test_resuming_with_another_model_tells_the_misfit(tmp_path):
    train(TwoClasses(), tmp_path)
    other = TwoClasses()
    other.network[5] = torch.nn.Linear(4 * 36, 3)
    with pytest.raises(CheckpointError, match=r"network.5.weight"):
        train(other, tmp_path)


def test_settings_that_touch_no_weight_may_change(uninterrupted, tmp_path):
    with pytest.raises(InterruptedError):
        train(TwoClasses(fail_at_call=15), tmp_path)
    resumed = TwoClasses()
    train(resumed, tmp_path, BASE.replace(log_every=2, checkpoint_every=5, keep_checkpoints=1))
    assert same_weights(resumed, uninterrupted[0])


def test_steps_may_be_raised_while_the_rates_of_the_past_stay(tmp_path):
    constant = BASE.replace(schedule="constant")
    longer = constant.replace(steps=17)
    extended, whole = TwoClasses(), TwoClasses()
    train(TwoClasses(), tmp_path, constant)
    train(extended, tmp_path, longer)
    train(whole, None, longer)
    assert extended.calls == 10
    assert same_weights(extended, whole)


def test_folder_with_a_run_is_not_overwritten(tmp_path):
    train(TwoClasses(), tmp_path)
    with pytest.raises(FileExistsError, match="another folder"):
        fit(TwoClasses(), Stripes(), BASE, folder=tmp_path, resume=False)


def test_tied_weights_are_saved_and_stay_tied(tmp_path):
    class Tied(TwoClasses):
        def __init__(self, **options):
            super().__init__(**options)
            self.again = self.network[5]

    whole, resumed = Tied(), Tied()
    train(whole)
    with pytest.raises(InterruptedError):
        train(Tied(fail_at_call=15), tmp_path)
    train(resumed, tmp_path)
    assert same_weights(resumed, whole)
    assert resumed.again.weight is resumed.network[5].weight
