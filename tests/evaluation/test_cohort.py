"""From tables to patients and their comparison: nobody counts twice, nothing is lost unsaid."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cohort_tables import photographs, write
from scipy import stats

from foveal.evaluation.cohort import RESULT_COLUMNS, compare_cohort
from foveal.evaluation.cohort_table import read_cohort
from foveal.evaluation.settings import CompareSettings
from foveal.evaluation.tables import read_table
from foveal.metrics.comparison import compare_two


def settings(**changes: object) -> CompareSettings:
    return CompareSettings.model_validate({"group": "label", "resamples": 300, **changes})


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(photographs(), tmp_path / "results.csv")


def test_biomarkers_are_chosen_and_ids_sizes_and_hashes_are_not(table):
    cohort = read_cohort(table, settings())
    assert [measure.name for measure in cohort.measures] == ["vessel_density", "vessel_crossings"]
    assert [measure.title for measure in cohort.measures] == ["Vessel density", "Crossings"]


def test_a_table_without_biomarkers_is_compared_by_its_numbers(tmp_path):
    frame = photographs().rename(columns={"vessel_density": "thickness", "vessel_crossings": "rnfl"})
    cohort = read_cohort(write(frame, tmp_path / "t.csv"), settings(covariates=["age"]))
    assert [measure.name for measure in cohort.measures] == ["thickness", "rnfl"]


def test_pixels_give_way_to_a_unit_that_no_camera_changes(tmp_path):
    frame = photographs().assign(vessel_length_px=lambda t: t.age * 9.0, vessel_length_field=lambda t: t.age)
    path = write(frame, tmp_path / "t.csv")
    cohort = read_cohort(path, settings())
    assert "vessel_length_px" not in cohort.values
    assert any("vessel_length_px" in note for note in cohort.notes)
    assert list(read_cohort(path, settings(columns=["vessel_length_px"])).values) == ["vessel_length_px"]


def test_csv_and_parquet_give_the_same_cohort(table, tmp_path):
    other = read_cohort(write(photographs(), tmp_path / "results.parquet"), settings())
    pd.testing.assert_frame_equal(read_cohort(table, settings()).values, other.values)


def test_patients_are_means_over_eyes_of_means_over_photographs(tmp_path):
    frame = photographs(6)
    frame = pd.concat([frame, frame.iloc[:1].assign(name="again", vessel_density=0.5)])
    cohort = read_cohort(write(frame, tmp_path / "t.csv"), settings())
    left, right = (0.5 + frame.vessel_density.iloc[0]) / 2, frame.vessel_density.iloc[1]
    assert cohort.values.vessel_density["000"] == pytest.approx((left + right) / 2)
    assert (cohort.rows, len(cohort.values), cohort.averaged) == (13, 6, "eyes")


def test_a_missing_value_leaves_the_other_eye(tmp_path):
    frame = photographs(8)
    frame.loc[0, "vessel_density"] = np.nan
    cohort = read_cohort(write(frame, tmp_path / "t.csv"), settings())
    assert cohort.values.vessel_density["000"] == pytest.approx(frame.vessel_density[1])


def test_the_second_eye_of_a_patient_does_not_shrink_the_interval(tmp_path):
    widths = []
    for eyes in (1, 2):
        path = write(photographs(eyes=eyes), tmp_path / f"{eyes}.csv")
        row = compare_cohort(read_cohort(path, settings()), settings()).table.iloc[0]
        widths.append(row.difference_high - row.difference_low)
        assert (row.group_n, row.reference_n) == (12, 12)
    assert widths[1] == pytest.approx(widths[0])


def test_rows_without_patients_count_alone_and_it_is_said(tmp_path):
    cohort = read_cohort(write(photographs().drop(columns="patient"), tmp_path / "t.csv"), settings())
    assert (len(cohort.values), cohort.averaged) == (48, "nothing")
    assert any("every row counts as a patient" in note for note in cohort.notes)


def test_a_patient_in_two_groups_is_named(tmp_path):
    frame = photographs()
    frame.loc[3, "label"] = "healthy"
    with pytest.raises(ValueError, match="001 in glaucoma and healthy"):
        read_cohort(write(frame, tmp_path / "t.csv"), settings())


def test_photographs_that_were_rejected_are_left_out_by_name(tmp_path):
    frame = photographs()
    frame.loc[0, "quality"] = "reject"
    path = write(frame, tmp_path / "t.csv")
    cohort = read_cohort(path, settings())
    assert cohort.left_out.to_numpy().tolist() == [["t.csv", "000_L", "quality is reject"]]
    assert read_cohort(path, settings(include_rejected=True)).rows == cohort.rows + 1 == 48


@pytest.fixture
def joined(tmp_path: Path) -> tuple[Path, Path]:
    """Two tables; one photograph is not in the second, one of the second is not in the first."""
    frame = photographs()
    clinic = frame[["name", "label", "age", "sex"]].iloc[1:].copy()
    clinic.loc[99] = ["stranger", "healthy", 1, "f"]
    clinic.loc[5, "label"] = ""
    results = write(frame.drop(columns=["label", "age", "sex"]), tmp_path / "results.csv")
    return results, write(clinic, tmp_path / "clinic.csv")


def test_a_join_names_what_finds_no_partner(joined):
    results, clinic = joined
    cohort = read_cohort(results, settings(join=clinic))
    assert set(map(tuple, cohort.left_out.to_numpy())) == {
        ("results.csv", "000_L", "name 000_L is not in clinic.csv"),
        ("clinic.csv", "stranger", "name is not in results.csv"),
        ("results.csv", "002_R", "label is empty"),
    }
    assert cohort.rows == 46


def test_a_join_gives_every_row_its_own_partner(joined, tmp_path):
    results, clinic = joined
    shuffled = write(read_table(clinic).sample(frac=1, random_state=0), tmp_path / "shuffled.csv")
    found = read_cohort(results, settings(join=shuffled)).groups
    truth = photographs().drop_duplicates("patient").set_index("patient").label
    pd.testing.assert_series_equal(found, truth[found.index], check_names=False, check_dtype=False)


def test_keys_that_repeat_or_never_match_are_refused(joined, tmp_path):
    results, clinic = joined
    twice = write(pd.concat([read_table(clinic)] * 2), tmp_path / "twice.csv")
    with pytest.raises(ValueError, match="more than one row of 'name'"):
        read_cohort(results, settings(join=twice))
    strange = write(read_table(clinic).assign(name=lambda t: t.name + ".png"), tmp_path / "strange.csv")
    with pytest.raises(ValueError, match=r"the first ones are 000_L, 000_R .* and 000_R\.png"):
        read_cohort(results, settings(join=strange))


def test_a_group_column_in_both_tables_is_unclear(joined, tmp_path):
    with pytest.raises(ValueError, match="label is a column of both"):
        read_cohort(write(photographs(), tmp_path / "t.csv"), settings(join=joined[1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": "lable"}, "did you mean 'label'?"),
        ({"columns": ["vessel_densty"]}, "did you mean 'vessel_density'?"),
        ({"patient": "patients"}, "did you mean 'patient'?"),
        ({"covariates": ["agee"]}, "did you mean 'age'?"),
        ({"columns": ["sex"]}, "holds 'f' in row 000_L"),
        ({"columns": ["age"], "covariates": ["age"]}, "group, patient or covariate already"),
        ({"group": "quality"}, "one group only, 'good'"),
        ({"group": "name"}, "48 different values"),
        ({"reference": "normal"}, "allowed: glaucoma, healthy"),
        ({"covariates": ["quality"]}, "one value only"),
        ({"covariates": ["name"]}, "have more than one 'name'"),
    ],
)
def test_what_the_table_does_not_hold_is_named(table, changes, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        read_cohort(table, settings(**changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a;b\n1;2\n", "separated by semicolons"),
        ("a,b\n", "no rows"),
        ("a,a\n1,2\n", "'a' more than once"),
        ("", "cannot be read"),
    ],
)
def test_tables_that_cannot_be_used_say_why(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_table(path)


def test_results_are_those_of_the_patients(table):
    comparison = compare_cohort(read_cohort(table, settings()), settings(reference="healthy"))
    assert list(comparison.table) == list(RESULT_COLUMNS)
    means = photographs().groupby(["label", "patient"]).vessel_density.mean()
    cohort = read_cohort(table, settings(reference="healthy"))
    row = compare_cohort(cohort, settings(reference="healthy")).table.iloc[0]
    assert (row.group, row.reference) == ("glaucoma", "healthy")
    assert row.difference == pytest.approx(means["glaucoma"].mean() - means["healthy"].mean())
    tests = compare_two(means["glaucoma"].to_numpy(), means["healthy"].to_numpy())
    assert (row.welch_p, row.mann_whitney_p) == pytest.approx((tests.welch_p, tests.mann_whitney_p))


def test_another_reference_flips_the_signs(table):
    rows = [
        compare_cohort(read_cohort(table, chosen), chosen).table.iloc[0]
        for chosen in (settings(reference="healthy"), settings(reference="glaucoma"))
    ]
    for name in ("difference", "hedges_g", "cliffs_delta", "welch_t"):
        assert rows[0][name] == pytest.approx(-rows[1][name])
    assert rows[0].welch_p == pytest.approx(rows[1].welch_p)


def test_groups_of_patients_that_do_not_differ_are_rarely_told_apart(tmp_path):
    """Eyes of a patient are alike: by eye, far more than one in twenty would differ."""
    runs, found = 60, 0
    for seed in range(runs):
        path = write(photographs(shift=0, seed=seed), tmp_path / "t.parquet")
        chosen = settings(columns=["vessel_density"])
        found += compare_cohort(read_cohort(path, chosen), chosen).table.welch_p[0] < 0.05
    assert found <= stats.binom.ppf(0.999, runs, 0.05)


def test_correction_counts_the_tested_biomarkers_alone(tmp_path):
    frame = photographs().assign(vessel_length_field=np.nan, vessel_endpoints=3)
    chosen = settings(correction="bonferroni")
    table = compare_cohort(read_cohort(write(frame, tmp_path / "t.csv"), chosen), chosen).table
    table = table.set_index("biomarker")
    assert table.not_tested["vessel_length_field"] == "no patient has a value"
    assert table.not_tested["vessel_endpoints"] == "constant: every patient has 3"
    tested = table[table.not_tested == ""]
    assert len(tested) == 2
    assert tested.welch_p_corrected.to_numpy() == pytest.approx(np.minimum(1, 2 * tested.welch_p))


def test_too_few_values_in_a_group_are_told(tmp_path):
    frame = photographs()
    kept = frame.patient.isin(["000", "002"]) | (frame.label == "glaucoma")
    frame["vessel_density"] = frame.vessel_density.where(kept)
    table = compare_cohort(read_cohort(write(frame, tmp_path / "t.csv"), settings()), settings()).table
    assert "2 in healthy" in table.not_tested[0]
    assert (table.group_n[0], table.reference_n[0]) == (2, 12)
    assert table.not_tested[1] == ""


def test_nothing_that_can_be_tested_is_an_error(tmp_path):
    frame = photographs().assign(vessel_density=np.nan, vessel_crossings=np.nan)
    with pytest.raises(ValueError, match="vessel_density: no patient has a value"):
        compare_cohort(read_cohort(write(frame, tmp_path / "t.csv"), settings()), settings())


def test_three_groups_are_compared_together_and_in_pairs(tmp_path):
    frame = photographs(36)
    stage = frame.patient.astype(int) % 3
    frame["label"] = stage.map({0: "0", 1: "1", 2: "10"})
    frame["vessel_density"] += 0.02 * (stage == 2)
    chosen = settings(correction="holm")
    table = compare_cohort(read_cohort(write(frame, tmp_path / "t.csv"), chosen), chosen).table
    density = table[table.biomarker == "vessel_density"]
    assert list(zip(density.reference, density.group, strict=True)) == [("0", "1"), ("0", "10"), ("1", "10")]
    means = [
        values.to_numpy()
        for _, values in frame.groupby(["label", "patient"]).vessel_density.mean().groupby("label")
    ]
    assert density.kruskal_p.to_numpy() == pytest.approx([stats.kruskal(*means).pvalue] * 3)
    assert density.kruskal_p_corrected.iloc[0] == pytest.approx(2 * density.kruskal_p.iloc[0])
    assert density.welch_p_corrected.min() == pytest.approx(6 * density.welch_p.min())


def test_adjusted_differences_leave_out_patients_without_a_covariate(tmp_path):
    frame = photographs()
    frame.loc[frame.patient == "004", "age"] = np.nan
    chosen = settings(covariates=["age", "sex"])
    cohort = read_cohort(write(frame, tmp_path / "t.csv"), chosen)
    assert any("Patients without age" in note and "004" in note for note in cohort.notes)
    row = compare_cohort(cohort, chosen).table.iloc[0]
    assert row.adjusted_n == 23
    assert row.adjusted_difference_low < row.adjusted_difference < row.adjusted_difference_high


def test_a_covariate_that_follows_from_the_group_adjusts_nothing(tmp_path):
    frame = photographs().assign(ward=lambda t: t.label.map({"healthy": "a", "glaucoma": "b"}))
    chosen = settings(covariates=["ward"])
    table = compare_cohort(read_cohort(write(frame, tmp_path / "t.csv"), chosen), chosen).table
    assert "follows from the group" in table.not_adjusted[0]
    assert np.isnan(table.adjusted_p[0])
    assert table.not_tested[0] == ""
