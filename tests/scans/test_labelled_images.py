import numpy as np
import pytest
from PIL import Image

from foveal.scans import labelled_arrays
from foveal.scans.labelled_images import read_labelled_images


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def save(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


@pytest.fixture
def grey(tmp_path):
    """A file in the layout of MedMNIST: 8 training and 4 validation images of two classes."""
    return save(
        tmp_path / "mnist.npz",
        train_images=pixels(8, 28, 28),
        train_labels=np.array([[0], [1]] * 4, np.uint8),
        val_images=pixels(4, 28, 28),
        val_labels=np.array([[1], [0]] * 2, np.uint8),
    )


@pytest.fixture
def photographs(tmp_path):
    """A folder of six grey and colour pictures in two folders of classes."""
    for index in range(6):
        folder = tmp_path / "photographs" / ("ill", "well")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture = pixels(20, 40, 3) if index < 3 else pixels(40, 20)
        Image.fromarray(picture).save(folder / f"{index}.{('png', 'tif')[index % 2]}")
    return tmp_path / "photographs"


def test_a_medmnist_file_has_its_splits_labels_and_pixels(grey):
    data = read_labelled_images(grey)
    assert (data.classes, data.several, list(data.splits)) == (("0", "1"), False, ["train", "val"])
    assert data.splits["val"].labels.tolist() == [1, 0, 1, 0]
    loaded = data.splits["train"].load(size=64, channels=3)
    assert np.array_equal(loaded.image(5), pixels(8, 28, 28)[5])


def test_class_names_and_colours_are_read(tmp_path):
    path = save(
        tmp_path / "a.npz",
        train_images=pixels(3, 32, 32, 3),
        train_labels=np.array([0, 1, 0]),
        class_names=np.array(["cat", "dog"]),
    )
    data = read_labelled_images(path)
    assert data.classes == ("cat", "dog")
    assert data.splits["train"].load(size=32, channels=3).image(2).shape == (32, 32, 3)


def test_several_findings_an_image_are_one_row_each(tmp_path):
    labels = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]], np.uint8)
    data = read_labelled_images(save(tmp_path / "a.npz", train_images=pixels(3, 8, 8), train_labels=labels))
    assert data.several
    assert data.classes == ("0", "1", "2")
    assert data.splits["train"].labels.dtype == np.float32


def test_the_public_files_are_read(data_root):
    cifar = read_labelled_images(data_root / "cifar10_subset" / "cifar10_subset.npz")
    assert cifar.classes[:2] == ("airplane", "automobile")
    assert {name: len(split) for name, split in cifar.splits.items()} == {"train": 5000, "test": 1000}
    chest = read_labelled_images(data_root / "pneumoniamnist" / "pneumoniamnist_trainval.npz")
    assert np.bincount(chest.splits["val"].labels).tolist() == [135, 389]


def test_validation_images_are_dealt_by_class_where_there_are_none(tmp_path):
    labels = np.arange(40) % 2
    path = save(tmp_path / "a.npz", train_images=pixels(40, 8, 8), train_labels=labels)
    data = read_labelled_images(path).with_validation(0.25, seed=3)
    train, val = data.splits["train"], data.splits["val"]
    assert np.bincount(val.labels).tolist() == [5, 5]
    assert {*train.names, *val.names} == {f"train/{row}" for row in range(40)}
    index = 4
    row = int(val.names[index].removeprefix("train/"))
    assert np.array_equal(val.load(size=8, channels=1).image(index), pixels(40, 8, 8)[row])
    again = read_labelled_images(path).with_validation(0.25, seed=3)
    assert again.splits["val"].names == val.names


def test_large_arrays_are_mapped_from_a_file_and_equal(grey, photographs, monkeypatch):
    in_memory = read_labelled_images(photographs).splits["train"].load(size=16, channels=3).array
    monkeypatch.setattr(labelled_arrays, "IN_MEMORY", 100)
    array = read_labelled_images(grey).splits["train"].load(size=28, channels=1).array
    assert isinstance(array, np.memmap)
    assert np.array_equal(array, pixels(8, 28, 28))
    mapped = read_labelled_images(photographs).splits["train"].load(size=16, channels=3).array
    assert isinstance(mapped, np.memmap)
    assert np.array_equal(mapped, in_memory)


def test_a_folder_has_one_class_a_folder_and_squares_of_one_size(photographs):
    data = read_labelled_images(photographs)
    train = data.splits["train"]
    assert data.classes == ("ill", "well")
    assert train.names == ("ill/0.png", "ill/2.png", "ill/4.png", "well/1.tif", "well/3.tif", "well/5.tif")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    loaded = train.load(size=32, channels=3)
    wide = loaded.image(0)
    assert wide.shape == (32, 32, 3)
    assert not wide[:8].any()
    assert not wide[24:].any()
    assert wide[8:24].all(axis=(1, 2)).any()
    assert train.load(size=32, channels=1).image(4).shape == (32, 32)


def test_a_file_that_is_no_image_is_named_and_left_out(photographs):
    (photographs / "ill" / "2.png").write_bytes(b"not an image")
    loaded = read_labelled_images(photographs).splits["train"].load(size=16, channels=3)
    assert [skipped.path for skipped in loaded.skipped] == ["ill/2.png"]
    assert "no image" in loaded.skipped[0].reason
    assert loaded.split.names == ("ill/0.png", "ill/4.png", "well/1.tif", "well/3.tif", "well/5.tif")
    assert loaded.image(1)[8, 8].any()
    for path in photographs.rglob("*.*"):
        path.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"none of 6 images can be read; ill/0\.png"):
        read_labelled_images(photographs).splits["train"].load(size=16, channels=3)


def test_patients_of_the_manifest_stay_on_one_side(photographs):
    rows = [f"{('ill', 'well')[i % 2]}/{i}.{('png', 'tif')[i % 2]},{i // 2}" for i in range(6)]
    (photographs / "manifest.csv").write_text("path,patient\n" + "\n".join(rows) + "\n")
    data = read_labelled_images(photographs).with_validation(0.34, seed=0)
    assert set(data.splits["train"].patients).isdisjoint(data.splits["val"].patients)
    assert len(data.splits["val"]) == 2


def test_channels_of_images_are_told_by_a_file_or_the_manifest(tmp_path, photographs):
    there = np.array([[1, 0, 1, 1], [1, 1, 1, 1]])
    path = save(
        tmp_path / "a.npz", train_images=pixels(2, 8, 8, 4), train_labels=[0, 1], train_channels=there
    )
    split = read_labelled_images(path).splits["train"]
    assert split.channels.tolist() == there.astype(bool).tolist()
    assert split.subset(np.array([1])).channels.tolist() == [[True] * 4]
    assert read_labelled_images(photographs).splits["train"].channels is None
    (photographs / "manifest.csv").write_text("path,channels\nill/0.png,1\nill/2.png,0 2\nwell/1.tif,\n")
    split = read_labelled_images(photographs).splits["train"]
    told = dict(zip(split.names, split.channels.tolist(), strict=True))
    assert told["ill/0.png"] == [False, True, False]
    assert told["ill/2.png"] == [True, False, True]
    assert told["well/1.tif"] == told["well/3.tif"] == [True] * 3
    (photographs / "manifest.csv").write_text("path,channels\nill/0.png,0 3\n")
    with pytest.raises(ValueError, match=r"channels of 0\.png are '0 3' .* an empty cell for all"):
        read_labelled_images(photographs)


def test_a_patient_in_two_splits_is_refused(photographs):
    for split in ("train", "val"):
        for folder in ("ill", "well"):
            (photographs / split / folder).mkdir(parents=True)
            next((photographs / folder).iterdir()).rename(photographs / split / folder / "a.png")
    for folder in ("ill", "well"):
        for path in (photographs / folder).iterdir():
            path.unlink()
        (photographs / folder).rmdir()
    assert list(read_labelled_images(photographs).splits) == ["train", "val"]
    (photographs / "manifest.csv").write_text("path,patient\ntrain/ill/a.png,7\nval/well/a.png,7\n")
    with pytest.raises(ValueError, match="patient 7 has images in train and in val"):
        read_labelled_images(photographs)
    (photographs / "val" / "odd").mkdir()
    with pytest.raises(ValueError, match=r"odd is of no class .* ill, well"):
        read_labelled_images(photographs)
    (photographs / "train").rename(photographs / "test")
    with pytest.raises(ValueError, match="holds test, val but no folder train"):
        read_labelled_images(photographs)


def test_a_single_class_is_refused(tmp_path):
    (tmp_path / "folder" / "ill").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds 1 folder.*at least two"):
        read_labelled_images(tmp_path / "folder")
    path = save(tmp_path / "a.npz", train_images=pixels(3, 8, 8), train_labels=np.zeros(3, int))
    with pytest.raises(ValueError, match="same label; at least two classes"):
        read_labelled_images(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_labels": np.array([0, 2])}, r"val_labels\[1\] is 2; allowed: whole numbers from 0 to 1"),
        ({"train_labels": np.array([0, 1, -1])}, r"train_labels\[2\] is -1"),
        ({"train_labels": np.array([0, 1, 7])}, "go up to 7, but none is 2"),
        ({"train_labels": np.array([0, 1, 0.5])}, r"train_labels\[2\] is 0.5"),
        ({"train_labels": np.array([0, 1, np.nan])}, "NaN"),
        ({"train_labels": np.array([0, 1])}, "train has 3 images and 2 labels"),
        ({"train_images": pixels(3, 3, 8, 8)}, r"train_images are \(3, 3, 8, 8\) uint8; .* channels last"),
        ({"train_channels": np.ones((3, 2), int)}, r"train_channels are \(3, 2\) .* allowed: \(3, 1\)"),
        ({"train_channels": np.array([[1], [0], [1]])}, r"train_channels\[1\] has no channel"),
        ({"train_images": np.zeros((3, 8, 8))}, "float64; allowed"),
        ({"val_images": pixels(2, 8, 8, 3)}, "differ in their channels"),
        ({"class_names": np.array(["a"])}, r"train_labels\[1\] is 1; allowed: whole numbers from 0 to 0"),
        ({"class_names": np.array(["a", None])}, "Python objects"),
        ({"train_images": None}, "no split train"),
        ({"val_labels": None}, "val_images but no val_labels"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, changes, message):
    arrays = {
        "train_images": pixels(3, 8, 8),
        "train_labels": np.array([0, 1, 0]),
        "val_images": pixels(2, 8, 8),
        "val_labels": np.array([0, 1]),
    }
    arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
    with pytest.raises(ValueError, match=message) as caught:
        read_labelled_images(save(tmp_path / "broken.npz", **arrays))
    assert "broken.npz" in str(caught.value)


def test_a_file_that_is_cut_short_or_of_another_kind_is_named(grey, tmp_path):
    grey.write_bytes(grey.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"mnist\.npz cannot be read as \.npz"):
        read_labelled_images(grey)
    (tmp_path / "a.zip").touch()
    with pytest.raises(ValueError, match=r"a\.zip ends in \.zip; allowed: \.npz or a folder"):
        read_labelled_images(tmp_path / "a.zip")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_labelled_images(tmp_path / "absent.npz")
