"""Patterns of attention: collected in bounded memory, coded, clustered and named."""

import pytest
import timm
import torch
from sklearn.metrics import adjusted_rand_score

from foveal.blocks.attention_taps import LayerAttention, attention_of, attention_tapped
from foveal.explanation.attention_patterns import (
    TRAITS,
    collect_patterns,
    patterns_of_attention,
    pooled,
)
from foveal.explanation.clustering import hdbscan, k_means
from foveal.explanation.pattern_atlas import name_of, pattern_atlas
from foveal.explanation.pattern_autoencoder import PatternAutoencoder
from foveal.recipes._attention_families import families, family_samples

IMAGES = torch.rand(6, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    options = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, **options).eval()


@pytest.fixture(scope="module")
def atlas():
    return pattern_atlas(family_samples(48), clusters=6)


def one(among):
    """Attention (n, n) of one head in one image of 4 x 6 patches."""
    return patterns_of_attention([LayerAttention("attn", among.expand(1, 1, -1, -1))], IMAGES[:1])


def test_maps_of_offsets_are_the_attention_summed_by_offset(vit):
    found = collect_patterns(vit, IMAGES, batch_size=4)
    assert found.patterns.shape == (24, 7, 11)
    weights = attention_of(vit, IMAGES)[1].weights[2, 1, 1:, 1:].double()
    weights = weights / weights.sum(-1, keepdim=True)
    sums = torch.zeros(7, 11, dtype=torch.float64)
    for i in range(24):
        for j in range(24):
            sums[j // 6 - i // 6 + 3, j % 6 - i % 6 + 5] += weights[i, j]
    at = (found.layer == 1) & (found.head == 1) & (found.image == 2)
    torch.testing.assert_close(found.patterns[at][0].double(), (sums / sums.max()).sqrt(), atol=1e-3, rtol=0)


def test_matrices_are_kept_where_they_are_asked_for(vit):
    found = collect_patterns(vit, IMAGES, representation="matrix")
    assert found.patterns.shape == (24, 24, 24)
    assert found.patterns.amax() == 1


def test_a_limit_takes_fewer_images_of_all_heads(vit):
    found = collect_patterns(vit, IMAGES, limit=9)
    assert len(found) == 8
    assert len(found.image.unique()) == 2
    again = collect_patterns(vit, IMAGES, limit=9)
    assert torch.equal(again.image, found.image)
    assert len(collect_patterns(vit, IMAGES, limit=1)) == 4


def test_layers_are_read_one_by_one_and_not_kept(vit):
    met = []
    with torch.no_grad(), attention_tapped(vit, read=lambda layer: met.append(layer.name)) as kept:
        vit(IMAGES)
    assert met == ["blocks.0.attn", "blocks.1.attn"]
    assert kept == []


def test_a_look_to_the_right_is_a_shift_of_one_column():
    right = torch.zeros(24, 24)
    for cell in range(24):
        right[cell, cell + 1 if cell % 6 < 5 else cell] = 1
    found = one(right)
    assert found.shifts.tolist() == [[0, 1]]
    assert found.traits[0, TRAITS.index("shift")] == 1
    assert name_of(found.traits[0], [0, 1]) == "shifted diagonal (+0, +1)"


def test_known_patterns_have_their_names():
    weights, names = families(3, noise=0.1)
    told = {
        "self": "diagonal (self)",
        "local": "diagonal band (local)",
        "shift": "shifted diagonal (+0, +1)",
        "keys": "vertical stripes (same keys)",
        "row": "blocks (own row)",
        "uniform": "uniform",
    }
    for family, each in zip(names, weights, strict=True):
        found = patterns_of_attention([LayerAttention("attn", each[:, None])], torch.zeros(3, 3, 8, 8))
        assert name_of(found.traits.mean(0), found.shifts[0].tolist(), even_near=0.3) == told[family]
        columns = one(torch.kron(torch.ones(4, 4) / 4, torch.eye(6)))
    assert name_of(columns.traits[0], [1, 0]) == "checkerboard (own column)"


def test_clusters_are_the_families(atlas):
    assert adjusted_rand_score(atlas.samples.head, atlas.clusters) >= 0.9
    assert atlas.error <= 0.3
    assert atlas.codes.shape == (288, 32)
    assert atlas.points.shape == (288, 2)
    assert len(set(atlas.names)) == 6
    assert {"diagonal (self)", "vertical stripes (same keys)", "blocks (own row)"} <= set(atlas.names)


def test_prototypes_are_decoded_middles_and_members_near_them(atlas):
    assert atlas.prototypes.shape == (6, 15, 15)
    assert torch.equal(atlas.clusters[atlas.medoids], torch.arange(6))
    nearest = atlas.samples.patterns[atlas.medoids].float()
    assert (atlas.prototypes - nearest).square().mean() < 0.02


def test_a_heads_clusters_over_images_and_their_entropy(atlas):
    shares = atlas.distribution()
    assert shares.shape == (1, 6, 6)
    torch.testing.assert_close(shares.sum(-1), torch.ones(1, 6, dtype=torch.float64))
    own = shares[0, 0].max()
    assert own == 1
    assert atlas.entropy()[0, 0] == 0


def test_models_are_pooled_to_one_atlas():
    samples = pooled([family_samples(4), family_samples(4, seed=1)])
    assert samples.model.tolist() == [0] * 24 + [1] * 24
    atlas = pattern_atlas(samples, epochs=1, clusters=3)
    assert atlas.distribution(model=1).shape == (1, 6, 3)
    with pytest.raises(ValueError, match="of one grid and one kind"):
        pooled([family_samples(2), family_samples(2, side=4)])


@pytest.mark.parametrize("shape", [(1, 1), (7, 11), (27, 27), (64, 64), (55, 3)])
def test_patterns_of_any_shape_are_coded_and_decoded(shape):
    autoencoder = PatternAutoencoder(shape, latent=4)
    x = torch.rand(3, 1, *shape)
    assert autoencoder.encode(x).shape == (3, 4)
    assert autoencoder(x).shape == x.shape


def test_the_default_for_matrices_of_14_x_14_patches_has_four_stages():
    autoencoder = PatternAutoencoder((196, 196))
    assert autoencoder.widths == (1, 16, 32, 64, 128)
    assert autoencoder.sizes[-1] == (13, 13)
    assert autoencoder.to_code.out_features == 32


def test_the_same_seed_gives_the_same_atlas():
    samples = family_samples(3)
    first, again = (pattern_atlas(samples, epochs=2, clusters=2, seed=3) for _ in range(2))
    torch.testing.assert_close(first.codes, again.codes)
    assert torch.equal(first.clusters, again.clusters)


@pytest.mark.parametrize("projection", ["pca", "t-sne"])
def test_other_clusterings_and_projections(projection):
    atlas = pattern_atlas(family_samples(10), epochs=5, clustering="hdbscan", projection=projection)
    assert atlas.points.shape == (60, 2)
    assert atlas.points.isfinite().all()


def test_density_has_no_points_left_over():
    points = torch.cat([torch.randn(30, 2) * 0.1, torch.randn(30, 2) * 0.1 + 5, torch.tensor([[2.0, 2.0]])])
    found = hdbscan(points.double().numpy(), least=5)
    assert sorted(set(found)) == [0, 1]


def test_the_silhouette_finds_the_number_of_groups():
    points = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) * 0.1
    points += torch.eye(3).repeat(20, 1) * 4
    assert k_means(points.double().numpy(), range(2, 8)).max() == 2
    assert k_means(points[:1].double().numpy(), range(4, 13)).tolist() == [0]


def test_what_does_not_fit_is_refused(vit):
    with pytest.raises(ValueError, match="did you mean 'offset'"):
        collect_patterns(vit, IMAGES, representation="offsets")
    with pytest.raises(ValueError, match="at least two"):
        pattern_atlas(one(torch.eye(24)))
    with pytest.raises(ValueError, match="did you mean 'k-means'"):
        pattern_atlas(family_samples(2), clustering="kmeans")
    with pytest.raises(ValueError, match="did you mean 'pca'"):
        pattern_atlas(family_samples(2), projection="pac")
    with pytest.raises(ValueError, match="has no attention"):
        collect_patterns(timm.create_model("resnet10t").eval(), IMAGES)


def test_windows_of_several_sizes_are_laid_on_the_largest():
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, embed_dim=24, depths=(1, 1), num_heads=(1, 2),
        window_size=8,
    ).eval()  # fmt: skip
    images = torch.rand(2, 3, 32, 32)
    found = collect_patterns(swin, images)
    assert found.patterns.shape == (6, 15, 15)
    with pytest.raises(ValueError, match="different numbers of tokens"):
        collect_patterns(swin, images, representation="matrix")
