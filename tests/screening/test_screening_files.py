from pathlib import Path

import pytest

from foveal.screening import files
from foveal.screening.files import sweep_partial_files, write_atomically


def test_writing_replaces_the_whole_file(tmp_path: Path):
    path = tmp_path / "report.csv"
    write_atomically(path, "a long first content")
    assert write_atomically(path, "é") == 2
    assert path.read_bytes() == "é".encode()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "report.csv"
    write_atomically(path, b"old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.csv"]
    assert path.read_bytes() == b"old"


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path):
    path = tmp_path / ("x" * 251 + ".png")
    write_atomically(path, b"1")
    assert path.read_bytes() == b"1"


def test_sweeping_removes_only_what_a_killed_run_left(tmp_path: Path):
    (tmp_path / ".foveal-0123.partial").touch()
    (tmp_path / "kept.partial").touch()
    assert sweep_partial_files(tmp_path) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.partial"]
