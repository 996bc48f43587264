"""Arteries and veins become one kind a segment, and crossings both."""

from itertools import product

import numpy as np
import pytest
from vessel_shapes import bar

from foveal.measurement.artery_vein import ising_means, separate_arteries_and_veins
from foveal.measurement.graph import vessel_graph
from foveal.measurement.landmarks import Disc
from foveal.measurement.tree import root_graph
from foveal.scans.synthetic import synthesize_eye


def smudged(mask: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Probability 0.8 on a mask, and 0.2 where it is wrong."""
    return np.where(mask, 0.8, 0.05) * ~wrong + np.where(mask, 0.05, 0.8) * wrong


def test_crossing_vessels_keep_their_kinds_and_share_the_crossing():
    artery, vein = bar((150, 20), (150, 280), 5), bar((20, 150), (280, 150), 7)
    vessels = artery | vein
    wrong = np.zeros_like(vessels)
    wrong[:, 200:230] = True  # a stretch of the artery looks like a vein
    found = separate_arteries_and_veins(
        vessels, root_graph(vessel_graph(vessels)), smudged(artery, wrong), smudged(vein & ~artery, wrong)
    )
    assert found.arteries[150, 215]
    assert not found.veins[150, 215]
    assert (found.arteries | found.veins)[vessels].all()
    assert not (found.arteries | found.veins)[~vessels].any()
    assert found.arteries[150, 150]
    assert found.veins[150, 150]
    alone = vessels & ~(artery & vein)
    away = np.hypot(*(np.indices(vessels.shape).T - 150.0).T) > 8
    assert (found.arteries == artery)[alone & away].all()
    assert (np.abs(found.scores) > 0.5).all()


@pytest.mark.parametrize("seed", [3, 7])
def test_most_of_the_wrong_pixels_of_an_eye_are_mended(seed):
    eye = synthesize_eye(seed, size=700)
    artery, vein = np.isin(eye.artery_vein, (1, 3)), np.isin(eye.artery_vein, (2, 3))
    rng = np.random.default_rng(seed)
    wrong = np.kron(rng.random((100, 100)) < 0.25, np.ones((7, 7))).astype(bool)
    p_artery, p_vein = smudged(artery, wrong), smudged(vein & ~artery, wrong)
    tree = root_graph(vessel_graph(eye.vessels), Disc(eye.disc.center, eye.disc.radius))
    found = separate_arteries_and_veins(eye.vessels, tree, p_artery, p_vein)
    known = eye.vessels & (artery != vein)
    before = np.mean((p_artery > p_vein)[known] == artery[known])
    after = np.mean(
        found.arteries[known & (found.arteries != found.veins)]
        == artery[known & (found.arteries != found.veins)]
    )
    assert before < 0.78
    assert after > before + 0.1
    assert found.confidence.max() <= 1


def kinds_of(vessels: np.ndarray, artery: np.ndarray):
    """Found kinds, from the probability of an artery on the vessels."""
    return separate_arteries_and_veins(vessels, root_graph(vessel_graph(vessels)), artery, 1 - artery)


def test_a_branch_without_evidence_takes_the_kind_of_the_vessel_that_it_leaves():
    trunk, branch = bar((150, 20), (150, 280), 9), bar((150, 150), (60, 240), 6)
    for trunk_is_artery in (0.9, 0.1):
        found = kinds_of(trunk | branch, np.where(trunk, trunk_is_artery, 0.5))
        assert found.arteries[90, 210] == (trunk_is_artery > 0.5)
        assert found.confidence[90, 210] < found.confidence[150, 60]


def test_a_vessel_that_only_folds_back_beside_another_takes_less_of_its_kind_than_a_branch():
    known = bar((150, 150), (150, 280), 7)
    trunk = bar((150, 20), (150, 150), 7)
    taken = {}
    for name, end in {"beside": (125, 280), "branch": (60, 240)}.items():
        other = bar((150, 150), end, 7)
        vessels = known | trunk | other
        found = kinds_of(vessels, np.where(known, 0.9, 0.5))
        assert found.arteries[150, 250]
        place = np.rint(np.array([150, 150]) + 0.8 * (np.array(end) - [150, 150])).astype(int)
        taken[name] = found.confidence[tuple(place)]
    assert taken["beside"] < 0.5 * taken["branch"]


def test_two_vessels_side_by_side_that_touch_keep_their_kinds_and_a_wrong_stretch_is_mended():
    artery, vein = bar((150, 20), (150, 280), 8), bar((158, 20), (158, 280), 8)
    vessels = artery | vein
    found = kinds_of(vessels, np.where(artery, 0.9, 0.1))
    assert (found.arteries == artery)[vessels].mean() > 0.95
    probability = np.where(artery, 0.9, 0.1)
    probability[:, 140:160] = 0.1
    found = kinds_of(artery, probability)
    assert found.arteries[artery].all()


def test_belief_propagation_is_exact_on_a_tree():
    rng = np.random.default_rng(0)
    fields = rng.normal(0, 1, 7)
    ends = np.array([(0, 1), (1, 2), (1, 3), (3, 4), (3, 5), (0, 6)])
    couplings = rng.normal(0, 1, len(ends))
    spins = np.array(list(product((-1, 1), repeat=7)))
    weight = np.exp(spins @ fields + (spins[:, ends[:, 0]] * spins[:, ends[:, 1]]) @ couplings)
    assert ising_means(fields, ends, couplings) == pytest.approx(weight @ spins / weight.sum(), abs=1e-6)


def test_a_lone_segment_is_as_sure_as_its_pixels():
    vessels = bar((150, 20), (150, 290), 7)
    found = kinds_of(vessels, np.full(vessels.shape, 0.8))
    assert found.scores == pytest.approx(2 * 0.8 - 1, abs=0.06)  # a little less: it is not very long


def test_without_evidence_there_is_no_confidence_and_without_vessels_no_kind():
    vessels = bar((150, 20), (150, 280), 5)
    flat = np.full(vessels.shape, 0.3)
    found = separate_arteries_and_veins(vessels, root_graph(vessel_graph(vessels)), flat, flat)
    assert found.confidence.max() == pytest.approx(0, abs=1e-6)
    empty = np.zeros((20, 20), bool)
    found = separate_arteries_and_veins(empty, root_graph(vessel_graph(empty)), empty * 0.5, empty * 0.5)
    assert not found.arteries.any()
    assert len(found.scores) == 0
    with pytest.raises(ValueError, match="same shape"):
        separate_arteries_and_veins(empty, root_graph(vessel_graph(vessels)), flat, flat)
