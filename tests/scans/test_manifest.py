import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.scans.manifest import read_manifest, split_patients, write_manifest


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "path": ["a.png", "b.png", "ü/c.png"],
            "patient": ["007", None, "NA"],
            "laterality": ["L", None, "R"],
            "grade": [0, 4, 2],
            "age": [50.5, np.nan, 61.0],
        }
    )


@pytest.mark.parametrize("ending", ["csv", "parquet", "CSV"])
def test_what_is_written_is_read_back(table, tmp_path, ending):
    path = tmp_path / "new" / f"m.{ending}"
    write_manifest(table, path)
    back = read_manifest(path)
    assert back["path"].tolist() == table["path"].tolist()
    assert back["patient"].tolist() == ["007", None, "NA"]
    assert back["laterality"].tolist() == ["L", None, "R"]
    assert back["grade"].tolist() == [0, 4, 2]
    assert back["age"].equals(table["age"])
    assert os.listdir(path.parent) == [path.name]


def test_laterality_is_understood_in_all_its_spellings(tmp_path):
    spellings = ["L", "left", "OS", "r", "Right", "od", ""]
    rows = "\n".join(f"{index}.png,{text}" for index, text in enumerate(spellings))
    (tmp_path / "m.csv").write_text(f"path,laterality\n{rows}\n")
    assert read_manifest(tmp_path / "m.csv")["laterality"].tolist() == ["L", "L", "L", "R", "R", "R", None]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("image,patient\na.png,1\n", r"columns are \['image', 'patient'\]; 'path' is required"),
        ('path\na.png\n" "\n', "row 2 has an empty path"),
        ("path,patient\na.png,1\nb.png,1\na.png,2\n", "row 3 repeats the path of row 1, a.png"),
        ("path,laterality\na.png,up\n", "row 1 has laterality 'up'; allowed: L, R"),
        ("", "is no readable .csv manifest"),
        ("path,patient\na.png,1\nb.png,1,2,3\n", "is no readable .csv manifest"),
    ],
)
def test_invalid_csv_is_refused_with_the_row_at_fault(tmp_path, text, told):
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=told) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_manifest_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist or is no file"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"ends in \.xlsx; allowed: \.csv or \.parquet"):
        read_manifest(tmp_path / "m.xlsx")
    (tmp_path / "m.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match=r"is no readable \.parquet manifest"):
        read_manifest(tmp_path / "m.parquet")
    (tmp_path / "latin.csv").write_bytes("path\nä.png\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"is no readable \.csv manifest"):
        read_manifest(tmp_path / "latin.csv")


def test_write_refuses_what_read_would(table, tmp_path):
    with pytest.raises(ValueError, match="'path' is required"):
        write_manifest(table.drop(columns="path"), tmp_path / "m.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_failed_write_leaves_the_old_file_and_nothing_else(table, tmp_path, ending, monkeypatch):
    path = tmp_path / f"m.{ending}"
    write_manifest(table, path)
    before = path.read_bytes()

    def die(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(OSError, match="disk full"):
        write_manifest(table.iloc[:1], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_written_file_has_the_permissions_of_any_other(table, tmp_path):
    write_manifest(table, tmp_path / "m.csv")
    (tmp_path / "other").touch()
    assert (tmp_path / "m.csv").stat().st_mode == (tmp_path / "other").stat().st_mode


# --- splits -----------------------------------------------------------------------------------------


def cohort(images_per_patient: list[int], labels: list[int] | None = None) -> pd.DataFrame:
    rows = [
        {
            "path": f"{patient}_{image}.png",
            "patient": f"p{patient}",
            "grade": labels[patient] if labels else 0,
        }
        for patient, count in enumerate(images_per_patient)
        for image in range(count)
    ]
    return pd.DataFrame(rows)


COUNTS = st.lists(st.integers(1, 9), min_size=5, max_size=40)


@settings(max_examples=60, deadline=None)
@given(counts=COUNTS, folds=st.integers(2, 5), seed=st.integers(0, 3))
def test_folds_keep_patients_whole_and_differ_by_one_patient_at_most(counts, folds, seed):
    frame = cohort(counts)
    fold = split_patients(frame, folds=folds, seed=seed)
    assert fold.groupby(frame["patient"]).nunique().max() == 1
    sizes = fold.value_counts()
    assert sorted(sizes.index) == list(range(folds))
    assert sizes.max() - sizes.min() <= max(counts)


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 4), min_size=30, max_size=60), seed=st.integers(0, 3))
def test_fractions_are_met_to_within_a_patient_or_two(counts, seed):
    frame = cohort(counts)
    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    split = split_patients(frame, fractions=shares, seed=seed)
    assert split.groupby(frame["patient"]).nunique().max() == 1
    for name, share in shares.items():
        assert abs((split == name).sum() - share * len(frame)) <= 2 * max(counts)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), folds=st.integers(2, 4))
def test_strata_are_spread_evenly(data, folds):
    counts = data.draw(st.lists(st.integers(1, 3), min_size=12, max_size=40))
    labels = data.draw(st.lists(st.integers(0, 2), min_size=len(counts), max_size=len(counts)))
    frame = cohort(counts, labels)
    try:
        fold = split_patients(frame, folds=folds, seed=0, stratify="grade")
    except ValueError as error:
        pytest.fail(str(error))
    for _, rows in frame.groupby("grade"):
        sizes = fold[rows.index].value_counts().reindex(range(folds), fill_value=0)
        assert sizes.max() - sizes.min() <= 3  # the largest patient


def test_patient_is_stratified_by_its_largest_label():
    """One diseased image among healthy ones makes a diseased patient; each fold gets one of the two."""
    frame = cohort([3] * 8)
    frame.loc[frame["path"].isin(["0_2.png", "1_0.png"]), "grade"] = 4
    for seed in range(20):
        fold = split_patients(frame, folds=2, seed=seed, stratify="grade")
        assert fold[frame["grade"] == 4].nunique() == 2


def test_order_of_rows_does_not_matter_and_the_seed_does():
    frame = cohort([2] * 20)
    fold = split_patients(frame, folds=4, seed=3)
    shuffled = frame.sample(frac=1, random_state=0)
    assert split_patients(shuffled, folds=4, seed=3).sort_index().equals(fold)
    assert split_patients(frame, folds=4, seed=3).equals(fold)
    assert not split_patients(frame, folds=4, seed=4).equals(fold)
    assert fold.name == "fold"
    assert split_patients(frame, fractions={"a": 0.5, "b": 0.5}, seed=0).name == "split"


def test_rows_without_patient_are_patients_of_their_own():
    frame = pd.DataFrame({"path": [f"{index}.png" for index in range(10)], "patient": [None, ""] * 5})
    sizes = split_patients(frame, folds=5, seed=0).value_counts()
    assert sizes.tolist() == [2] * 5
    assert split_patients(frame[["path"]], folds=5, seed=0).value_counts().tolist() == [2] * 5


def test_missing_labels_are_a_stratum_of_their_own():
    frame = cohort([1] * 8)
    frame["grade"] = [np.nan] * 4 + [1.0] * 4
    fold = split_patients(frame, folds=2, seed=0, stratify="grade")
    assert fold[frame["grade"].isna()].value_counts().tolist() == [2, 2]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "exactly one of the two"),
        ({"folds": 2, "fractions": {"a": 0.5, "b": 0.5}}, "exactly one of the two"),
        ({"folds": 1}, "folds is 1; allowed: at least 2"),
        ({"folds": 5}, "4 patients for 5 sides"),
        ({"fractions": {"a": 0.5, "b": 0.6}}, "sum to 1"),
        ({"fractions": {"a": 1.0}}, "two or more"),
        ({"fractions": {"a": 1.2, "b": -0.2}}, "above 0"),
        ({"fractions": {"train": 0.98, "test": 0.02}}, "no patient falls to test"),
        ({"folds": 2, "stratify": "stage"}, "frame has no column 'stage'"),
    ],
    ids=str,
)
def test_impossible_splits_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        split_patients(cohort([1, 2, 1, 2]), seed=0, **options)


def test_children_of_a_published_data_set_stay_whole(data_root):
    names = sorted(path.name for path in Path(data_root / "CHASE_DB1" / "images").iterdir())
    frame = pd.DataFrame({"path": names, "patient": [name[6:8] for name in names]})
    fold = split_patients(frame, folds=3, seed=0)
    assert fold.groupby(frame["patient"]).nunique().max() == 1
    assert sorted(fold.value_counts()) == [4, 4, 6]
