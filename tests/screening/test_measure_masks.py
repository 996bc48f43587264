"""Measuring masks of other tools: tables, what belongs to which mask, failures, going on after a stop."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from foveal import cli
from foveal.measurement.eye import Eye
from foveal.measurement.landmarks import Disc, Landmarks
from foveal.measurement.measure import measure_eye
from foveal.measurement.pvbm3 import measure_pvbm3
from foveal.scans.area_masks import whole_frame
from foveal.scans.synthetic import synthesize_eye
from foveal.scans.vessel_masks import CODINGS
from foveal.screening.landmark_tables import ByName, read_landmarks
from foveal.screening.mask_settings import MeasureSettings
from foveal.screening.mask_sources import MaskSources
from foveal.screening.mask_table import mask_columns
from foveal.screening.measuring import MeasureSummary, measure_masks

EYES = {name: synthesize_eye(seed, size=256) for seed, name in enumerate(("a", "b", "c"))}
ONE = MeasureSettings(workers=1)


def write(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Folder of three masks with artery and vein labels."""
    for name, eye in EYES.items():
        write(tmp_path / "masks" / f"{name}_av.png", eye.artery_vein.astype(np.uint8))
    return tmp_path / "masks"


def measure(source: Path, out: Path, settings: MeasureSettings = ONE, **options: object) -> MeasureSummary:
    return measure_masks(source, out, settings, progress=False, **options)  # type: ignore[arg-type]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_and_parquet_hold_the_same_cells_with_units(masks: Path, tmp_path: Path):
    summary = measure(masks, tmp_path / "table")
    assert (summary.exit_code, summary.measured) == (0, 3)
    rows, table = rows_of(tmp_path / "table.csv"), pq.read_table(tmp_path / "table.parquet")
    columns = mask_columns(("vessel", "artery", "vein"), ONE)
    assert table.column_names == list(rows[0]) == [column.name for column in columns]
    page = (tmp_path / "table.columns.md").read_text(encoding="utf-8")
    for column in columns:
        assert table.schema.field(column.name).metadata[b"unit"].decode() == column.unit
        assert f"| `{column.name}` |" in page
    for row, cells in zip(rows, table.to_pylist(), strict=True):
        assert row == {name: "" if cell is None else str(cell) for name, cell in cells.items()}


def test_every_biomarker_without_a_value_is_told_with_its_reason(masks: Path, tmp_path: Path):
    measure(masks, tmp_path / "table.csv")
    names = [
        column.name for column in mask_columns(("vessel", "artery", "vein"), ONE) if column.group == "Vessels"
    ]
    empty = {
        (row["name"], name) for row in rows_of(tmp_path / "table.csv") for name in names if not row[name]
    }
    missing = rows_of(tmp_path / "table.missing.csv")
    assert {(row["name"], row["column"]) for row in missing} == empty
    assert all(row["reason"] for row in missing)


def test_values_are_those_of_measure_eye(masks: Path, tmp_path: Path):
    eye = EYES["b"]
    labels = eye.artery_vein
    disc = Disc(eye.disc.center, eye.disc.radius)
    table = tmp_path / "landmarks.csv"
    table.write_text(
        "name,disc_row,disc_column,disc_radius,fovea_row,fovea_column,laterality\n"
        f"b.png,{disc.center[0]},{disc.center[1]},{disc.radius},{eye.fovea[0]},{eye.fovea[1]},{eye.laterality}\n"
    )
    settings = MeasureSettings(workers=1, spacing_mm="0.02,0.021", regions="hemifield_superior")
    measure(masks, tmp_path / "table.csv", settings, sources=MaskSources(landmarks=table))
    row = next(row for row in rows_of(tmp_path / "table.csv") if row["name"] == "b_av")
    expected = measure_eye(
        Eye(
            whole_frame(labels.shape),
            labels > 0,
            np.isin(labels, (1, 3)),
            np.isin(labels, (2, 3)),
            Landmarks(disc, eye.fovea, eye.laterality),
            (0.02, 0.021),
        ),
        regions=("hemifield_superior",),
    )
    for name, value in expected.items():
        assert math.isclose(float(row[name] or "nan"), value, rel_tol=1e-5) or math.isnan(value), name
    assert (row["scale_source"], row["field_source"]) == ("given", "whole frame")
    assert float(row["artery_equivalent_knudtson_px"]) > 0


def test_fields_photographs_and_discs_are_found_by_name(masks: Path, tmp_path: Path):
    for name, eye in EYES.items():
        write(tmp_path / "fields" / f"{name}_mask.png", eye.field.mask)
        write(tmp_path / "images" / f"{name}.png", eye.image)
        write(tmp_path / "discs" / f"{name}_OD.png", eye.disc.mask)
    sources = MaskSources(images=tmp_path / "images", fields=tmp_path / "fields", disc=tmp_path / "discs")
    measure(masks, tmp_path / "a.csv", sources=sources)
    measure(masks, tmp_path / "b.csv", sources=MaskSources(images=tmp_path / "images"))
    for row, name in zip(rows_of(tmp_path / "a.csv"), EYES, strict=True):
        eye = EYES[name]
        assert (row["field_source"], row["scale_source"]) == ("mask", "disc")
        assert math.isclose(float(row["disc_row"]), eye.disc.center[0], abs_tol=0.6)
        assert math.isclose(float(row["disc_radius"]), eye.disc.radius, rel_tol=0.03)
        inside = (eye.artery_vein > 0) & eye.field.mask
        assert math.isclose(float(row["vessel_density"]), inside.sum() / eye.field.mask.sum(), rel_tol=1e-5)
        assert row["laplacian_variance"]
    assert {row["field_source"] for row in rows_of(tmp_path / "b.csv")} == {"photograph"}


def test_a_manifest_names_masks_patients_and_landmarks(masks: Path, tmp_path: Path):
    manifest = tmp_path / "cohort.csv"
    manifest.write_text(
        "path,patient,laterality,spacing,disc_row,disc_column,disc_radius,group\n"
        "masks/a_av.png,007,OD,0.01,128,130,20,ill\nmasks/b_av.png,007,left,,,,,well\n"
    )
    measure(manifest, tmp_path / "table.csv")
    first, second = rows_of(tmp_path / "table.csv")
    assert (first["laterality"], second["laterality"]) == ("R", "L")
    assert first["patient"] == second["patient"] != "007"
    assert (first["scale_source"], second["scale_source"]) == ("table", "")
    assert (first["disc_radius"], second["disc_radius"]) == ("20.0", "")


def test_binary_masks_have_no_columns_of_arteries(masks: Path, tmp_path: Path):
    write(masks / "a_av.png", EYES["a"].vessels)
    measure(masks / "a_av.png", tmp_path / "table.csv")
    (row,) = rows_of(tmp_path / "table.csv")
    assert row["coding"] == "binary"
    assert not [name for name in row if name.startswith(("artery", "vein_"))]


def test_a_file_that_fails_is_named_and_does_not_stop_the_others(masks: Path, tmp_path: Path):
    write(masks / "photo.png", EYES["a"].image)
    (masks / "empty.png").touch()
    summary = measure(masks, tmp_path / "table.csv")
    assert (summary.exit_code, summary.measured) == (1, 3)
    failures = {row["name"]: row for row in rows_of(tmp_path / "table.failures.csv")}
    assert set(failures) == {"photo", "empty"}
    assert "looks like a photograph" in failures["photo"]["reason"]
    assert failures["empty"]["reason"] == "is empty (0 bytes)"
    assert len(rows_of(tmp_path / "table.csv")) == 3


def test_a_photograph_or_disc_of_another_size_fails(masks: Path, tmp_path: Path):
    for name, eye in EYES.items():
        image = eye.image if name != "b" else eye.image[:-4]
        write(tmp_path / "images" / f"{name}.png", image)
    summary = measure(masks, tmp_path / "t.csv", sources=MaskSources(images=tmp_path / "images"))
    (failure,) = summary.failures
    assert (failure.name, failure.stage) == ("b_av", "photograph")
    assert "the photograph is 256 x 252 px and the mask 256 x 256 px" in failure.reason


def test_a_landmark_outside_of_the_mask_fails(masks: Path, tmp_path: Path):
    table = tmp_path / "l.csv"
    table.write_text("name,fovea_row,fovea_column\na_av,900,20\nb_av,100,20\nc_av,,\n")
    summary = measure(masks, tmp_path / "t.csv", sources=MaskSources(fovea=table))
    (failure,) = summary.failures
    assert "fovea at row 900, column 20 lies outside of the mask" in failure.reason


def test_a_mask_without_a_field_fails_where_others_have_one(masks: Path, tmp_path: Path):
    write(tmp_path / "fields" / "a.png", EYES["a"].field.mask)
    summary = measure(masks, tmp_path / "t.csv", sources=MaskSources(fields=tmp_path / "fields"))
    assert [failure.name for failure in summary.failures] == ["b_av", "c_av"]
    assert "no field of view in" in summary.failures[0].reason


def test_a_disc_of_no_mask_is_told_and_discs_of_none_stop_the_run(masks: Path, tmp_path: Path):
    discs = tmp_path / "discs"
    write(discs / "x_disc.png", EYES["a"].disc.mask)
    summary = measure(masks, tmp_path / "t.csv", sources=MaskSources(disc=discs))
    assert summary.exit_code == 2
    assert "nothing in it has the name of a mask; masks are called 'a_av', and there is 'x_disc'" in str(
        summary.error
    )
    write(discs / "a_disc.png", EYES["a"].disc.mask)
    result = CliRunner().invoke(
        cli.app,
        ["measure", str(masks), "-o", str(tmp_path / "t.csv"), "--disc", str(discs), "--workers", "1"],
    )
    assert result.exit_code == 0
    assert "--disc has nothing for 2 of 3 masks, e.g. b_av" in result.output
    assert "--disc has entries of no mask: 1, e.g. x_disc" in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["MASKS", "--coding", "rgb"], "'rgb' is no coding; allowed: auto, binary"),
        (["MASKS", "--spacing", "7"], "between 0.0001 and 1"),
        (["MASKS", "--regions", "etdrs_inner_nasl"], "did you mean 'etdrs_inner_nasal'"),
        (["MASKS", "--threshold", "1.5"], "less than 1"),
        (["MASKS", "--fields", "nowhere"], "--fields: nowhere does not exist"),
        (["MASKS", "--landmarks", "MASKS/../l.csv"], "at least one is needed of disc_row"),
        (["MASKS", "-o", "table.xlsx"], "ends in .xlsx; allowed: .csv, .parquet"),
    ],
)
def test_what_cannot_start_says_why_and_ends_with_2(
    masks: Path, tmp_path: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "l.csv").write_text("name,size\na,1\n")
    words = [word.replace("MASKS", str(masks)) for word in words]
    out = [] if "-o" in words else ["-o", "t.csv"]
    result = CliRunner().invoke(cli.app, ["measure", *words, *out])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_a_table_of_somebody_else_is_not_overwritten(masks: Path, tmp_path: Path):
    table = tmp_path / "precious.csv"
    table.write_text("mine")
    summary = measure(masks, table)
    assert (summary.exit_code, table.read_text()) == (2, "mine")
    assert "is not of an earlier run" in str(summary.error)


def test_only_what_changed_is_measured_again(masks: Path, tmp_path: Path):
    out = tmp_path / "t.csv"
    assert measure(masks, out).measured == 3
    before = out.read_bytes()
    assert (measure(masks, out).resumed, out.read_bytes()) == (3, before)
    write(masks / "b_av.png", EYES["c"].artery_vein.astype(np.uint8))
    assert measure(masks, out).measured == 1
    b, c = rows_of(out)[1:]
    assert b["vessel_density"] == c["vessel_density"]
    table = tmp_path / "l.csv"
    table.write_text("name,fovea_row,fovea_column\na_av,100,20\n")
    assert measure(masks, out, sources=MaskSources(fovea=table)).measured == 1
    assert measure(masks, out, MeasureSettings(workers=1, spacing_mm=0.01)).measured == 3
    (masks / "a_av.png").unlink()
    assert measure(masks, out, MeasureSettings(workers=1, spacing_mm=0.01)).resumed == 2
    assert [row["name"] for row in rows_of(out)] == ["b_av", "c_av"]


def test_a_half_written_record_is_measured_again(masks: Path, tmp_path: Path):
    measure(masks, tmp_path / "t.csv")
    journal, table = tmp_path / "t.records.jsonl", (tmp_path / "t.csv").read_bytes()
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-200])
    summary = measure(masks, tmp_path / "t.csv")
    assert (summary.resumed, summary.measured) == (2, 1)
    assert (tmp_path / "t.csv").read_bytes() == table
    assert len([json.loads(line) for line in journal.read_text().splitlines()]) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path):
    for number in range(60):
        write(tmp_path / "masks" / f"{number:02}.png", np.roll(EYES["a"].vessels, number, axis=1))
    out = tmp_path / "t.csv"
    words = ["measure", str(tmp_path / "masks"), "-o", str(out), "--workers", "2"]
    run = subprocess.Popen(
        [sys.executable, "-m", "foveal", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    journal = tmp_path / "t.records.jsonl"
    try:
        deadline = time.monotonic() + 240
        while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
            assert run.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "the run did not start"
            time.sleep(0.01)
    finally:
        run.kill()
        run.wait()
    assert not out.exists()
    summary = measure(tmp_path / "masks", out)
    assert summary.exit_code == 0
    assert 2 <= summary.resumed < 60
    assert summary.measured == 60 - summary.resumed
    assert [row["name"] for row in rows_of(out)] == [f"{number:02}" for number in range(60)]


def test_several_processes_give_the_same_table(masks: Path, tmp_path: Path):
    measure(masks, tmp_path / "one.csv")
    measure(masks, tmp_path / "two.csv", MeasureSettings(workers=2))
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_no_process_imports_torch(masks: Path, tmp_path: Path):
    code = (
        "import sys\nfrom foveal import cli\n"
        "try:\n    cli.app(args=sys.argv[1:])\nexcept SystemExit as end:\n"
        "    heavy = {'torch', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "    sys.exit(f'imported {heavy}' if heavy else end.code)"
    )
    words = ["measure", str(masks), "-o", str(tmp_path / "t.csv"), "--workers", "1"]
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_overlays_are_drawn_and_drawn_again_where_missing(masks: Path, tmp_path: Path):
    overlays = tmp_path / "overlays"
    measure(masks, tmp_path / "t.csv", overlays=overlays)
    assert sorted(path.name for path in overlays.iterdir()) == ["a_av.jpg", "b_av.jpg", "c_av.jpg"]
    picture = np.asarray(Image.open(overlays / "a_av.jpg")).astype(int)
    assert (picture[..., 0] - picture[..., 2] > 60).any(), "arteries are drawn in red"
    assert (picture[..., 2] - picture[..., 0] > 60).any(), "veins are drawn in blue"
    (overlays / "b_av.jpg").unlink()
    assert measure(masks, tmp_path / "t.csv", overlays=overlays).measured == 1
    assert (overlays / "b_av.jpg").exists()


def test_compat_adds_the_measures_of_pvbm(masks: Path, tmp_path: Path):
    measure(masks, tmp_path / "t.csv", MeasureSettings(workers=1, compat="pvbm3"))
    row = rows_of(tmp_path / "t.csv")[0]
    arteries = np.isin(EYES["a"].artery_vein, (1, 3))
    for name, value in measure_pvbm3(arteries, disc=None, kind="artery").items():
        cell = row[f"artery_pvbm3_{name}"]
        assert float(cell) == value if cell else math.isnan(value)
    assert not [name for name in row if name.startswith("vessel_pvbm3_equivalent")]


def test_masks_of_a_foveal_report_are_read_in_its_own_coding(masks: Path, tmp_path: Path):
    report = tmp_path / "report"
    shutil.copytree(masks, report / "masks")
    measure(report / "masks", tmp_path / "other.csv")
    (report / "report.json").write_text("{}")
    measure(report / "masks", tmp_path / "own.csv")
    other, own = (rows_of(tmp_path / f"{name}.csv")[0] for name in ("other", "own"))
    assert (other["coding"], own["coding"]) == ("av-labels", "av-foveal")
    assert float(own["artery_density"]) < float(other["artery_density"])


def test_names_that_say_what_a_file_shows_belong_together():
    found = ByName(
        [("21_training_mask", 1), ("22_training_mask", 2), ("Image_01L_mask", 3), ("Image_01R", 4)]
    )
    assert [found.find(name) for name in ("21_manual1", "image_01l_1stHO", "Image_01R_av", "23", "2")] == [
        1,
        3,
        4,
        None,
        None,
    ]
    assert found.unused == ["22_training_mask"]
    with pytest.raises(ValueError, match="2 fit the name 'x_av' equally well"):
        ByName([("x_disc", 1), ("x_mask", 2)]).find("x_av")


def test_left_and_right_eyes_of_one_patient_are_never_mixed_up():
    found = ByName([("p1_left_disc", "left"), ("p1_right_disc", "right"), ("p2_OS_OD", "os")])
    assert found.find("p1_left") == "left"
    assert found.find("p1_right_av") == "right"
    assert found.find("p1") is None
    assert found.find("p2_OS") == "os"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,disc_row,disc_column,disc_radius\na,1,2,\n", "row 1 has no disc_radius"),
        ("name,disc_row,disc_column,disc_radius\na,1,2,-3\n", "row 1: a disc needs"),
        ("name,fovea_row,fovea_column\na,x,2\n", "holds 'x'"),
        ("name,laterality\na,both\n", "laterality is 'both'"),
        ("name,spacing\na,7\n", "between 0.0001 and 1"),
    ],
)
def test_wrong_cells_of_landmarks_are_named(tmp_path: Path, text: str, said: str):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_landmarks(tmp_path / "l.csv")


def test_a_table_of_foveas_as_vascx_writes_it_is_read(tmp_path: Path):
    (tmp_path / "fovea.csv").write_text(",x_fovea,y_fovea\nIM1,30.5,20\n")
    known = read_landmarks(tmp_path / "fovea.csv").find("IM1")
    assert known is not None
    assert known.fovea == (20, 30.5)


def test_the_documentation_names_every_coding_and_option():
    page = (Path(__file__).parents[2] / "docs" / "measure.md").read_text(encoding="utf-8")
    assert all(f"| `{coding}` |" in page for coding in CODINGS)
    command = typer.main.get_command(cli.app).commands["measure"]  # type: ignore[attr-defined]
    options = {option.opts[0] for option in command.params if option.name not in ("masks", "workers", "help")}
    assert all(option in page for option in options)
