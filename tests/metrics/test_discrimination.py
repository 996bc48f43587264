import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from foveal.metrics.discrimination import discrimination, discrimination_intervals
from foveal.metrics.group_sums import resampled_weights


def scored(classes: int, count: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    logits = np.round(random.normal(size=(count, classes)) + 1.2 * np.eye(classes)[labels], 1)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


def test_two_classes_are_scored_as_scikit_learn_does():
    p, y = scored(2)
    found = discrimination(p, y)
    assert found.auc == pytest.approx(roc_auc_score(y, p[:, 1]))
    assert found.accuracy == (p.argmax(1) == y).mean()
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, p.argmax(1)))


def test_many_classes_are_each_scored_against_the_others():
    p, y = scored(4)
    found = discrimination(p, y)
    assert found.auc == pytest.approx(roc_auc_score(y, p, multi_class="ovr"))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, p.argmax(1)))


def test_findings_are_scored_one_by_one_and_averaged():
    random = np.random.default_rng(1)
    y = random.integers(0, 2, (200, 3))
    p = np.clip(0.5 * y + random.uniform(size=(200, 3)) * 0.6, 0, 1)
    found = discrimination(p, y)
    assert found.auc == pytest.approx(roc_auc_score(y, p, average="macro"))
    assert found.accuracy == ((p >= 0.5) == y).mean()
    each = [balanced_accuracy_score(y[:, k], p[:, k] >= 0.5) for k in range(3)]
    assert found.balanced_accuracy == pytest.approx(np.mean(each))


def test_a_finding_that_nobody_has_is_left_out_of_the_auc():
    p = np.array([[0.9, 0.2], [0.1, 0.3], [0.6, 0.9]])
    assert discrimination(p, np.array([[1, 0], [0, 0], [1, 0]])).auc == 1.0
    assert np.isnan(discrimination(p, np.zeros((3, 2), int)).auc)


@pytest.mark.parametrize("classes", [2, 3])
def test_an_interval_is_that_of_resampled_images(classes):
    p, y = scored(classes, 120)
    found = discrimination_intervals(p, y, resamples=20, seed=1)
    (counts,) = resampled_weights(120, 120, resamples=20, seed=1)
    drawn = [discrimination(p[rows], y[rows]) for rows in map(_repeated, counts.astype(int))]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    np.testing.assert_allclose(found, np.stack([discrimination(p, y), low, high], axis=1), atol=1e-12)


def _repeated(counts: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


def test_copies_of_a_patient_do_not_narrow_the_interval():
    p, y = scored(2, 100)
    once = discrimination_intervals(p, y, seed=2)
    four = np.repeat(np.arange(100), 4)
    copied = discrimination_intervals(p[four], y[four], patients=four.tolist(), seed=2)
    np.testing.assert_allclose(copied, once, atol=1e-12)
    alone = discrimination_intervals(p[four], y[four], patients=[None] * 400, seed=2)
    assert alone.auc.high - alone.auc.low < 0.7 * (once.auc.high - once.auc.low)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.ones((3, 1)), np.zeros(3), "K at least 2"),
        (np.ones((3, 2)), np.zeros(2), "one label an image"),
        (np.full((3, 2), np.nan), np.zeros(3), "not finite"),
        (np.ones((3, 2)), np.array([0, 1, 2]), "span 0 to 2; allowed: whole numbers from 0 to 1"),
        (np.ones((3, 2)), np.zeros((3, 3)), "labels of findings are"),
    ],
)
def test_what_does_not_fit_is_named(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        discrimination(probabilities, labels)


def test_one_patient_an_image_is_wanted():
    with pytest.raises(ValueError, match="3 patients for 300 images"):
        discrimination_intervals(*scored(2), patients=["a", "b", "c"])
