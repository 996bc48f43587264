"""Attention joined: importance, reach and patterns of heads, in tables and on one page that opens offline."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.models import swin_transformer
from typer.testing import CliRunner

from foveal.cli import app
from foveal.explanation.attention_analysis import AttentionSettings, analyse_attention, associate
from foveal.explanation.attention_report import write_attention_report
from foveal.explanation.attention_run import analyse_files
from foveal.models import Classifier, ClassifierConfig

IMAGES = torch.rand(6, 3, 32, 48, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
QUICK = AttentionSettings(epochs=1, clusters=3, overlays=2)
VIT = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=(32, 48), num_classes=3, **VIT).eval()


@pytest.fixture(scope="module")
def analysis(vit):
    return analyse_attention(vit, IMAGES, LABELS, QUICK)


@pytest.fixture(scope="module")
def report(analysis, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    names = ["<b>first</b>", *(f"eye {k}" for k in range(5))]
    write_attention_report(analysis, folder, images=IMAGES, names=names, failures=[("torn", "half a file")])
    return folder


def data_of(report):
    page = (report / "attention.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_all_parts_are_of_the_same_heads(analysis):
    assert analysis.rank.shape == (2, 2)
    assert analysis.profiles.strength.shape == (2, 2, 6)
    assert analysis.cluster_of().shape == (2, 2)
    assert len(analysis.heads()) == 4
    assert analysis.rank[analysis.heads()[0]] == analysis.rank.max()
    assert analysis.layer_curve.shape == (3, len(analysis.layer_counts))
    assert analysis.views == ("from the class token", "from all patches")
    assert analysis.overlays.shape == (2, 2, 2, 2, 24)
    assert {"loss_increase", "sensitivity"} <= set(analysis.all_measures)


def test_without_labels_only_what_needs_none_is_told(vit, tmp_path):
    found = analyse_attention(vit, IMAGES, None, QUICK.replace(overlays=0))
    assert found.overlays is None
    assert not {"loss_increase", "accuracy_drop"} & set(found.all_measures)
    assert found.curves["least first"][0] == (0, 1.0)
    page = write_attention_report(found, tmp_path).read_text(encoding="utf-8")
    assert "without labels" in page
    assert "Share of answers that stay" in page
    assert "the images were not handed on" in page


def test_an_association_that_is_there_is_found(analysis):
    rank = torch.linspace(0, 1, 4, dtype=torch.float64).view(2, 2)
    profiles = replace(analysis.profiles, entropy=3 - rank)
    found, _ = associate(rank, profiles, torch.tensor([[0, 0], [1, 1]]), analysis.atlas)
    row = next(each for each in found if each.of == "entropy of attention")
    assert row.statistic == pytest.approx(-1)
    assert row.corrected >= row.p
    assert all(0 <= each.p <= 1 for each in found)
    equal, reasons = associate(torch.ones(2, 2), profiles, torch.zeros(2, 2), analysis.atlas)
    assert equal == ()
    assert reasons["entropy of attention"] == "equal in all heads"


def test_the_folder_holds_tables_arrays_and_a_figure(report, analysis):
    names = {path.name for path in report.iterdir()}
    assert names == {
        "attention.html", "attention.json", "attention.npz", "attention.png", "heads.csv", "failures.csv",
    }  # fmt: skip
    held = json.loads((report / "attention.json").read_text(encoding="utf-8"))
    assert len(held["heads"]) == 4
    assert held["heads"][0]["place"] == 1
    assert set(held["of_classes"]) == {"0", "1", "2"}
    assert held["left_out"] == [{"image": "torn", "reason": "half a file"}]
    assert len((report / "heads.csv").read_text(encoding="utf-8").splitlines()) == 5
    with np.load(report / "attention.npz", allow_pickle=False) as arrays:
        np.testing.assert_allclose(arrays["strength"], analysis.profiles.strength.numpy())
    assert Image.open(report / "attention.png").size[0] > 800


def test_the_page_opens_from_disk_and_asks_for_nothing_else(report):
    page = (report / "attention.html").read_text(encoding="utf-8")
    loaded = re.findall(r"""(?:src|href)=["']?([^"'\s>]+)|url\(([^)]+)\)|(@import|fetch\(|XMLHttp)""", page)
    outside = [a or b or c for a, b, c in loaded if not (a or b or c).startswith("data:")]
    assert set(outside) <= {"heads.csv", "attention.json", "attention.png", "failures.csv"}
    assert "https://" not in page.split('id="data"')[1]
    assert "http://www.w3.org/2000/svg" in page  # a name, not an address that is loaded


def test_names_cannot_break_out_of_the_page(report):
    page = (report / "attention.html").read_text(encoding="utf-8")
    assert "<b>first</b>" not in page
    assert data_of(report)["overlays"]["images"][0]["name"] == "<b>first</b>"


def test_the_page_links_points_to_heads(report, analysis):
    data = data_of(report)
    assert len(data["points"]["x"]) == len(data["points"]["head"]) == 24
    assert max(data["points"]["head"]) == 3
    assert data["top"] == data["order"][0]
    assert data["measures"]["rank"]["values"][data["top"]] == pytest.approx(
        float(analysis.rank.max()), abs=1e-3
    )
    assert len(data["clusters"]) == len(analysis.atlas.names)
    assert [sum(row) for row in data["shares"]] == pytest.approx([1] * 4, abs=1e-3)


def test_every_element_that_the_script_asks_for_is_on_the_page(report):
    page = (report / "attention.html").read_text(encoding="utf-8")
    asked = set(re.findall(r'\$\("([\w-]+)"\)', page))
    assert asked
    assert asked <= set(re.findall(r'id="([\w-]+)"', page))


def test_controls_have_labels(report):
    page = (report / "attention.html").read_text(encoding="utf-8").split('id="data"')[0]
    for control in re.findall(r"<(?:select|input)\b", page):
        assert control
    assert len(re.findall(r"<label", page)) == len(re.findall(r"<(?:select|input)\b", page))
    assert all('aria-label="' in tag for tag in re.findall(r"<(?:canvas|svg)[^>]*>", page))


def test_attention_within_windows_is_analysed_and_laid_over_images(tmp_path):
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, embed_dim=24, depths=(1, 1), num_heads=(1, 2),
        num_classes=3,
    ).eval()  # fmt: skip
    images = torch.rand(3, 3, 56, 56)
    found = analyse_attention(swin, images, None, QUICK)
    assert found.overlays.shape == (2, 2, 2, 1, 14 * 14)
    coarse = found.overlays[0, 1, 0, 0].view(7, 2, 7, 2)  # the second layer has half the side
    assert torch.equal(coarse, coarse[:, :1, :, :1].expand_as(coarse))
    write_attention_report(found, tmp_path, images=images)
    assert data_of(tmp_path)["overlays"]["grid"] == [14, 14]
    assert data_of(tmp_path)["there"] == [True, False, True, True]


def test_windows_whose_places_are_not_told_are_not_laid_over_images(tmp_path):
    swin = swin_transformer.SwinTransformer(
        [4, 4], 24, [1, 1], [1, 2], [7, 7], num_classes=3, stochastic_depth_prob=0
    ).eval()
    images = torch.rand(2, 3, 56, 56)
    found = analyse_attention(swin, images, None, QUICK)
    assert found.overlays is None
    page = write_attention_report(found, tmp_path, images=images).read_text(encoding="utf-8")
    assert "does not tell how its windows lie" in page


def test_one_image_and_models_without_attention_are_refused(vit):
    with pytest.raises(ValueError, match="two at least"):
        analyse_attention(vit, IMAGES[:1])
    with pytest.raises(ValueError, match="has no attention"):
        analyse_attention(timm.create_model("resnet10t").eval(), IMAGES)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    config = ClassifierConfig(
        encoder="timm/vit_tiny_patch16_224",
        encoder_settings={"image_size": 32, **VIT},
        classes=("healthy", "ill"),
        size=32,
    )
    return Classifier(config).save_pretrained(tmp_path / "model")


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    y, x = np.mgrid[:120, :160]
    inside = (np.hypot(y - 60, x - 80) < 54)[..., None]
    for k in range(3):
        random = np.random.default_rng(k)
        image = np.where(inside, 120 + random.integers(0, 90, (120, 160, 3)), 0)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"eye{k}.png")
    (tmp_path / "how.json").write_text(json.dumps({"epochs": 1, "clusters": 2}))
    return folder


def run(tmp_path, saved, *words):
    out = tmp_path / "out"
    found = CliRunner().invoke(
        app, ["attention", str(saved), *words, "--out", str(out), "--config", str(tmp_path / "how.json")]
    )
    return found, out


def test_the_command_writes_a_report(tmp_path, saved, photographs):
    labels = photographs.parent / "labels.csv"
    labels.write_text("path,label\nphotographs/eye0.png,healthy\neye1.png,1\neye2,ill\n")
    result, out = run(tmp_path, saved, str(photographs), "--labels", str(labels))
    assert result.exit_code == 0, result.output
    held = json.loads((out / "attention.json").read_text(encoding="utf-8"))
    assert held["images"] == ["eye0", "eye1", "eye2"]
    assert held["labelled"]
    assert set(held["of_classes"]) == {"0", "1"}


def test_a_bad_photograph_and_one_without_label_are_told_and_the_others_analysed(
    tmp_path, saved, photographs
):
    (photographs / "torn.png").write_bytes((photographs / "eye0.png").read_bytes()[:200])
    labels = photographs / "labels.csv"
    labels.write_text("path,label\neye0.png,healthy\neye1.png,ill\ntorn.png,ill\n")
    result, out = run(tmp_path, saved, str(photographs), "--labels", str(labels))
    assert result.exit_code == 1, result.output
    lines = (out / "failures.csv").read_text(encoding="utf-8")
    assert "torn," in lines
    assert "eye2,no label" in lines
    assert "torn" in (out / "attention.html").read_text(encoding="utf-8")


def test_what_cannot_start_has_status_two(tmp_path, saved, photographs):
    bad = tmp_path / "bad.csv"
    bad.write_text("path,label\nphotographs/eye0.png,healty\n")
    other = tmp_path / "other.csv"
    other.write_text("path,grade\nphotographs/eye0.png,1\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.txt").write_text("mine")
    for words, message in (
        (["--labels", str(bad)], "did you mean 'healthy'"),
        (["--labels", str(other)], "allowed: path and label"),
        (["--ablation", "none"], "Input should be 'zero' or 'mean'"),
        (["--out", str(tmp_path / "elsewhere")], "holds other files"),
    ):
        result = CliRunner().invoke(
            app, ["attention", str(saved), str(photographs), "--out", str(tmp_path / "out"), *words]
        )
        assert result.exit_code == 2, result.output
        assert message in result.output
    result, _ = run(tmp_path, saved, str(photographs / "eye0.png"))
    assert result.exit_code == 2
    assert "two at least" in result.output


def test_models_of_other_kinds_are_refused(tmp_path, photographs):
    config = ClassifierConfig(encoder="timm/resnet10t", classes=("no", "yes"), size=32)
    folder = Classifier(config).save_pretrained(tmp_path / "convolutional")
    with pytest.raises(ValueError, match="has no attention"):
        analyse_files(folder, [photographs], tmp_path / "out")
    with pytest.raises(ValueError, match="allowed: a Classifier of one class an image"):
        analyse_files("landmarks", [photographs], tmp_path / "out")
