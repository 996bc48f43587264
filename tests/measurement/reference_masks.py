"""The masks on which the reference values in `data/` were computed: drawn trees and published ones."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.morphology import skeletonize
from vessel_shapes import arc, bar, star, tree

from foveal.recipes._pvbm_reference import ReferenceMask

DISCS = Path(__file__).parent / "data" / "discs.csv"


def drawn_masks() -> list[ReferenceMask]:
    """Trees, and shapes that are awkward to walk along, each with a disc at its root."""
    small, large = (200, 10, 60), (350, 10, 90)
    masks = [(f"tree-{seed}", tree(seed), small, 800) for seed in range(12)]
    masks += [
        (f"large-tree-{seed}", tree(seed, size=700, generations=6), large, region)
        for seed, region in ((12, 1400), (13, 1400), (14, 300), (15, 300))
    ]
    first, ragged = tree(0), tree(16)
    noise = np.random.default_rng(17).random(ragged.shape)
    dots = np.zeros((200, 200), bool)
    dots[20::40, 20::40] = True
    ring = arc(60, 7, quarter=False)
    mesh = np.logical_or.reduce(
        [bar((20, at), (280, at), 5) | bar((at, 20), (at, 280), 5) for at in (60, 150, 240)]
    )
    comb = np.logical_or.reduce(
        [bar((150, 10), (150, 290), 3)]
        + [bar((150, 20 * k), (150 + k * (-1) ** k, 20 * k), 3) for k in range(1, 14)]
    )
    masks += [
        ("tree-turned", np.rot90(first).copy(), (389, 200, 60), 800),
        ("tree-mirrored", first[:, ::-1].copy(), (200, 389, 60), 800),
        ("tree-upside-down", first[::-1].copy(), (199, 10, 60), 800),
        ("wide", first[80:330].copy(), (120, 10, 60), 800),
        ("tall", first[:, :250].copy(), small, 800),
        ("cut-by-every-border", tree(18)[90:310, 40:330].copy(), (110, 20, 50), 800),
        ("ragged-tree", ragged ^ (noise < 0.02), small, 800),
        ("two-trees", tree(19) | tree(20)[:, ::-1], small, 800),
        ("centre-lines", skeletonize(tree(21)), small, 800),
        ("three-arms", star(0, 120, 240, width=7), (150, 150, 20), 400),
        ("four-arms", star(10, 100, 190, 280, width=6), (150, 150, 20), 400),
        ("five-arms", star(0, 70, 140, 215, 290, width=5), (150, 150, 20), 400),
        ("fork", star(180, 30, -30, width=9), (150, 50, 30), 400),
        ("bar", bar((150, 20), (150, 280), 11), (150, 30, 40), 400),
        ("tilted-bar", bar((20, 40), (250, 270), 9), (30, 50, 40), 400),
        ("quarter-circle", arc(200, 8), (30, 210, 60), 400),
        ("ring", ring, (150, 90, 30), 400),
        ("ring-with-tail", ring | bar((150, 205), (150, 295), 7), (150, 290, 30), 400),
        ("mesh", mesh, (150, 20, 40), 400),
        ("comb", comb, (150, 10, 40), 400),
        ("square", np.pad(np.ones((160, 160), bool), 20), (100, 20, 30), 400),
        ("dots", dots, (100, 100, 20), 200),
        ("empty", np.zeros((120, 120), bool), (60, 60, 20), 120),
    ]  # fmt: skip
    return [ReferenceMask(*fields) for fields in masks]


def photograph_masks(data_root: Path) -> Iterator[ReferenceMask]:
    """All masks drawn on photographs in CHASE_DB1 (first observer) and LES-AV (all vessels, arteries, veins).

    The discs are circles placed by eye on the photographs.
    """
    with DISCS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        disc = int(row["row"]), int(row["column"]), int(row["radius"])
        region = int(row["region_radius"])
        collection, name = row["photograph"].split("/")
        if collection == "CHASE_DB1":
            path = data_root / collection / "manual1" / f"{name}_1stHO.png"
            yield ReferenceMask(row["photograph"], np.array(Image.open(path)) > 0, disc, region)
            continue
        index = np.array(Image.open(data_root / collection / "av" / f"{name}.png"))
        for kind, mask in (("vessels", index > 0), ("arteries", index % 2 == 1), ("veins", index >= 2)):
            yield ReferenceMask(f"{row['photograph']}-{kind}", mask, disc, region)
