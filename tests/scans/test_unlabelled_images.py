"""Images without labels: folders of any layout, arrays, splits."""

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.scans.unlabelled_images import read_unlabelled_images
from foveal.training.labelled_samples import ImageAugmentation, ImageSamples


def write(path, value, size=(30, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


def test_every_image_below_a_folder_is_taken_whatever_folders_it_is_in(tmp_path):
    for number, name in enumerate(["a.png", "b/c.png", "b/d/e.jpg"]):
        write(tmp_path / name, 10 * number)
    data = read_unlabelled_images(tmp_path)
    assert set(data.splits) == {"train"}
    assert sorted(data.splits["train"].names) == ["a.png", "b/c.png", "b/d/e.jpg"]
    loaded = data.splits["train"].load(size=16, channels=3)
    assert loaded.image(0).shape == (16, 16, 3)


def test_folders_named_as_splits_are_splits(tmp_path):
    for number, name in enumerate(["train/x/a.png", "train/b.png", "valid/c.png", "other/d.png"]):
        write(tmp_path / name, 10 * number)
    data = read_unlabelled_images(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "val": 1}


def test_a_validation_split_is_dealt_by_patient(tmp_path):
    for number in range(10):
        write(tmp_path / f"{number}.png", number)
    rows = "".join(f"{number}.png,{number // 2}\n" for number in range(10))
    (tmp_path / "manifest.csv").write_text("path,patient\n" + rows)
    splits = read_unlabelled_images(tmp_path).with_validation(0.4, seed=0).splits
    assert len(splits["train"]) + len(splits["val"]) == 10
    assert set(splits["train"].patients).isdisjoint(splits["val"].patients)


def test_arrays_need_no_labels(tmp_path):
    images = np.arange(6 * 8 * 8, dtype=np.uint8).reshape(6, 8, 8)
    np.savez(tmp_path / "x.npz", train_images=images)
    loaded = read_unlabelled_images(tmp_path / "x.npz").splits["train"].load(size=8, channels=1)
    np.testing.assert_array_equal(loaded.image(5), images[5])


def test_sources_without_images_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="no train_images"):
        read_unlabelled_images(tmp_path / "x.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no scan"):
        read_unlabelled_images(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_unlabelled_images(tmp_path / "nowhere")


def test_crops_that_keep_the_ratio_depend_on_their_generator_alone(tmp_path):
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 255, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    loaded = read_unlabelled_images(tmp_path).splits["train"].load(size=32, channels=3)
    augmentation = ImageAugmentation(
        crop=0.5, crop_mode="keep_ratio", rotation=0, brightness=0, contrast=0, horizontal_flip=0
    )
    samples = ImageSamples(loaded, size=32, channels=3, augmentation=augmentation)

    def drawn(seed):
        return samples.sample(0, torch.Generator().manual_seed(seed))["images"]

    assert torch.equal(drawn(1), drawn(1))
    assert drawn(1).shape == (3, 32, 32)
    assert len({float(drawn(seed).sum()) for seed in range(8)}) > 2
