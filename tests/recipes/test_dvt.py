import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.encoders import Encoder, create_encoder
from foveal.encoders.denoised import Denoised
from foveal.explanation.decomposition import DecompositionSettings
from foveal.explanation.denoising_run import load_encoder
from foveal.models.embedder import Embedder
from foveal.recipes.dvt import DvtSettings, recipe

VIT = {"image_size": 64, "patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2}
DOCS = Path(__file__).parents[2] / "docs"


def small(encoder="timm/vit_tiny_patch16_224", **changes):
    few = {"steps": 2, "batch_size": 2, "warmup_fraction": 0.0, "tensorboard": False}
    return DvtSettings(
        encoder=str(encoder),
        encoder_settings=VIT if str(encoder).startswith("timm/") else {},
        image_size=64,
        laptop=True,
        pictures=1,
        decomposition={"views": 4, "steps": 4, "warmup_steps": 1, "batch_size": 32, "levels": 2},
        training=few,
        distillation=few,
        **changes,
    )


@pytest.fixture
def photographs(tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in "abc":
        Image.fromarray(random.integers(0, 255, (80, 100, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def test_a_folder_of_photographs_becomes_a_denoised_encoder_with_pictures(tmp_path, photographs, capsys):
    out = tmp_path / "run"
    encoder = create_encoder("timm/vit_tiny_patch16_224", **VIT).save_pretrained(tmp_path / "encoder")
    recipe.train(small(encoder, distil=True), data=photographs, out=out)
    denoised, student = (Encoder.from_pretrained(out / name) for name in ("model", "student"))
    assert isinstance(denoised, Denoised)
    assert not isinstance(student, Denoised)
    assert denoised(torch.rand(1, 3, 64, 64)).patches.shape == student(torch.rand(1, 3, 64, 64)).patches.shape
    assert len(list((out / "features").glob("*.npy"))) == 3
    assert len(list((out / "pictures").glob("*.png"))) == 1
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["position_explained_variance"]) == {"raw", "denoised", "student"}
    assert "arXiv 2401.02957" in (out / "model" / "README.md").read_text()
    assert "decomposed" in capsys.readouterr().out
    recipe.train(small(encoder, distil=True), data=photographs, out=out)
    assert "kept from before" in capsys.readouterr().out


def test_no_images_and_sides_that_patches_do_not_divide_are_refused(tmp_path, photographs):
    with pytest.raises(ValueError, match="--data"):
        recipe.train(small(), data=None, out=tmp_path)
    with pytest.raises(ValueError, match="resize it"):
        recipe.train(small().replace(image_size=72), data=photographs, out=tmp_path / "run")


def test_the_defaults_are_the_papers_and_build_gives_stage_one():
    paper = recipe.decomposition_of(DvtSettings())
    assert (paper.views, paper.steps, paper.warmup_steps, paper.batch_size) == (768, 25_000, 2500, 2048)
    assert (paper.levels, paper.table_size, paper.max_resolution) == (16, 2**20, 1024)
    assert (paper.residual, paper.sparsity, paper.freeze_at) == (0.1, 0.02, 0.5)
    assert recipe.decomposition_of(small()) == DecompositionSettings.laptop(
        views=4, steps=4, warmup_steps=1, batch_size=32, levels=2
    )
    found = recipe.build(small())(create_encoder("timm/vit_tiny_patch16_224", **VIT), torch.rand(3, 64, 64))
    assert found.clean.shape == (4, 4, 16)


def test_encoders_come_from_names_and_from_saved_models(tmp_path):
    encoder, told = load_encoder("timm/vit_tiny_patch16_224", **VIT)
    assert told == encoder.preprocess
    embedder = Embedder.of(encoder)
    again, same = load_encoder(str(embedder.save_pretrained(tmp_path / "embedder")))
    assert torch.equal(again.backbone.pos_embed, encoder.backbone.pos_embed)
    assert same == told
    saved = encoder.save_pretrained(tmp_path / "encoder")
    assert load_encoder(str(saved))[0].name == encoder.name
    with pytest.raises(ValueError, match="tells its own"):
        load_encoder(str(saved), image_size=32)


def test_the_example_of_the_page_runs():
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "denoising.md").read_text(), flags=re.DOTALL):
        exec(compile(block, "docs/denoising.md", "exec"), {})
