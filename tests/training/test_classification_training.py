import csv
import json

import numpy as np
import pytest
import torch

from foveal.models import Classifier
from foveal.models.classifier import ClassifierConfig
from foveal.objectives.classification_settings import ClassificationSettings
from foveal.scans.labelled_images import read_labelled_images
from foveal.training.classification import train_classifier
from foveal.training.labelled_samples import ImageAugmentation, LabelledSamples, mixed_batches

LOOP = {"steps": 40, "batch_size": 16, "learning_rate": 0.01, "tensorboard": False}
ALL = ImageAugmentation(crop=0.5, vertical_flip=0.5, rotation=20, saturation=0.2, policy="trivial", erase=0.5)


def squares(count: int, seed: int = 0, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 16 px images with a bright left (class 0) or right half (class 1)."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = random.integers(0, 160, (count, 16, 16, channels))
    images[labels == 0, :, :8] += 60
    images[labels == 1, :, 8:] += 60
    return images.astype(np.uint8).squeeze(), labels


@pytest.fixture
def two_classes(tmp_path):
    images, labels = squares(96)
    test_images, test_labels = squares(32, seed=1)
    path = tmp_path / "halves.npz"
    np.savez(path, train_images=images, train_labels=labels, test_images=test_images, test_labels=test_labels)
    return path


def config(classes=("left", "right"), channels: int = 1, size: int = 16) -> ClassifierConfig:
    encoder = {"widths": [8, 16], "in_channels": channels}
    return ClassifierConfig(encoder="conv-pyramid", encoder_settings=encoder, classes=classes, size=size)


PLAIN = {"crop": 1, "horizontal_flip": 0, "rotation": 0}


def test_a_classifier_learns_and_leaves_model_scores_and_predictions(two_classes, tmp_path):
    settings = ClassificationSettings(training=LOOP, augmentation=PLAIN)
    run = tmp_path / "run"
    run.mkdir()
    data = read_labelled_images(two_classes)
    trained = train_classifier(config(), data, settings, run, progress=False)
    assert trained.scores["test"].auc.value > 0.95
    scores = json.loads((run / "scores.json").read_text())
    assert scores["images"] == {"train": 76, "test": 32, "val": 20}
    model = Classifier.from_pretrained(run / "model")
    assert model.config.classes == ("left", "right")
    assert model.config.mean[0] == pytest.approx(np.mean(squares(96)[0]) / 255, abs=0.02)
    with (run / "predictions_test.csv").open() as file:
        rows = list(csv.DictReader(file))
    images = torch.from_numpy(squares(32, seed=1)[0])[:, None] / 255
    said = [float(row["probability_right"]) for row in rows]
    np.testing.assert_allclose(model.predict_proba(images)[:, 1], said, atol=1e-5)
    assert [row["label"] for row in rows[:2]] == ["left", "right"]
    accuracy = np.mean([row["label"] == row["prediction"] for row in rows])
    assert accuracy == pytest.approx(trained.scores["test"].accuracy.value)
    assert len((run / "predictions.csv").read_text().splitlines()) == 21
    card = (run / "model" / "README.md").read_text()
    assert "halves.npz" in card
    assert "| test | 32 |" in card
    with (run / "log.csv").open() as file:
        assert sum(bool(row["evaluation/auc"]) for row in csv.DictReader(file)) == 10


def test_a_resumed_training_with_mixing_and_augmentation_ends_in_the_same_weights(two_classes, tmp_path):
    changes = {"steps": 6, "schedule": "constant", "evaluate_every": 6}
    settings = ClassificationSettings(
        training=LOOP | changes, augmentation=ALL.model_dump(), mixup=0.4, cutmix=1.0, label_smoothing=0.1
    )
    data = read_labelled_images(two_classes)
    whole = train_classifier(config(), data, settings, None, progress=False).model
    half = settings.replace(training=settings.training | {"steps": 3})
    (tmp_path / "run").mkdir()
    train_classifier(config(), data, half, tmp_path / "run", progress=False)
    resumed = train_classifier(config(), data, settings, tmp_path / "run", progress=False).model
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_several_findings_are_learnt_by_sigmoids(tmp_path):
    images, labels = squares(64)
    findings = np.stack([labels, np.zeros_like(labels), 1 - labels], axis=1)
    findings[::8, 1] = 1
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=findings)
    settings = ClassificationSettings(training=LOOP | {"steps": 4}, mixup=0.2)
    data = read_labelled_images(tmp_path / "a.npz")
    trained = train_classifier(config(data.classes), data, settings, None, progress=False)
    assert trained.model.config.activation == "sigmoid"
    rows = trained.model.predict_proba(torch.rand(3, 1, 16, 16)).sum(dim=1)
    assert not torch.allclose(rows, torch.ones(3), atol=0.01)


def test_photographs_that_cannot_be_read_are_listed(tmp_path):
    from PIL import Image

    images, labels = squares(24, channels=3)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "data" / ("left", "right")[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index:02}.png")
    (tmp_path / "data" / "left" / "00.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    run = tmp_path / "run"
    run.mkdir()
    settings = ClassificationSettings(training=LOOP | {"steps": 2})
    data = read_labelled_images(tmp_path / "data")
    trained = train_classifier(config(channels=3, size=24), data, settings, run, progress=False)
    assert trained.images["train"] + trained.images["val"] == 23
    assert (run / "skipped.csv").read_text().splitlines()[1].startswith("left/00.png,")


def test_training_starts_from_saved_weights_or_a_checkpoint(two_classes, tmp_path):
    data = read_labelled_images(two_classes)
    first = Classifier(config())
    first.save_pretrained(tmp_path / "model")
    first.encoder.save_pretrained(tmp_path / "encoder")
    torch.save({"state_dict": first.encoder.state_dict()}, tmp_path / "checkpoint.pth")
    still = {"steps": 1, "batch_size": 2, "learning_rate": 1e-12, "tensorboard": False}
    for name in ("model", "encoder", "checkpoint.pth"):
        settings = ClassificationSettings(training=still, start_from=str(tmp_path / name))
        trained = train_classifier(config(), data, settings, tmp_path / f"{name} run", progress=False)
        for key, value in first.encoder.named_parameters():
            torch.testing.assert_close(trained.model.encoder.get_parameter(key), value, msg=f"{name}: {key}")
        assert f"weights of `{name}`" in (tmp_path / f"{name} run" / "model" / "README.md").read_text()


def test_a_start_that_is_missing_or_does_not_fit_is_refused(two_classes, tmp_path):
    data = read_labelled_images(two_classes)
    settings = ClassificationSettings(training=LOOP, start_from=str(tmp_path / "nothing.pth"))
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        train_classifier(config(), data, settings, None, progress=False)
    Classifier(config(channels=3)).encoder.save_pretrained(tmp_path / "other")
    wider = config().replace(encoder_settings={"widths": [8, 24], "in_channels": 1})
    with pytest.raises(ValueError, match="shape"):
        train_classifier(
            wider, data, settings.replace(start_from=str(tmp_path / "other")), None, progress=False
        )


@pytest.mark.parametrize("policy", ["trivial", "rand", "augmix"])
@pytest.mark.parametrize("channels", [1, 3])
def test_policies_change_images_of_any_colour(two_classes, policy, channels):
    loaded = read_labelled_images(two_classes).splits["train"].load(size=16, channels=channels)
    augmentation = ImageAugmentation(**PLAIN, brightness=0, contrast=0, policy=policy)
    samples = LabelledSamples(loaded, size=16, channels=channels, augmentation=augmentation)
    plain = next(samples.batches(16))
    images = torch.stack(
        [samples.sample(index, torch.Generator().manual_seed(index))["images"] for index in range(16)]
    )
    assert images.shape == plain.shape == (16, channels, 16, 16)
    assert not torch.equal(images, plain)


def test_as_many_classes_as_the_data_has_are_wanted(two_classes):
    data = read_labelled_images(two_classes)
    with pytest.raises(ValueError, match=r"classes are a, b, c; .*halves\.npz has 2: 0, 1"):
        train_classifier(config(("a", "b", "c")), data, ClassificationSettings(), None)


def test_a_sample_depends_on_its_index_and_generator_alone(two_classes):
    loaded = read_labelled_images(two_classes).splits["train"].load(size=16, channels=3)
    samples = LabelledSamples(loaded, size=24, channels=3, augmentation=ALL)
    torch.manual_seed(1)
    first = samples.sample(3, torch.Generator().manual_seed(5))["images"]
    untouched = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), untouched)
    torch.manual_seed(2)
    assert torch.equal(samples.sample(3, torch.Generator().manual_seed(5))["images"], first)
    assert not torch.equal(samples.sample(3, torch.Generator().manual_seed(6))["images"], first)
    assert first.shape == (3, 24, 24)
    assert 0 <= first.min() <= first.max() <= 1


def test_colours_become_grey_and_grey_becomes_colours(tmp_path):
    images, labels = squares(4, channels=3)
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels)
    loaded = read_labelled_images(tmp_path / "a.npz").splits["train"].load(size=16, channels=1)
    grey = next(LabelledSamples(loaded, size=16, channels=1).batches(8))
    wanted = (images @ np.array([0.299, 0.587, 0.114])) / 255
    np.testing.assert_allclose(grey[:, 0], wanted, atol=1.1 / 255)


def test_mixed_batches_keep_the_sum_of_labels_and_a_seed(two_classes):
    loaded = read_labelled_images(two_classes).splits["train"].load(size=16, channels=1)
    samples = LabelledSamples(loaded, size=16, channels=1)
    batch = [samples.sample(i, torch.Generator().manual_seed(i)) for i in range(4)]
    for alphas in ({"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}):
        collate = mixed_batches(2, **alphas)
        mixed, again = collate(batch), collate(batch)
        assert torch.equal(mixed["images"], again["images"])
        torch.testing.assert_close(mixed["labels"].sum(dim=1), torch.ones(4))
        assert not torch.equal(mixed["images"], mixed_batches(2)(batch)["images"])
    assert mixed_batches(2)(batch)["labels"].tolist() == [0, 1, 0, 1]


def lacking(path, *, count: int = 96, garbage: int = 0):
    """Four channels, the first two brighter in class 1; an image lacks one of these or the last."""
    random, labels = np.random.default_rng(3), np.arange(count) % 2
    images = random.integers(0, 160, (count, 16, 16, 4))
    images[..., :2] += 90 * labels[:, None, None, None]
    there = np.ones((count, 4), dtype=np.uint8)
    there[np.arange(count), random.choice([0, 1, 3], count)] = 0
    images = np.where(there[:, None, None] == 1, images, garbage).astype(np.uint8)
    np.savez(path, train_images=images, train_labels=labels, train_channels=there)
    return path


CHANNELVIT = {
    "dim": 16, "depth": 1, "heads": 2, "image_size": 16, "patch_size": 8, "sampling": "none"
}  # fmt: skip


def channel_config(encoder: str = "channelvit", **settings) -> ClassifierConfig:
    return ClassifierConfig(
        encoder=encoder,
        encoder_settings={"in_channels": 4, **(settings or CHANNELVIT)},
        classes=("left", "right"),
        size=16,
    )


def test_images_that_lack_channels_are_learnt_whatever_stands_in_these(tmp_path):
    settings = ClassificationSettings(training={**LOOP, "steps": 60}, augmentation=PLAIN)
    said = []
    for garbage in (0, 255):
        data = read_labelled_images(lacking(tmp_path / f"{garbage}.npz", garbage=garbage))
        trained = train_classifier(channel_config(), data, settings, None, progress=False)
        assert trained.scores["val"].auc.value > 0.9
        images = torch.rand(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        rows = torch.tensor([[0, 1, 2, 3], [-1, 1, -1, -1]])
        said.append(trained.model.predict_proba(images, rows))
        changed = images.clone()
        changed[1, [0, 2, 3]] = 1.0
        torch.testing.assert_close(trained.model.predict_proba(changed, rows), said[-1])
    torch.testing.assert_close(said[0], said[1])


def test_zeros_take_the_place_of_missing_channels_in_front_of_any_encoder(tmp_path):
    settings = ClassificationSettings(training={**LOOP, "steps": 2})
    data = read_labelled_images(lacking(tmp_path / "data.npz", count=40))
    config = channel_config("masked-channels", encoder_settings={"widths": [8, 16]})
    assert train_classifier(config, data, settings, None, progress=False).images["train"] == 32


def test_means_and_samples_leave_missing_channels_out(tmp_path):
    split = read_labelled_images(lacking(tmp_path / "data.npz", garbage=255)).splits["train"]
    samples = LabelledSamples(split.load(size=16, channels=4), size=16, channels=4)
    there = split.channels
    images = np.stack([split.load(size=16, channels=4).image(i) for i in range(96)]) / 255
    wanted = [images[there[:, c], ..., c].mean() for c in range(4)]
    np.testing.assert_allclose(samples.channel_statistics()[0], wanted, atol=1e-6)
    augmented = LabelledSamples(samples.loaded, size=16, channels=4, augmentation=ImageAugmentation())
    sample = augmented.sample(0, torch.Generator().manual_seed(0))
    missing = [c for c in range(4) if not there[0, c]]
    assert sample["channels"].tolist() == [-1 if c in missing else c for c in range(4)]
    assert sample["images"].shape == (4, 16, 16)
    assert not next(samples.batches(8))[0, missing].any()


def test_missing_channels_are_refused_where_nobody_would_know(tmp_path):
    data = read_labelled_images(lacking(tmp_path / "data.npz"))
    with pytest.raises(ValueError, match="'conv-pyramid' takes all; allowed: 'channelvit'"):
        train_classifier(config(channels=4), data, ClassificationSettings(training=LOOP), None)
    with pytest.raises(ValueError, match=r"cutmix 1, and images of .* lack channels; allowed: 0"):
        train_classifier(channel_config(), data, ClassificationSettings(cutmix=1), None)
    with pytest.raises(
        ValueError, match=r"images have 4 channels .* the model takes 3; set in_channels to 4"
    ):
        train_classifier(config(channels=3), data, ClassificationSettings(training=LOOP), None)
