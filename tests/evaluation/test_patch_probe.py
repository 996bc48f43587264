"""The patch-level probe: labels of patches, heads, what they see, and scores."""

import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score

from foveal.evaluation.patch_probe import (
    PatchHead,
    PatchProbe,
    PatchProbeSettings,
    ProbeSamples,
    centre_square,
    fit_patch_probe,
    patch_labels,
    patch_scores,
)

ANNOTATION = torch.tensor([[[0, 0, 1, 1, 2], [0, 2, 1, -1, 2], [-1, -1, 2, 2, 2], [-1, -1, 2, 0, 2]]])
QUICK = {"steps": 60, "batch_size": 16, "learning_rate": 0.05, "tensorboard": False, "log_every": 60}


def test_labels_are_the_union_the_majority_or_those_of_the_image():
    union = patch_labels(ANNOTATION, 2, 3)
    assert union[0].tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert patch_labels(ANNOTATION, 2, 3, kind="majority")[0].tolist() == [0, 1, -1, 2]
    assert patch_labels(ANNOTATION, 2, 4, kind="global-union")[0].tolist() == [1, 1, 1, 0]
    assert patch_labels(ANNOTATION, (4, 1), 3).shape == (1, 5, 3)


def test_annotations_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="classes -1 to 2; allowed: -1"):
        patch_labels(ANNOTATION, 2, 2)
    with pytest.raises(ValueError, match="at least 8 x 8 px"):
        patch_labels(ANNOTATION, 8, 3)


def test_the_middle_square_is_taken_and_classes_stay_classes():
    wide = torch.zeros(1, 1, 4, 8)
    wide[..., 2:6] = 1
    assert centre_square(wide, size=2).tolist() == [[[[1, 1], [1, 1]]]]
    classes = torch.randint(0, 9, (1, 1, 12, 8))
    assert set(centre_square(classes, size=5, classes=True).unique().tolist()) <= set(
        classes.unique().tolist()
    )


def test_scores_are_those_of_scikit_learn_over_the_classes_that_occur():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 10, 5, generator=generator)
    labels = (torch.rand(6, 10, 5, generator=generator) < 0.3).float()
    labels[..., 4] = 0
    found = patch_scores(logits, labels)
    truth, called = labels.view(-1, 5)[:, :4].numpy(), (logits.view(-1, 5)[:, :4] > 0).numpy()
    assert found.recall == pytest.approx(recall_score(truth, called, average="macro"))
    assert found.precision == pytest.approx(precision_score(truth, called, average="macro"))
    assert found.f1 == pytest.approx(f1_score(truth, called, average="macro"))
    assert found.accuracy == pytest.approx((truth == called).mean())
    majority = torch.randint(0, 3, (6, 10), generator=generator)
    majority[0] = -1
    found = patch_scores(logits, majority)
    assert found.recall == pytest.approx(
        recall_score(
            majority[1:].flatten(), logits[1:].argmax(-1).flatten(), average="macro", labels=[0, 1, 2]
        )
    )
    with pytest.raises(ValueError, match="no class occurs"):
        patch_scores(logits, torch.zeros_like(logits))
    with pytest.raises(ValueError, match="do not fit"):
        patch_scores(logits, majority[:5])


def tokens_and_labels(count=64, patches=4, prefix=1):
    """Each patch token tells its class; the class token tells nothing."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 3, (count, patches), generator=generator)
    tokens = 0.1 * torch.randn(count, prefix + patches, 8, generator=generator)
    tokens[:, prefix:, :3] += torch.nn.functional.one_hot(classes, 3)
    return tokens, classes


@pytest.mark.parametrize("head", ["linear", "mlp", "transformer"])
def test_every_head_learns_what_tokens_tell_with_either_label(head):
    tokens, classes = tokens_and_labels()
    for kind, labels in (("majority", classes), ("union", torch.nn.functional.one_hot(classes, 3).float())):
        settings = PatchProbeSettings(head=head, labels=kind, hidden=32, training=QUICK)
        trained = fit_patch_probe(ProbeSamples(tokens, labels), 3, prefix_tokens=1, settings=settings)
        assert patch_scores(trained(tokens), labels).recall > 0.95


@pytest.mark.parametrize("seen", ["class", "latent"])
def test_heads_that_see_no_patch_token_are_told_nothing_by_them(seen):
    tokens, classes = tokens_and_labels()
    settings = PatchProbeSettings(seen=seen, labels="majority", training=QUICK)
    trained = fit_patch_probe(ProbeSamples(tokens, classes), 3, prefix_tokens=1, settings=settings)
    other = tokens.clone()
    other[:, 1:] += 1
    assert torch.equal(trained(other), trained(tokens))
    other[:, :1] += 1
    assert not torch.equal(trained(other), trained(tokens))
    with pytest.raises(ValueError, match="of which the encoder"):
        PatchHead(8, 3, patches=4, prefix_tokens=0, settings=settings)


def test_classes_of_the_image_are_told_by_one_row():
    tokens, classes = tokens_and_labels()
    labels = torch.nn.functional.one_hot(classes, 3).amax(dim=1).float()
    settings = PatchProbeSettings(head="mlp", hidden=32, labels="global-union", training=QUICK)
    trained = fit_patch_probe(ProbeSamples(tokens, labels), 3, prefix_tokens=1, settings=settings)
    assert trained(tokens).shape == (64, 3)
    assert patch_scores(trained(tokens), labels).f1 > 0.9


def test_tokens_can_be_taken_from_images_in_each_step():
    settings = PatchProbeSettings(head="linear")
    head = PatchHead(8, 3, patches=4, prefix_tokens=1, settings=settings)
    tokens, classes = tokens_and_labels(4)
    labels = torch.nn.functional.one_hot(classes, 3).float()
    probe = PatchProbe(head, tokens_of=lambda images: tokens)
    given = probe({"tokens": tokens, "labels": labels})["loss"]
    assert torch.equal(probe({"images": torch.rand(4, 3, 8, 8), "labels": labels})["loss"], given)


def test_labels_and_tokens_that_do_not_fit_are_refused():
    tokens, classes = tokens_and_labels(4)
    with pytest.raises(ValueError, match="union labels of 4 images, 4 patches and 3 classes are"):
        fit_patch_probe(ProbeSamples(tokens, classes), 3, prefix_tokens=1)
    head = PatchHead(8, 3, patches=4, prefix_tokens=1, settings=PatchProbeSettings())
    with pytest.raises(ValueError, match="1 prefix tokens and 4 patches are wanted"):
        head(tokens[:, 1:])
