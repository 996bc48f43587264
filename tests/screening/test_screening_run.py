import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from foveal.files import file_sha256
from foveal.scans.synthetic import synthesize_eye
from foveal.screening import ScreenSettings, screen

PARTIAL = "**/.foveal-*.partial"


def test_each_photograph_gets_its_maps_at_the_original_size(
    source: Path, tmp_path: Path, settings: ScreenSettings
):
    summary = screen(source, tmp_path / "report", settings, progress=False)
    assert (summary.screened, summary.exit_code) == (3, 0)
    for name in "abc":
        vessels = Image.open(tmp_path / "report" / "vessels" / f"{name}.png")
        mask = Image.open(tmp_path / "report" / "masks" / f"{name}.png")
        assert vessels.size == mask.size == (256, 256)
        assert (vessels.mode, mask.mode) == ("I;16", "L")
        probability = np.asarray(vessels).astype(np.float64) / 65535
        kinds = np.asarray(mask)
        assert set(np.unique(kinds)) <= {0, 1, 2, 3}
        np.testing.assert_array_equal(kinds > 0, probability >= round(0.5 * 65535) / 65535)
        artery = np.asarray(Image.open(tmp_path / "report" / "arteries" / f"{name}.png"))
        assert not artery[probability < 0.1].any()
        structures = np.asarray(Image.open(tmp_path / "report" / "structures" / f"{name}.png"))
        assert structures.shape == kinds.shape
        assert structures.max() <= 5


def test_dicom_is_written_when_asked_for_and_removed_with_its_photograph(
    source: Path, tmp_path: Path, settings: ScreenSettings
):
    report, wanted = tmp_path / "report", settings.replace(dicom=True)
    screen(source, report, wanted, progress=False)
    files = sorted(path.name for path in (report / "dicom" / "a").iterdir())
    assert files == ["measurements.dcm", "photograph.dcm", "segmentation.dcm"]
    record = json.loads((report / "scans" / "a.json").read_text(encoding="utf-8"))
    assert {f"dicom/a/{name}" for name in files} <= set(record["outputs"])
    segments = pydicom.dcmread(report / "dicom" / "a" / "segmentation.dcm").SegmentSequence
    assert "Optic disc" in {segment.SegmentLabel for segment in segments}
    (report / "dicom" / "a" / "measurements.dcm").unlink()
    (source / "b.png").write_text("no picture any more", encoding="utf-8")
    summary = screen(source, report, wanted, progress=False)
    assert (summary.screened, summary.resumed, len(summary.failures)) == (1, 1, 1)
    assert not (report / "dicom" / "b").exists()


def test_dicom_bears_the_pseudonym_and_the_eye_that_the_manifest_knows(
    source: Path, tmp_path: Path, settings: ScreenSettings
):
    manifest = source / "manifest.csv"
    manifest.write_text("path,patient,laterality\na.png,Jane Doe,R\n", encoding="utf-8")
    report = tmp_path / "report"
    screen(manifest, report, settings.replace(dicom=True), progress=False)
    row = pq.read_table(report / "results.parquet").to_pylist()[0]
    written = pydicom.dcmread(report / "dicom" / "a" / "photograph.dcm")
    assert row["patient"] not in (None, "Jane Doe")
    assert written.PatientID == row["patient"]
    assert "Jane" not in str(written)


def test_a_network_of_other_structures_is_refused(
    source: Path, tmp_path: Path, settings: ScreenSettings, small_models: dict[str, Path]
):
    wrong = settings.replace(lesion_model=small_models["landmark_model"])
    summary = screen(source, tmp_path / "report", wrong, progress=False)
    assert summary.exit_code == 2
    assert "is no model of lesions: it segments disc, fovea; wanted: microaneurysms" in (summary.error or "")


def test_a_stated_side_that_the_photograph_contradicts_is_told(tmp_path: Path):
    eye = synthesize_eye(5, size=512, lesions=0, laterality="L")
    Image.fromarray(eye.image).save(tmp_path / "eye.png")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path,laterality\neye.png,R\n", encoding="utf-8")
    screen(manifest, tmp_path / "report", ScreenSettings(workers=1, views=1), progress=False)
    record = json.loads((tmp_path / "report" / "scans" / "eye.json").read_text(encoding="utf-8"))
    values = record["values"]
    assert (values["laterality"], values["laterality_found"]) == ("R", "L")
    assert "states a right eye, but the photograph looks like a left eye" in record["notes"][0]
    disc = np.hypot(values["disc_row"] - eye.disc.center[0], values["disc_column"] - eye.disc.center[1])
    assert disc < 0.5 * eye.disc.radius


def test_a_folder_with_bad_files_is_screened_and_the_bad_ones_are_named(
    tmp_path: Path, settings: ScreenSettings, eyes: list[np.ndarray]
):
    folder = tmp_path / "photographs"
    folder.mkdir()
    Image.fromarray(eyes[0]).save(folder / "good.jpg", quality=95)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(eyes[1][:, :200]).save(folder / "rotated.jpg", exif=turned, quality=95)
    write_dicom(folder / "dicom.dcm", eyes[2])
    (folder / "truncated.jpg").write_bytes((folder / "good.jpg").read_bytes()[:3000])
    (folder / "text.png").write_text("this is no picture", encoding="utf-8")
    Image.new("RGB", (1, 1)).save(folder / "tiny.png")
    Image.new("L", (10000, 10000)).save(folder / "huge.png")
    Image.new("RGB", (200, 200)).save(folder / "black.png")

    report = tmp_path / "report"
    summary = screen(folder, report, settings, progress=False)

    assert summary.exit_code == 1
    assert [failure.name for failure in summary.failures] == ["black", "huge", "text", "tiny", "truncated"]
    assert {failure.name: failure.stage for failure in summary.failures} == {
        "black": "field of view",
        "huge": "read",
        "text": "read",
        "tiny": "read",
        "truncated": "read",
    }
    with (report / "failures.csv").open(newline="", encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    assert [(row["name"], row["reason"]) for row in listed] == [(f.name, f.reason) for f in summary.failures]
    rows = {row["name"]: row for row in pq.read_table(report / "results.parquet").to_pylist()}
    assert set(rows) == {"good", "rotated", "dicom"}
    assert (rows["rotated"]["height"], rows["rotated"]["width"]) == (200, 256)
    assert rows["dicom"]["laterality"] == "R"
    assert rows["dicom"]["spacing_row"] == pytest.approx(0.01)
    assert rows["dicom"]["patient"] not in (None, "patient-17")
    assert sorted(path.stem for path in (report / "vessels").iterdir()) == ["dicom", "good", "rotated"]


def write_dicom(path: Path, image: np.ndarray) -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Modality, dataset.PatientID, dataset.ImageLaterality = "OP", "patient-17", "R"
    dataset.PixelSpacing = [0.01, 0.01]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Rows, dataset.Columns = image.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = image.tobytes()
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def test_several_processes_give_the_same_results_as_one(
    source: Path, tmp_path: Path, settings: ScreenSettings
):
    screen(source, tmp_path / "one", settings, progress=False)
    screen(source, tmp_path / "two", settings.model_copy(update={"workers": 2}), progress=False)
    assert (tmp_path / "one/results.csv").read_bytes() == (tmp_path / "two/results.csv").read_bytes()
    for name in "abc":
        maps = [tmp_path / run / "vessels" / f"{name}.png" for run in ("one", "two")]
        assert file_sha256(maps[0]) == file_sha256(maps[1])


def test_only_what_changed_is_screened_again(
    source: Path, tmp_path: Path, settings: ScreenSettings, eyes: list[np.ndarray]
):
    report = tmp_path / "report"
    screen(source, report, settings, progress=False)
    written = {path: path.stat().st_mtime_ns for path in report.glob("scans/*.json")}
    Image.fromarray(eyes[3]).save(source / "b.png")
    (report / "masks" / "c.png").unlink()

    summary = screen(source, report, settings, progress=False)

    assert (summary.screened, summary.resumed) == (2, 1)
    redone = {path.stem for path, time_ns in written.items() if path.stat().st_mtime_ns != time_ns}
    assert redone == {"b", "c"}
    assert pq.read_table(report / "results.parquet").num_rows == 3


def test_results_of_a_photograph_that_went_bad_do_not_stay(
    source: Path, tmp_path: Path, settings: ScreenSettings
):
    report = tmp_path / "report"
    screen(source, report, settings, progress=False)
    (source / "b.png").write_bytes((source / "b.png").read_bytes()[:2000])
    assert [failure.name for failure in screen(source, report, settings, progress=False).failures] == ["b"]
    assert not [path for path in report.glob("*/*") if path.stem == "b"]
    assert pq.read_table(report / "results.parquet")["name"].to_pylist() == ["a", "c"]


def test_other_settings_screen_again_and_another_title_does_not(
    source: Path, tmp_path: Path, settings: ScreenSettings
):
    report = tmp_path / "report"
    screen(source, report, settings, progress=False)
    renamed = settings.model_copy(update={"title": "Another title"})
    assert screen(source, report, renamed, progress=False).resumed == 3
    assert "Another title" in (report / "index.html").read_text(encoding="utf-8")
    stricter = settings.model_copy(update={"threshold": 0.7})
    assert screen(source, report, stricter, progress=False).resumed == 0


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_killed_run_leaves_whole_files_and_is_resumed(
    tmp_path: Path, small_models: dict[str, Path], eyes: list[np.ndarray]
):
    folder, report = tmp_path / "photographs", tmp_path / "report"
    folder.mkdir()
    for index in range(24):
        Image.fromarray(np.roll(eyes[0], index, axis=1)).save(folder / f"{index:02}.png")
    models = {name: str(path) for name, path in small_models.items()}
    arguments = f"{str(folder)!r}, {str(report)!r}, {models!r}"
    code = f"import screening_parts\nif __name__ == '__main__': screening_parts.screen_slowly({arguments})"
    search = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([sys.executable, "-c", code], env=environment)
    try:
        deadline = time.monotonic() + 240  # two processes import torch, on a busy machine slowly
        while len(list(report.glob("scans/*.json"))) < 3:
            assert run.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "the run did not start"
            time.sleep(0.02)
        workers = psutil.Process(run.pid).children(recursive=True)
    finally:
        run.kill()
        run.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive, "a worker outlived its parent"

    finished = {path.stem: path.stat().st_mtime_ns for path in report.glob("scans/*.json")}
    assert 3 <= len(finished) < 24
    for path in report.glob("*/*.png"):
        Image.open(path).load()
    for name in finished:
        record = json.loads((report / "scans" / f"{name}.json").read_text(encoding="utf-8"))
        assert all((report / path).stat().st_size == size for path, size in record["outputs"].items())

    settings = ScreenSettings(**small_models, workers=1)
    summary = screen(folder, report, settings, progress=False)

    assert (summary.resumed, summary.screened) == (len(finished), 24 - len(finished))
    for name, time_ns in finished.items():
        assert (report / "scans" / f"{name}.json").stat().st_mtime_ns == time_ns
    assert pq.read_table(report / "results.parquet").num_rows == 24
    assert not list(report.glob(PARTIAL))


def test_nothing_starts_without_photographs(tmp_path: Path, settings: ScreenSettings):
    (tmp_path / "empty").mkdir()
    for source, complaint in [("missing", "does not exist"), ("empty", "holds no")]:
        summary = screen(tmp_path / source, tmp_path / "report", settings, progress=False)
        assert summary.exit_code == 2
        assert complaint in (summary.error or "")
    assert not (tmp_path / "report").exists()


def test_a_folder_that_is_no_report_is_left_alone(source: Path, tmp_path: Path, settings: ScreenSettings):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").touch()
    summary = screen(source, tmp_path / "thesis", settings, progress=False)
    assert summary.exit_code == 2
    assert "no foveal report" in (summary.error or "")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


def test_a_model_that_does_not_load_is_told_once(source: Path, tmp_path: Path, settings: ScreenSettings):
    (tmp_path / "grader").mkdir()
    summary = screen(source, tmp_path / "report", settings, model=tmp_path / "grader", progress=False)
    assert summary.exit_code == 2
    assert str(tmp_path / "grader") in (summary.error or "")


def test_manifest_tells_eye_and_patient_and_ids_are_hashed(
    source: Path, tmp_path: Path, settings: ScreenSettings
):
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("path,patient,laterality\nphotographs/a.png,P1,L\nphotographs/b.png,P1,R\n")
    screen(manifest, tmp_path / "report", settings, progress=False)
    rows = pq.read_table(tmp_path / "report" / "results.parquet").to_pylist()
    assert [row["laterality"] for row in rows] == ["L", "R"]
    assert rows[0]["patient"] == rows[1]["patient"]
    assert len(rows[0]["patient"]) == 64


def test_a_grader_adds_probabilities_and_uncertainty(
    source: Path, tmp_path: Path, settings: ScreenSettings, grader: Path
):
    screen(source, tmp_path / "report", settings, model=grader, progress=False)
    for row in pq.read_table(tmp_path / "report" / "results.parquet").to_pylist():
        probabilities = [row["probability_healthy"], row["probability_<b>ill</b>"]]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert row["grade"] == ["healthy", "<b>ill</b>"][int(np.argmax(probabilities))]
        entropy = -sum(p * np.log(p) for p in probabilities) / np.log(2)
        assert row["grade_uncertainty"] == pytest.approx(entropy, abs=1e-4)


def test_a_folder_of_nothing_but_bad_files_still_gets_a_report(tmp_path: Path, settings: ScreenSettings):
    (tmp_path / "bad.png").write_text("this is no picture", encoding="utf-8")
    summary = screen(tmp_path / "bad.png", tmp_path / "report", settings, progress=False)
    assert summary.exit_code == 1
    assert "No photograph could be screened" in summary.index.read_text(encoding="utf-8")
    assert pq.read_table(tmp_path / "report" / "results.parquet").num_rows == 0
