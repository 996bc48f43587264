"""Files without zeros: exact when read again, and smaller."""

from copy import deepcopy

import pytest
import torch
from safetensors import SafetensorError

from foveal.compression.magnitude_pruning import magnitude_masks
from foveal.compression.run import CompressSettings, compress
from foveal.encoders.checkpoints import read_checkpoint
from foveal.models import Classifier
from foveal.sparse_files import read_tensors, write_sparse


@pytest.mark.parametrize(("form", "most"), [("bitmask", 0.56), ("csr", 0.82)])
def test_half_the_weights_take_less_than_all_and_come_back_exactly(classifier, tmp_path, form, most) -> None:
    model = deepcopy(classifier)
    magnitude_masks(model, 0.5).apply(model)
    told = write_sparse(model, tmp_path / "small", form=form)
    assert told.bytes == (tmp_path / "small").stat().st_size
    # names and shapes take kilobytes in so small a file
    assert told.bytes - 12_000 < most * told.dense
    assert told.bytes < told.dense
    state = read_tensors(tmp_path / "small")
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert state[name].equal(value)
        assert state[name].dtype == value.dtype
    fresh = deepcopy(classifier)
    fresh.load_state_dict(state)
    images = torch.rand(2, 1, 32, 32)
    assert fresh(images).equal(model(images))


def test_weights_that_are_all_there_stay_dense(classifier, tmp_path) -> None:
    assert write_sparse(classifier, tmp_path / "whole", form="csr").tensors == 0
    state = read_tensors(tmp_path / "whole")
    assert all(state[name].equal(value) for name, value in classifier.state_dict().items())


@pytest.mark.parametrize("form", ["bitmask", "csr"])
def test_long_rows_empty_tensors_and_all_zeros_come_back(tmp_path, form) -> None:
    model = torch.nn.Module()
    draw = torch.Generator().manual_seed(0)
    long = torch.randn(3, 70_000, generator=draw) * (torch.rand(3, 70_000, generator=draw) < 0.1)
    parts = {"long": long, "nothing": torch.zeros(40, 50), "kernel": torch.zeros(4, 3, 5, 5), "one": long[0]}
    parts["kernel"][1, 2, 3, 4] = 5
    for name, value in parts.items():
        model.register_buffer(name, value)
    model.register_buffer("halves", torch.zeros(64, 64, dtype=torch.float16))
    assert write_sparse(model, tmp_path / "x", form=form).tensors == 5
    state = read_tensors(tmp_path / "x")
    assert all(state[name].equal(value) for name, value in model.state_dict().items())


def test_other_forms_and_files_are_refused(classifier, tmp_path) -> None:
    with pytest.raises(ValueError, match="did you mean 'csr'"):
        write_sparse(classifier, tmp_path / "x", form="csc")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="is not there"):
        read_tensors(tmp_path / "none")
    (tmp_path / "text").write_text("weights")
    with pytest.raises(SafetensorError):
        read_tensors(tmp_path / "text")


def test_files_of_any_weights_are_read(classifier, tmp_path) -> None:
    state = read_tensors(classifier.save_pretrained(tmp_path) / "model.safetensors")
    assert all(state[name].equal(value) for name, value in classifier.state_dict().items())


def test_a_pruned_model_has_a_smaller_file_and_loads_as_any_other(npz, folder, tmp_path) -> None:
    settings = CompressSettings(rounds=1, memory=False, batch=2, calibration=8)
    found = compress(
        folder, npz, tmp_path / "out", method="sparse-then-prune", target="50%", settings=settings
    )
    before, after = found.costs["before"], found.costs["after"]
    assert after.bytes - 12_000 < 0.57 * before.bytes
    assert f"{after.bytes / 1e6:.2f}" in (tmp_path / "out" / "README.md").read_text()
    whole, pruned = Classifier.from_pretrained(folder), Classifier.from_pretrained(tmp_path / "out")
    kept = magnitude_masks(whole, 0.5)
    kept.apply(whole)
    for name, value in whole.state_dict().items():
        assert pruned.state_dict()[name].equal(value)
    assert read_checkpoint(tmp_path / "out")["backbone.pos_embed"].equal(whole.encoder.backbone.pos_embed)
