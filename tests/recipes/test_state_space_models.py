"""The catalogue of state-space models: schema, filters, and its page, which FOVEAL_WRITE_DOCS=1 writes."""

import os
import re
from pathlib import Path

import pytest

from foveal.blocks.scan_routes import routes_of
from foveal.recipes.state_space_models import StateSpaceModel, catalogue, models_page, read_catalogue

PAGE = Path(__file__).parents[2] / "docs" / "state-space-models.md"


def test_every_model_of_the_file_fits_the_schema_and_its_scans_have_routes():
    models = catalogue()
    assert len(models) >= 60
    for model in models:
        for dimension in set(model.dimensions or ()) & {1, 2, 3}:
            if model.scan:
                assert len(routes_of(model.scan, *(4,) * dimension).order) >= 1


def test_filters_keep_what_fits_all_of_them():
    found = {model.name for model in catalogue(task="segmentation", modality="MRI", dimension=3)}
    assert {"SegMamba", "U-Mamba Bot", "nnMamba"} <= found
    assert "VM-UNet" not in found
    assert {model.name for model in catalogue(task="registration")} == {"MambaMorph", "VMambaMorph"}


def test_unknown_filters_are_refused():
    with pytest.raises(ValueError, match="did you mean 'segmentation'"):
        catalogue(task="segmentatoin")
    with pytest.raises(ValueError, match="unknown modality"):
        catalogue(modality="sonar")
    with pytest.raises(ValueError, match="dimension is 4"):
        catalogue(dimension=4)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sacn": ["row"]}, "did you mean 'scan'"),
        ({"scan": ["hilbrt"]}, "did you mean 'hilbert'"),
        ({"tasks": ["guessing"]}, "tasks"),
        ({"tasks": []}, "tasks"),
        ({"place": ["attic"]}, "place"),
        ({"dimensions": [4]}, "dimensions"),
        ({"network": "vm-unit"}, "did you mean 'vm-unet'"),
        ({"encoder": "vimm"}, "did you mean 'vim'"),
        ({"recipe": "vimm"}, "unknown recipe"),
        ({"code": "no link"}, "code"),
        ({"paper": "Nature"}, "paper"),
    ],
)
def test_wrong_entries_are_refused(change: dict, complaint: str):
    entry = {"name": "Toy", "paper": "2401.00001", "tasks": ["segmentation"]}
    assert StateSpaceModel.model_validate(entry).scan is None
    with pytest.raises(ValueError, match=complaint):
        StateSpaceModel.model_validate(entry | change)


def test_files_that_are_no_catalogue_are_refused(tmp_path: Path):
    path = tmp_path / "models.yaml"
    path.write_text("name: Toy\n")
    with pytest.raises(ValueError, match="allowed: a list of models"):
        read_catalogue(path)
    path.write_text("- &a {name: Toy, paper: '2401.00001', tasks: [segmentation]}\n- *a\n")
    with pytest.raises(ValueError, match="more than one entry of Toy"):
        read_catalogue(path)


def test_page_is_up_to_date():
    page = models_page()
    if os.environ.get("FOVEAL_WRITE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page, (
        "write it anew: FOVEAL_WRITE_DOCS=1 pytest tests/recipes/test_state_space_models.py"
    )


def test_examples_of_the_page_run():
    for block in re.findall(r"```python\n(.*?)```", models_page(), flags=re.DOTALL):
        exec(compile(block, "docs/state-space-models.md", "exec"), {})
