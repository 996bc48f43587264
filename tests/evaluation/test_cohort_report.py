"""What a comparison writes, and how it rounds and speaks."""

import csv
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from cohort_tables import photographs, write
from typer.testing import CliRunner

from foveal import cli
from foveal.evaluation.cohort import RESULT_COLUMNS
from foveal.evaluation.cohort_run import compare
from foveal.evaluation.cohort_text import estimate, interval, methods, p_value, rounded
from foveal.evaluation.settings import CompareSettings

ROOT = Path(__file__).parents[2]


def settings(**changes: object) -> CompareSettings:
    return CompareSettings.model_validate({"group": "label", "resamples": 200, **changes})


@pytest.fixture
def table(tmp_path: Path) -> Path:
    frame = photographs().assign(vessel_endpoints=3.0)
    frame["label"] = frame.label.replace("glaucoma", "$<b>ill</b>$")
    frame.loc[0, "label"] = ""
    return write(frame, tmp_path / "results.csv")


def test_the_folder_holds_tables_figures_and_a_page(table, tmp_path):
    out = tmp_path / "deep" / "out"
    comparison = compare(table, out, settings(covariates=["age", "sex"]), progress=False)
    assert {path.name for path in out.iterdir()} == {
        "comparison.csv",
        "comparison.parquet",
        "comparison.html",
        "left_out.csv",
        "box-plots-01.svg",
        "forest-plot.svg",
    }
    with (out / "comparison.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    stored = pq.read_table(out / "comparison.parquet")
    assert list(rows[0]) == stored.column_names == list(RESULT_COLUMNS)
    assert stored.schema.field("hedges_g").metadata[b"description"].decode() == RESULT_COLUMNS["hedges_g"]
    for row, kept in zip(rows, stored.to_pylist(), strict=True):
        for name, value in kept.items():
            cell = row[name]
            assert cell == value if isinstance(value, str) else (float(cell) if cell else None) == value
    assert float(rows[0]["difference"]) == comparison.table.difference[0]
    for figure in out.glob("*.svg"):
        assert ElementTree.parse(figure).getroot().tag.endswith("svg")


def test_the_page_is_whole_in_itself_and_escapes_what_tables_say(table, tmp_path):
    compare(table, tmp_path / "out", settings(), progress=False)
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "<b>ill" not in page
    assert "$&lt;b&gt;ill" in page
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert all(source.startswith("data:") or (tmp_path / "out" / source).is_file() for source in sources)
    assert "Not a medical device" in page
    assert "000_L" in page
    assert "constant: every patient has 3" in page
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in {"meta", "img", "br", "link"}:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Checker().feed(page)
    assert not open_tags


def test_the_same_seed_gives_the_same_files(table, tmp_path):
    for folder in ("one", "two"):
        compare(table, tmp_path / folder, settings(seed=4), progress=False)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_second_run_leaves_no_sheets_of_the_first(table, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "box-plots-07.svg").touch()
    compare(table, tmp_path / "out", settings(), progress=False)
    assert [path.name for path in (tmp_path / "out").glob("box-plots-*")] == ["box-plots-01.svg"]


def test_a_reference_too_small_to_test_leaves_an_empty_forest(tmp_path):
    frame = photographs()
    frame.loc[frame.patient.isin(["000", "001"]), "label"] = "a rare one"
    comparison = compare(write(frame, tmp_path / "t.csv"), tmp_path / "out", settings(), progress=False)
    assert comparison.cohort.order[0] == "a rare one"
    assert len(comparison.strongest) == 2
    assert ElementTree.parse(tmp_path / "out" / "forest-plot.svg").getroot().tag.endswith("svg")
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "too few patients with a value: 2 in a rare one" in page


def test_methods_tell_what_was_done(table, tmp_path):
    chosen = settings(seed=11, correction="holm", covariates=["age", "sex"])
    text = " ".join(methods(compare(table, tmp_path / "out", chosen, progress=False)))
    assert "averaged over the photographs of each eye and then over the eyes of each of 24 patients" in text
    assert "200 bootstrap resamples" in text
    assert "seed 11" in text
    assert "corrected for 2 biomarkers with Holm's procedure" in text
    assert "on group, age and sex" in text
    assert re.search(r"scipy \d+\.\d+", text)
    alone = write(photographs().drop(columns="patient"), tmp_path / "alone.csv")
    text = " ".join(methods(compare(alone, tmp_path / "out", settings(), progress=False)))
    assert "Patients were not told" in text


def test_numbers_are_as_precise_as_their_intervals():
    assert estimate(-0.01234, -0.0201, -0.0046) == "−0.0123 (−0.0201 to −0.0046)"
    assert estimate(3084.2, 230.1, 8089.4) == "3084 (230 to 8089)"
    assert estimate(1.0, math.nan, math.nan, 0.1) == "1.00"
    assert interval(-0.001, 0.9, 0.1) == "0.00 to 0.90"
    assert rounded(math.nan, 1) == ""
    assert rounded(-math.inf, 1) == "−∞"
    assert rounded(0.0, 0.0) == "0"
    assert [p_value(p) for p in (0.0004, 0.0321, math.nan)] == ["<0.001", "0.032", ""]


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["compare", *map(str, words)])
    return result.exit_code, result.stderr


def test_command_tells_the_strongest_effects_and_where_the_report_is(table, tmp_path):
    words = (
        "--group",
        "label",
        "--reference",
        "healthy",
        "--resamples",
        "200",
        "--columns",
        "vessel_density",
    )
    code, told = run(table, *words, "--out", tmp_path / "out")
    assert code == 0
    assert "24 patients: 12 healthy, 12 $<b>ill</b>$; reference: healthy" in told
    assert "left out: 000_L: label is empty" in told
    assert "Vessel density" in told
    assert str(tmp_path / "out" / "comparison.html") in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--group", "lable"], "did you mean 'label'?"),
        (["--group", "quality"], "one group only"),
        (["--group", "label", "--correction", "sidak"], "'fdr_bh', 'holm', 'bonferroni' or 'none'"),
        (["--group", "label", "--join", "none.csv"], "none.csv does not exist"),
    ],
)
def test_command_ends_with_2_and_one_line_where_the_user_can_mend_it(table, tmp_path, words, message):
    code, told = run(table, *words, "--out", tmp_path / "out")
    assert code == 2
    assert told.startswith("Error: ")
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_documentation_lists_every_column():
    page = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE))
    assert listed == RESULT_COLUMNS


def test_real_masks_that_lost_their_edges_are_told_from_whole_ones(data_root, tmp_path):
    import pandas as pd
    from PIL import Image
    from scipy import ndimage

    from foveal.measurement.eye import Eye
    from foveal.measurement.measure import biomarker_columns, measure_eye
    from foveal.scans.field_of_view import find_field_of_view

    columns = biomarker_columns(("vessel",), names=["density", "fractal_dimension"])
    rows = []
    for index, path in enumerate(sorted((data_root / "CHASE_DB1" / "manual1").glob("*_1stHO.png"))):
        with Image.open(path) as image:
            vessels = np.array(image) > 0
        with Image.open(
            data_root / "CHASE_DB1" / "images" / f"{path.stem.removesuffix('_1stHO')}.jpg"
        ) as image:
            field = find_field_of_view(np.array(image))
        child, thin = path.stem[6:8], int(path.stem[6:8]) % 2
        eroded = ndimage.binary_erosion(vessels) if thin else vessels
        values = measure_eye(Eye(field, vessels=eroded), columns=columns)
        rows.append(
            {"name": path.stem, "patient": child, "laterality": "LR"[index % 2], **values, "thin": thin}
        )
    write(pd.DataFrame(rows), tmp_path / "masks.parquet")
    comparison = compare(tmp_path / "masks.parquet", tmp_path / "out", settings(group="thin"), progress=False)
    found = comparison.table.set_index("biomarker")
    assert comparison.cohort.sizes == {"0": 3, "1": 4}
    assert found.difference_high["vessel_density"] < 0
    assert found.auc["vessel_density"] == 0
