import numpy as np
import pytest
import torch

from foveal.encoders.feature_store import FeatureStore


def test_features_come_back_in_half_precision_from_a_mapped_file(tmp_path):
    store = FeatureStore(tmp_path / "new")
    features = torch.randn(2, 3, 4)
    store["a"] = features
    assert "a" in store
    torch.testing.assert_close(store["a"], features.half().float())
    mapped = np.load(tmp_path / "new" / "a.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    assert mapped.dtype == np.float16


def test_what_is_kept_is_not_computed_again(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return torch.ones(2)

    for _ in range(2):
        found = FeatureStore(tmp_path).get("key", compute)
    assert len(calls) == 1
    assert found.tolist() == [1, 1]


def test_what_fp16_cannot_hold_is_refused_and_leaves_no_file(tmp_path):
    store = FeatureStore(tmp_path)
    for value in (1e5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="fp16"):
            store["a"] = torch.full((2,), value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError, match="no features"):
        store["a"]
