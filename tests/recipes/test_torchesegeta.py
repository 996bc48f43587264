"""The recipe of TorchEsegeta: its quick evidence holds, its settings run, its volumes hold vessels."""

import torch

from foveal.explanation.run_settings import ExplainSettings
from foveal.recipes._torchesegeta_networks import VesselNet, vessels_in_noise
from foveal.recipes.evidence import run_evidence
from foveal.recipes.torchesegeta import TorchEsegetaSettings, recipe


def test_quick_evidence_holds():
    report = run_evidence(recipe, "quick")
    assert len(report.findings) >= 14
    assert [finding for finding in report.findings if not finding.holds] == []


def test_settings_are_those_of_a_run():
    run = recipe.build(TorchEsegetaSettings(tile=32, autocast="float16"))
    settings = run.keywords["settings"]
    assert isinstance(settings, ExplainSettings)
    assert settings.tile == 32
    assert len(settings.methods) == 24


def test_volumes_hold_bright_vessels():
    volumes, masks = vessels_in_noise(3)
    assert volumes.shape == masks.shape == (3, 1, 24, 24, 24)
    assert ((masks > 0).float().mean((1, 2, 3, 4)) > 0.005).all()
    assert ((masks > 0).float().mean((1, 2, 3, 4)) < 0.15).all()
    assert volumes[masks > 0].mean() > volumes[masks == 0].mean() + 0.3


def test_the_network_of_vessels_keeps_the_shape_of_volumes():
    network = VesselNet().eval()
    assert network(torch.rand(1, 1, 9, 10, 12)).shape == (1, 1, 9, 10, 12)
