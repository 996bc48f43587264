"""PACE's pictures and files: the nearest patches are those, and a folder of images is enough."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.explanation import explain
from foveal.explanation.pace import ConceptModel, PaceSettings
from foveal.explanation.pace_files import ImageBatches, concept_table, fit_pace_files
from foveal.explanation.pace_fitting import fit_pace
from foveal.explanation.pace_pictures import concept_sheet_png, image_concepts_png, nearest_patches
from foveal.explanation.run_settings import MethodChoice
from foveal.explanation.subjects import tensor_case
from foveal.models.classifier import Classifier, ClassifierConfig

FEW = {"concepts": 3, "dimensions": 4, "batch_size": 4}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    vit = {"image_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return Classifier(
        ClassifierConfig(
            encoder="timm/vit_tiny_patch16_224", encoder_settings=vit, classes=("well", "ill"), size=32
        )
    ).eval()


IMAGES = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pace(model):
    return fit_pace(model, IMAGES, **FEW, class_names=("well", "ill"))


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize("rank", ["density", "responsibility"])
def test_the_nearest_patches_are_the_best_of_all_in_any_batches(pace, rank):
    found = nearest_patches(pace, IMAGES, count=5, rank=rank)
    parts = nearest_patches(pace, IMAGES.split(3), count=5, rank=rank)
    torch.testing.assert_close(found.scores, parts.scores)
    phi = pace.explain(IMAGES).maps.flatten(2)
    if rank == "responsibility":
        torch.testing.assert_close(found.scores, phi.movedim(1, 0).flatten(1).topk(5, dim=1).values)
    else:
        for concept in range(3):
            for image, cell in zip(found.images[concept], found.cells[concept], strict=True):
                assert image < 0 or phi[image, :, cell].argmax() == concept
    assert (found.scores.diff(dim=1).nan_to_num(0) <= 0).all()


def test_crops_are_the_patches_with_their_surroundings(pace):
    found = nearest_patches(pace, IMAGES, count=1, around=0)
    wide = nearest_patches(pace, IMAGES, count=1, around=1)
    assert wide.crops.shape == (3, 1, 3, 24, 24)
    for concept in range(3):
        image, cell = int(found.images[concept, 0]), int(found.cells[concept, 0])
        if image < 0:
            continue
        row, column = cell // 4, cell % 4
        wanted = IMAGES[image, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert torch.equal(found.crops[concept, 0], wanted)
        assert torch.equal(wide.crops[concept, 0, :, 8:16, 8:16], wanted)


def test_patches_of_volumes_are_seen_in_their_middle_slice():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv3d(1, 8, 4, stride=4), torch.nn.Flatten(), torch.nn.Linear(256, 2)
    )
    volumes = torch.rand(4, 1, 8, 16, 16)
    fitted = fit_pace(model.eval(), volumes, concepts=2, dimensions=3, layer="0", batch_size=2)
    found = nearest_patches(fitted, volumes, count=2, around=0)
    image, cell = int(found.images[0, 0]), int(found.cells[0, 0])
    level, row, column = cell // 16, cell // 4 % 4, cell % 4
    wanted = volumes[image, :, 4 * level + 2, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
    assert torch.equal(found.crops[0, 0], wanted)


def test_the_sheet_has_a_row_for_each_concept(pace):
    nearest = nearest_patches(pace, IMAGES, count=4)
    whole = pixels_of(concept_sheet_png(pace.fitted, nearest))
    one = pixels_of(concept_sheet_png(pace.fitted, nearest, concepts=[2]))
    assert whole.shape[0] == pytest.approx(3 * one.shape[0], abs=3)
    assert one.max() > 150


def test_an_image_is_shown_beside_its_concepts(pace):
    assert pixels_of(image_concepts_png(pace, IMAGES[:1], count=2)).max() > 150
    with pytest.raises(ValueError, match="allowed: one"):
        image_concepts_png(pace, IMAGES)


def test_what_cannot_be_shown_is_refused(pace):
    with pytest.raises(ValueError, match="no images"):
        nearest_patches(pace, [])
    with pytest.raises(ValueError, match="did you mean 'density'"):
        nearest_patches(pace, IMAGES, rank="densty")


def test_the_table_tells_share_and_eta_of_each_concept(pace):
    rows = list(csv.DictReader(io.StringIO(concept_table(pace.fitted))))
    assert [int(row["concept"]) for row in rows] == pace.fitted.order()
    assert sum(float(row["share_of_attention"]) for row in rows) == pytest.approx(1, abs=1e-4)
    assert all(float(row["eta_well"]) == pytest.approx(-float(row["eta_ill"]), abs=1e-5) for row in rows)


def test_a_folder_of_photographs_is_enough(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    random = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64] - 31.5
    for number in range(5):
        eye = np.hypot(x, y)[..., None] < 30
        picture = np.where(eye, random.integers(60, 255, (64, 64, 3)), 0).astype(np.uint8)
        Image.fromarray(picture).save(photographs / f"{number}.png")
    (photographs / "broken.png").write_bytes(b"nothing")
    out = tmp_path / "concepts"
    with pytest.warns(UserWarning, match="broken.* is left out"):
        done = fit_pace_files(tmp_path / "model", photographs, out, PaceSettings(**FEW))
    fitted, told = done.pace, done.told()
    assert told[0].startswith("5 images")
    assert [line.split(":")[0] for line in told[1:3]] == ["for well", "for ill"]
    assert "broken" in told[3]
    assert str(out) in told[4]
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "concepts.csv", "concepts.png", "config.json", "model.safetensors",
    ]  # fmt: skip
    assert ConceptModel.from_pretrained(out).config.class_names == ("well", "ill")
    wanted = explain(fitted.model, IMAGES, 1, method="pace", trained=fitted)
    assert torch.equal(explain(fitted.model, IMAGES, 1, method="pace", trained=out), wanted)
    MethodChoice(name="pace", options={"trained": str(out)})  # as `foveal explain --config` takes it


def test_batches_are_the_same_each_time_and_leave_out_what_cannot_be_read(model):
    cases = [tensor_case(str(number), IMAGES[number : number + 1]) for number in range(5)]
    batches = ImageBatches(cases, model, batch_size=2, seed=0)
    first, second = list(batches), list(batches)
    assert [len(batch) for batch in first] == [2, 2, 1]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(torch.cat(first), IMAGES[:5])
    torch.testing.assert_close(torch.cat(first).sum(0), IMAGES[:5].sum(0))
