import numpy as np
import pytest
from PIL import Image

from foveal.scans.structure_datasets import (
    LES_AV_TRAINING,
    iterate_idrid,
    iterate_without_lesions,
    read_les_av_kinds,
    synthetic_case,
    synthetic_eyes,
)


def save_photograph(path, size=(90, 120)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)


def test_les_av_is_read_by_index_and_its_uncertain_vessels_are_not_valid(tmp_path):
    save_photograph(tmp_path / "images" / "7.png")
    index = np.zeros((90, 120), np.uint8)
    index[10:20], index[30:40], index[50:60] = 1, 2, 3
    picture = Image.fromarray(index).convert("P")
    picture.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 200, 9, 9, 9])
    (tmp_path / "av").mkdir()
    picture.save(tmp_path / "av" / "7.png")
    (case,) = read_les_av_kinds(tmp_path)
    np.testing.assert_array_equal(case.masks, [index == 1, index == 2])
    np.testing.assert_array_equal(case.valid, [index != 3] * 2)
    assert case.patient == "LES-AV/7"
    (case,) = read_les_av_kinds(tmp_path, ("artery_or_vein",), names={"7"})
    np.testing.assert_array_equal(case.masks, [index == 1])
    np.testing.assert_array_equal(case.valid, [np.isin(index, (1, 2))])
    assert not read_les_av_kinds(tmp_path, names={"8"})
    with pytest.raises(ValueError, match="structure 'disc' is not known"):
        read_les_av_kinds(tmp_path, ("disc",))


def test_idrid_lesions_without_a_file_are_absent_and_other_structures_unknown(tmp_path):
    save_photograph(tmp_path / "images" / "IDRiD_01.jpg")
    (tmp_path / "HE").mkdir()
    mask = np.zeros((90, 120), bool)
    mask[5:9, 5:9] = True
    Image.fromarray(mask).save(tmp_path / "HE" / "IDRiD_01_HE.png")
    (case,) = iterate_idrid(tmp_path, ("haemorrhages", "soft_exudates", "fovea"))
    np.testing.assert_array_equal(case.masks[0], mask)
    assert not case.masks[1:].any()
    assert case.valid[:2].all()
    assert not case.valid[2].any()


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"images holds no file \*\.png"):
        read_les_av_kinds(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"images holds no file \*\.jpg"):
        list(iterate_idrid(tmp_path, ("disc",)))


def test_synthetic_case_has_the_masks_of_the_eye():
    eye = next(synthetic_eyes(1, seed=1, size=300))
    case = synthetic_case(eye, "one", ("disc", "fovea", "vein", "haemorrhages"))
    np.testing.assert_array_equal(case.masks[0], eye.disc.mask)
    np.testing.assert_array_equal(case.masks[3], eye.lesions["haemorrhages"])
    assert case.valid.all()
    kinds = synthetic_case(eye, "one", ("artery_or_vein",))
    np.testing.assert_array_equal(kinds.valid[0], np.isin(eye.artery_vein, (1, 2)))
    np.testing.assert_array_equal(kinds.masks[0] & kinds.valid[0], eye.artery_vein == 1)
    spot = np.argwhere(case.masks[1])
    if len(spot):
        assert np.hypot(*(spot - eye.fovea).T).max() <= 0.6 * eye.disc.radius
    told = "structure 'macula' is not known; known are artery, vein, artery_or_vein"
    with pytest.raises(ValueError, match=told):
        synthetic_case(eye, "one", ("macula",))


def test_photographs_without_lesions_have_empty_masks_that_are_to_be_trusted(tmp_path):
    grading = tmp_path / "IDRiD" / "grading"
    for name in ("IDRiD_001", "IDRiD_002"):
        save_photograph(grading / "images" / f"{name}.jpg")
    (grading / "labels.csv").write_text("image_name,retinopathy_grade\nIDRiD_001,0\nIDRiD_002,3\n")
    save_photograph(tmp_path / "CHASE_DB1" / "images" / "Image_01L.jpg")
    for name in LES_AV_TRAINING:
        save_photograph(tmp_path / "LES-AV" / "images" / f"{name}.png")
    cases = list(iterate_without_lesions(tmp_path, ("haemorrhages", "hard_exudates")))
    assert [case.patient for case in cases[:2]] == ["IDRiD-grading/IDRiD_001", "CHASE_DB1/Image_01L"]
    assert {case.dataset for case in cases[2:]} == {"LES-AV"}
    assert len(cases) == 2 + len(LES_AV_TRAINING)
    for case in cases:
        assert not case.masks.any()
        assert case.valid.all()
