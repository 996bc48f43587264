import numpy as np
import pytest
import torch
from torch import Tensor

from foveal.evaluation.robustness import robustness_report
from foveal.metrics.discrimination import discrimination
from foveal.scans.corruptions import CORRUPTIONS, corrupt

NAMES = ["gaussian_noise", "brightness_up", "contrast_down"]


def batches(channels: int = 3) -> list[dict[str, Tensor]]:
    """Squares of two brightnesses, in two batches."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 1, 0, 1, 1])
    images = (
        0.3 + 0.3 * labels[:, None, None, None] + 0.1 * torch.rand(6, channels, 16, 16, generator=generator)
    )
    return [{"images": images[part], "labels": labels[part]} for part in (slice(0, 4), slice(4, 6))]


def bright(images: Tensor) -> Tensor:
    """Whether the mean is above one half, as two logits."""
    mean = images.mean(dim=(1, 2, 3)) - 0.5
    return torch.stack([-mean, mean], dim=1)


def first_class(images: Tensor) -> Tensor:
    return torch.tensor([[1.0, 0.0]]).expand(len(images), 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_report_is_what_a_hand_computation_gives(channels: int) -> None:
    report = robustness_report(bright, batches(channels), NAMES, seed=7)
    images = torch.cat([batch["images"] for batch in batches(channels)])
    labels = torch.cat([batch["labels"] for batch in batches(channels)]).numpy()
    assert report.clean == 0
    for name in NAMES:
        for severity, error in enumerate(report.errors[name], start=1):
            answers = []
            for place, image in enumerate(images):
                pixels = (image * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy()
                pixels = pixels[..., 0] if channels == 1 else pixels
                answers.append(corrupt(pixels, name, severity, seed=7 + place).mean() / 255 > 0.5)
            missed = [np.mean(np.array(answers)[labels == c] != c) for c in (0, 1)]
            assert error == pytest.approx(np.mean(missed))
    assert report.errors["brightness_up"][-1] == 0.5
    assert report.mean_error == pytest.approx(np.mean([report.errors[name] for name in NAMES]))


def test_a_constant_answer_never_falls() -> None:
    report = robustness_report(first_class, batches(), NAMES, reference=bright)
    assert report.clean == 0.5
    assert report.drop == 0
    assert report.table.loc["brightness_up", "relative_error"] == 0
    assert np.isnan(
        report.table.loc["gaussian_noise", "relative_error"]
    )  # the reference does not fall either


def test_a_model_beside_itself_has_ratios_of_one() -> None:
    itself = robustness_report(bright, batches(), ["brightness_up"], reference=bright)
    assert itself.table.loc["mean", "relative_error"] == 1
    assert itself.table.loc["brightness_up", "error_ratio"] == 1
    kept = robustness_report(bright, batches(), ["brightness_up"], reference=itself.reference)
    assert kept.table.equals(itself.table)
    assert list(itself.table.columns[:6]) == ["kind", *(f"severity_{s}" for s in range(1, 6))]


def test_several_findings_are_answered_by_sigmoids() -> None:
    data = [
        {"images": torch.full((4, 3, 8, 8), 0.5), "labels": torch.tensor([[1, 1], [1, 1], [0, 0], [0, 0]])}
    ]
    report = robustness_report(lambda images: torch.ones(len(images), 2), data, ["gamma"], severities=(1,))
    assert report.clean == 0.5  # both findings said of all: right for yes, wrong for no


def test_labels_out_of_range_and_wrong_channels_are_refused() -> None:
    (first, _), many = batches(), batches(3)
    with pytest.raises(ValueError, match="labels span 0 to 2"):
        robustness_report(bright, [{**first, "labels": torch.tensor([0, 1, 2, 1])}], NAMES)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        robustness_report(bright, [{**first, "images": torch.rand(4, 4, 8, 8)}], NAMES)
    with pytest.raises(ValueError, match="at least one batch"):
        robustness_report(bright, [], NAMES)
    with pytest.raises(ValueError, match="did you mean 'gaussian_noise'"):
        robustness_report(bright, many, ["gausian_noise"])
    report = robustness_report(bright, many, NAMES, severities=(1, 2))
    with pytest.raises(ValueError, match="other corruptions or severities"):
        robustness_report(bright, many, NAMES, reference=report)


def test_auc_of_a_single_class_is_not_a_number() -> None:
    assert np.isnan(discrimination(np.array([[0.4, 0.6], [0.1, 0.9]]), np.array([1, 1])).auc)


def test_all_corruptions_are_measured_by_default() -> None:
    report = robustness_report(bright, batches()[:1], severities=(5,))
    assert list(report.errors) == list(CORRUPTIONS)
