"""Scores of concept vectors are their formulas."""

import pytest
import torch

from foveal.explanation.concept_metrics import (
    concept_scores,
    linear_faithfulness,
    relative_change,
    sparsity,
)


def separable(seed=0, count=200):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.rand(count, 4, generator=generator)
    return vectors, (vectors[:, 0] > vectors[:, 1]).long()


def test_labels_that_are_linear_in_the_vectors_are_read_off():
    train, test = separable(0), separable(1)
    assert linear_faithfulness(*train, *test) > 0.95
    shuffled = train[1][torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    assert linear_faithfulness(train[0], shuffled, *test) < 0.65


def test_one_class_is_always_said():
    vectors, labels = separable()
    assert linear_faithfulness(vectors, labels * 0, vectors, labels) == float((labels == 0).double().mean())


def test_relative_change_is_the_mean_of_each_images():
    before = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    after = torch.tensor([[3.0, 3.0], [0.0, 2.0]])
    assert relative_change(before, after) == pytest.approx((1 / 5 + 0) / 2)


def test_sparsity_is_the_share_of_small_entries():
    assert sparsity(torch.tensor([[0.005, 0.995], [0.5, 0.5]])) == 0.25
    assert sparsity(torch.tensor([[0.005, 0.995], [0.5, 0.5]]), threshold=0.6) == 0.75


def test_all_scores_come_together():
    train, test = separable(0), separable(1)
    scores = concept_scores(*train, *test, test[0])
    assert (scores.stability, scores.concepts) == (0.0, 4)
    assert scores.faithfulness == linear_faithfulness(*train, *test)


def test_vectors_that_do_not_match_are_refused():
    vectors, labels = separable()
    with pytest.raises(ValueError, match="test: vectors of shape"):
        linear_faithfulness(vectors, labels, vectors, labels[1:])
    with pytest.raises(ValueError, match="twice"):
        relative_change(vectors, vectors[1:])
