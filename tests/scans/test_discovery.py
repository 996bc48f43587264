import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from foveal.scans.discovery import ScanRef, find_scans, safe_name, unique_names
from foveal.scans.reading import read_scan
from foveal.scans.scan import ScanError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def listed(refs: list[ScanRef], root: Path) -> dict[str, str]:
    """Name -> path below the root, of the refs without an error."""
    return {ref.name: ref.path.relative_to(root).as_posix() for ref in refs if ref.error is None}


def errors(refs: list[ScanRef], root: Path) -> dict[str, str]:
    return {ref.path.relative_to(root).as_posix(): ref.error for ref in refs if ref.error is not None}


# --- folders ----------------------------------------------------------------------------------------


def test_folder_is_walked_in_order_and_only_images_are_taken(tmp_path):
    touch(tmp_path, "b.png", "a.JPG", "sub/deep/c.tiff", "sub/d.bmp", "e.dcm", "eye.v2.jpeg")
    touch(
        tmp_path, "notes.txt", "table.csv", "meta.json", "unknown.xyz", "LICENSE", ".hidden.png", ".git/f.png"
    )
    refs = find_scans(tmp_path)
    assert [ref.path.relative_to(tmp_path).as_posix() for ref in refs] == [
        "a.JPG", "b.png", "e.dcm", "eye.v2.jpeg", "sub/d.bmp", "sub/deep/c.tiff",
    ]  # fmt: skip
    assert [ref.name for ref in refs] == ["a", "b", "e", "eye.v2", "d", "c"]
    assert all(ref.error is ref.patient is ref.laterality is None for ref in refs)
    assert find_scans(str(tmp_path)) == refs


def test_dicom_without_or_with_a_foreign_ending_is_taken_by_its_preamble(tmp_path):
    for name in ("IM0001", "1.2.840.55", "scan.xyz", "table.csv", "DICOMDIR"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    assert listed(find_scans(tmp_path), tmp_path) == {
        "1.2.840.55": "1.2.840.55", "IM0001": "IM0001", "scan": "scan.xyz",
    }  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_pipes_in_a_folder_are_not_opened(tmp_path):
    touch(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "b.png")
    code = f"from foveal.scans.discovery import find_scans; print(len(find_scans({str(tmp_path)!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.stdout.strip() == "2"  # the one that poses as an image is left to read_scan, which names it
    with pytest.raises(ScanError, match="is a pipe"):
        read_scan(tmp_path / "b.png")


def test_link_loops_are_reported_and_end(tmp_path):
    touch(tmp_path, "x/a.png", "y/b.png")
    (tmp_path / "x" / "up").symlink_to(tmp_path)
    (tmp_path / "x" / "here").symlink_to(".")
    (tmp_path / "self.png").symlink_to("self.png")
    refs = find_scans(tmp_path)
    assert listed(refs, tmp_path) == {"a": "x/a.png", "b": "y/b.png"}
    found = errors(refs, tmp_path)
    assert set(found) == {"x/up", "x/here", "self.png"}
    assert "a folder above it" in found["x/up"]
    assert "a folder above it" in found["x/here"]
    assert "cannot be followed: Too many levels of symbolic links" in found["self.png"]
    assert len({ref.name for ref in refs}) == len(refs)


def test_folders_that_link_to_each_other_are_read_once(tmp_path):
    count = 12  # followed blindly this is 12! paths
    for index in range(count):
        touch(tmp_path, f"f{index}/p{index}.png")
        for other in range(count):
            if other != index:
                (tmp_path / f"f{index}" / f"to{other}").symlink_to(tmp_path / f"f{other}")
    paths = [ref.path.relative_to(tmp_path).as_posix() for ref in find_scans(tmp_path)]
    assert sorted(paths) == sorted(f"f{index}/p{index}.png" for index in range(count))


def test_linked_folders_and_files_outside_are_followed(tmp_path):
    touch(tmp_path, "outside/a.png", "outside/b.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "in" / "single.png").symlink_to(tmp_path / "outside" / "b.png")
    assert listed(find_scans(tmp_path / "in"), tmp_path) == {
        "a": "in/folder/a.png", "b": "in/folder/b.png", "single": "in/single.png",
    }  # fmt: skip


def test_broken_links_are_reported_unless_they_are_no_image(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "notes.txt").symlink_to("nowhere.txt")
    assert errors(find_scans(tmp_path), tmp_path) == {
        "gone.png": "link to nowhere.png cannot be followed: No such file or directory"
    }


def test_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "locked/b.png")
    scandir = os.scandir

    def deny(folder):
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", deny)
    assert errors(find_scans(tmp_path), tmp_path) == {"locked": "folder cannot be listed: Permission denied"}


# --- other sources ----------------------------------------------------------------------------------


def test_single_file_is_taken_whatever_its_ending(tmp_path):
    touch(tmp_path, "eye.unknown")
    assert find_scans(tmp_path / "eye.unknown") == [ScanRef(tmp_path / "eye.unknown", "eye")]
    (tmp_path / "loop.png").symlink_to("loop.png")
    (ref,) = find_scans(tmp_path / "loop.png")
    assert "cannot be followed" in ref.error


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.png", {"a"}),
        ("**/*.png", {"a", "b", "c"}),
        ("sub/**/*.png", {"b", "c"}),
        ("s?b/[bc].png", {"b"}),
        ("**", {"a", "b", "c", "d"}),
        ("sub/**/c.*", {"c"}),
    ],
)
def test_glob(tmp_path, pattern, names):
    touch(tmp_path, "a.png", "sub/b.png", "sub/deep/c.png", "sub/d.jpg", "sub/e.txt", ".hidden/f.png")
    assert set(listed(find_scans(f"{tmp_path}/{pattern}"), tmp_path)) == names


def test_glob_reports_loops_and_ends(tmp_path):
    touch(tmp_path, "a.png")
    for name in ("one", "two", "three"):  # Python's own ** would follow 3^40 paths
        (tmp_path / name).symlink_to(".")
    refs = find_scans(f"{tmp_path}/**/*.png")
    assert listed(refs, tmp_path) == {"a": "a.png"}
    assert set(errors(refs, tmp_path)) == {"one", "two", "three"}
    assert not errors(find_scans(f"{tmp_path}/*.png"), tmp_path)


def test_file_whose_name_looks_like_a_glob_is_a_file(tmp_path):
    touch(tmp_path, "eye[1].png", "eye1.png")
    assert [ref.path.name for ref in find_scans(tmp_path / "eye[1].png")] == ["eye[1].png"]


@pytest.mark.parametrize("source", ["none", "none/*.png", "none.csv"])
def test_absent_source_is_an_error_that_says_what_is_allowed(tmp_path, source):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_scans(tmp_path / source)


@pytest.mark.parametrize("source", [".", "*.png"])
def test_source_without_scans_is_an_error_that_says_what_was_looked_for(tmp_path, source):
    touch(tmp_path, "notes.txt")
    with pytest.raises(ValueError, match=r"holds no scan; looked for files ending in .*\.png"):
        find_scans(tmp_path / source)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_manifest_rows_become_refs(tmp_path, ending):
    touch(tmp_path, "eyes/a.png", "eyes/b.png")
    table = pd.DataFrame(
        {
            "path": ["eyes/a.png", "eyes/b.png", "eyes/gone.png"],
            "patient": ["007", None, "NA"],
            "laterality": ["OD", "l", None],
            "grade": [0, 1, 2],
        }
    )
    path = tmp_path / f"manifest.{ending}"
    table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    if ending == "csv":  # what a spreadsheet program writes
        path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    first, second, third = find_scans(path)
    assert first == ScanRef(tmp_path / "eyes/a.png", "a", patient="007", laterality="R")
    assert second == ScanRef(tmp_path / "eyes/b.png", "b", laterality="L")
    assert third.error == "listed in the manifest, but does not exist"
    assert third.patient == "NA"


def test_empty_manifest_is_an_error(tmp_path):
    (tmp_path / "m.csv").write_text("path,patient\n")
    with pytest.raises(ValueError, match="lists no scan"):
        find_scans(tmp_path / "m.csv")


def test_manifest_files_outside_its_folder_get_distinct_names(tmp_path):
    touch(tmp_path, "left/eye.png", "right/eye.png")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "m.csv").write_text("path\n../left/eye.png\n../right/eye.png\n")
    refs = find_scans(tmp_path / "tables" / "m.csv")
    assert [ref.name for ref in refs] == ["left__eye", "right__eye"]


# --- names ------------------------------------------------------------------------------------------


def test_clashing_names_tell_the_files_apart(tmp_path):
    touch(tmp_path, "eye.png", "eye.jpg", "left/eye.png", "right/eye.png", "right/EYE.tif", "other.png")
    assert listed(find_scans(tmp_path), tmp_path) == {
        "other": "other.png",
        "eye__jpg": "eye.jpg",
        "eye__png": "eye.png",
        "left__eye": "left/eye.png",
        "right__eye__png": "right/eye.png",
        "right__EYE__tif": "right/EYE.tif",
    }


def test_names_do_not_clash_with_those_made_for_others(tmp_path):
    touch(tmp_path, "a__b.png", "a/b.png", "c/b.png")
    assert listed(find_scans(tmp_path), tmp_path) == {
        "a__b": "a__b.png", "a__b__png": "a/b.png", "c__b": "c/b.png",
    }  # fmt: skip


def test_names_that_differ_only_in_unicode_form_are_told_apart():
    """macOS stores é as e and an accent, and takes the two for one name."""
    root = Path("root")
    assert unique_names([root / "a" / "\u00e9.png", root / "b" / "e\u0301.png"], root) == [
        "a__\u00e9", "b__e\u0301",
    ]  # fmt: skip


PARTS = st.text(st.sampled_from("aAéb_. :*\u0301漢"), min_size=1, max_size=4).filter(
    lambda part: part not in (".", "..")
)


@given(st.lists(st.lists(PARTS, min_size=1, max_size=3), min_size=1, max_size=12))
def test_names_are_unique_and_safe_for_any_tree(trees):
    root = Path("root")
    paths = sorted({root.joinpath(*parts) for parts in trees})
    names = unique_names(paths, root)
    assert len({name.casefold() for name in names}) == len(paths)
    for name in names:
        assert name == safe_name(name)
        assert not set(name) & set('\\/:*?"<>|')
        assert not name.startswith(".")
    assert unique_names(paths, root) == names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("自撮り_ø", "自撮り_ø"),
        ("a/b\\c", "a_b_c"),
        ("..", "_"),
        ("", "_"),
        (".hidden", "_.hidden"),
        ("con", "_con"),
        ("COM1.left", "_COM1.left"),
        ("line\nbreak", "line_break"),
        ("trailing. .", "trailing"),
        ("bad\udcff", "bad_"),
    ],
)
def test_safe_name(text, name):
    assert safe_name(text) == name


def test_long_names_are_cut_to_fit_and_stay_apart():
    first, second = safe_name("漢" * 300 + "1"), safe_name("漢" * 300 + "2")
    assert first != second
    assert len(f"{first}.parquet".encode()) <= 255
    assert first.startswith("漢漢")


# --- the two halves together ------------------------------------------------------------------------


def test_folder_of_good_and_bad_files_is_read_file_by_file(tmp_path, write_dicom, photograph):
    folder = tmp_path / "scans"
    folder.mkdir()
    Image.fromarray(photograph).save(folder / "good.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photograph).save(folder / "rotated.jpg", exif=exif)
    os.replace(write_dicom(photograph), folder / "dicom")
    whole = (folder / "rotated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) * 9 // 10])
    (folder / "text.png").write_text("no picture")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("1", (10_000, 10_000)).save(folder / "huge.png")
    done, failed = {}, {}
    for ref in find_scans(folder):
        try:
            done[ref.name] = read_scan(ref.path).image.shape
        except ScanError as error:
            failed[ref.name] = error.reason
    height, width, _ = photograph.shape
    assert done == {"good": (height, width, 3), "rotated": (width, height, 3), "dicom": (height, width, 3)}
    assert {name: text.split(";")[0] for name, text in failed.items()} == {
        "dot": "image is 1 x 1 px (width x height)",
        "huge": "image is 10000 x 10000 px, 100.0 megapixels",
        "text": "is no image (it begins with b'no picture'), in spite of its ending .png",
        "truncated": "JPEG file is truncated: its end marker (FF D9) is missing",
    }


def test_published_data_set_is_found_whole(data_root):
    refs = find_scans(data_root / "CHASE_DB1" / "images")
    assert len(refs) == 14
    assert refs[0].name == "Image_01L"
    assert np.unique([ref.name for ref in refs]).size == 14
