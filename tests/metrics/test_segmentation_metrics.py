import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score, recall_score

from foveal.metrics.segmentation import binary_counts, bootstrap_mean, overlap_scores, pixel_auc


def test_scores_agree_with_scikit_learn_inside_the_region():
    random = np.random.default_rng(0)
    prediction, target, region = random.random((3, 40, 30)) > 0.5
    scores = overlap_scores(binary_counts(prediction, target, region))
    p, y = prediction[region], target[region]
    assert scores["dice"] == pytest.approx(f1_score(y, p))
    assert scores["iou"] == pytest.approx(jaccard_score(y, p))
    assert scores["sensitivity"] == pytest.approx(recall_score(y, p))
    assert scores["specificity"] == pytest.approx(recall_score(~y, ~p))


def test_undefined_scores_are_nan():
    empty = np.zeros((4, 4), dtype=bool)
    assert math.isnan(overlap_scores(binary_counts(empty, empty))["dice"])
    assert math.isnan(pixel_auc(np.zeros((4, 4)), empty))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        binary_counts(np.zeros((2, 2), bool), np.zeros((2, 3), bool))


def test_bootstrap_by_patient_is_wider_when_eyes_agree():
    values = np.repeat(np.random.default_rng(1).normal(size=60), 2)
    mean, low, high = bootstrap_mean(values, np.repeat(np.arange(60), 2))
    _, eye_low, eye_high = bootstrap_mean(values)
    assert low < mean < high
    assert (high - low) / (eye_high - eye_low) == pytest.approx(math.sqrt(2), rel=0.1)
    with pytest.raises(ValueError, match="one group a value"):
        bootstrap_mean([1.0, 2.0], ["a"])
