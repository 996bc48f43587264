"""The PVBM recipe: its quick evidence, its table in both modes, and that there is nothing to train."""

import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from foveal.measurement.landmarks import Disc
from foveal.measurement.pvbm3 import PVBM3_FAMILIES, measure_pvbm3
from foveal.recipes._pvbm_reference import REFERENCE, drawn_masks, kept_rows
from foveal.recipes._pvbm_shapes import ORIENTATIONS, Y_DISC, Tree, drawn_y, segment
from foveal.recipes.base import Finding
from foveal.recipes.evidence import run_evidence
from foveal.recipes.pvbm import PvbmSettings, recipe


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    return run_evidence(recipe, "quick").findings


@pytest.mark.parametrize(
    "word", ["tortuosity", "angle", "turns", "doubled", "D0", "widths", "equivalents", "noise", "dilated"]
)
def test_quick_evidence_speaks_of(word: str, findings: list[Finding]) -> None:
    assert any(word in finding.claim for finding in findings)


def test_exact_mode_is_the_table_of_the_biomarkers() -> None:
    mask = drawn_y()
    table = recipe.build(PvbmSettings())(mask, arteries=mask, disc=Y_DISC)
    assert table["vessel_branch_points"] == 1
    assert table["artery_length_px"] == pytest.approx(460, abs=10)
    assert not [name for name in table if name.startswith("vein")]


def test_regions_are_measured_where_they_are_asked_for() -> None:
    measure = recipe.build(PvbmSettings(regions=("hemifield_superior",)))
    table = measure(drawn_y(), disc=Y_DISC)
    assert table["vessel_branch_points_hemifield_superior"] <= 1


def test_pvbm3_mode_measures_each_kind_by_itself() -> None:
    mask, nothing = drawn_y(), np.zeros((512, 512), bool)
    table = recipe.build(PvbmSettings(mode="pvbm3", rotations=1))(arteries=mask, veins=nothing, disc=Y_DISC)
    alone = measure_pvbm3(mask, disc=Y_DISC, kind="artery", rotations=1)
    assert {name.split("_")[0] for name in table} == {"vessel", "artery", "vein"}
    for name in (name for names in PVBM3_FAMILIES.values() for name in names):
        assert table[f"artery_{name}"] == pytest.approx(alone[name], nan_ok=True)
    assert table["vein_equivalent_knudtson"] == -1
    assert table["vessel_area"] == table["artery_area"]


@pytest.mark.parametrize("mode", ["exact", "pvbm3"])
def test_a_disc_may_be_a_mask(mode: str) -> None:
    rows, columns = np.ogrid[:512, :512]
    disc = (rows - 256) ** 2 + (columns - 80) ** 2 <= 40**2
    measure = recipe.build(PvbmSettings(mode=mode, families=("geometry",)))
    of_mask, of_circle = measure(drawn_y(), disc=disc), measure(drawn_y(), disc=Y_DISC)
    name = "vessel_length_px" if mode == "exact" else "vessel_length"
    assert of_mask[name] == pytest.approx(of_circle[name], rel=5e-3)


def test_measuring_nothing_is_an_error() -> None:
    measure = recipe.build(PvbmSettings())
    with pytest.raises(ValueError, match="vessels, arteries and veins are None"):
        measure()
    with pytest.raises(ValueError, match="bool array"):
        measure(np.zeros((8, 8)))
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        measure(np.zeros((8, 8, 3), bool))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"occupancy": (0.9, 0.1)}, "ascending"),
        ({"mode": "pvbm3", "regions": ("ellipse",)}, "mode 'pvbm3' has none"),
        ({"rotations": 0}, "rotations"),
        ({"mod": "exact"}, "did you mean 'mode'"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PvbmSettings.model_validate(settings)


def test_training_says_that_there_is_nothing_to_train() -> None:
    command = [sys.executable, "-m", "foveal", "train", "pvbm", "--out", "unused"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "recipe 'pvbm' has nothing to train; see `foveal verify pvbm`" in ran.stderr


def test_kept_values_are_of_the_masks_that_are_drawn_today() -> None:
    rows = kept_rows(REFERENCE)
    digests = {reference.name: reference.digest for reference in drawn_masks()}
    assert len(digests) >= 20
    assert {name: row["digest"] for name, row in rows.items()} == digests


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_turned_tree_has_its_disc_where_it_was(orientation: tuple[int, bool]) -> None:
    mask = np.zeros((40, 60), bool)
    mask[7, 12] = True
    turned = Tree("dot", mask, "artery", Disc((7.0, 12.0), 3.0)).turned(*orientation)
    assert np.argwhere(turned.mask).tolist() == [list(turned.disc.center)]


def test_segment_has_its_width() -> None:
    mask = segment(0, 8)
    assert set(np.unique(mask[:, 100:200].sum(axis=0))) == {8}


def test_a_missing_table_is_named_by_its_place_in_the_repository() -> None:
    missing = REFERENCE.with_name("nothing.csv")
    with pytest.raises(FileNotFoundError, match=r"^docs.evidence.nothing\.csv is missing"):
        kept_rows(missing)
