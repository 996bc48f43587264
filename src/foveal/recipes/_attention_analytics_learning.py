"""What is learnt for attention analytics: small transformers on digits, pruned; codes of known patterns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from statistics import fmean

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from foveal.encoders import create_encoder
from foveal.explanation.attention_analysis import AttentionSettings, analyse_attention
from foveal.explanation.attention_figure import attention_figure
from foveal.explanation.clustering import k_means
from foveal.explanation.head_importance import Order, head_importance, head_sensitivity, pruning_curve
from foveal.explanation.pattern_atlas import pattern_atlas
from foveal.recipes._attention_families import family_samples
from foveal.recipes._encoder_learning import Learned, LearningData, accuracy, digits, learn
from foveal.recipes.base import Finding, Section

LAYERS, HEADS = 6, 4
PRUNED = round(0.3 * LAYERS * HEADS)
_MEASURED = 400  # training images that importance is measured on
_RANDOM_ORDERS = 10


def data() -> LearningData:
    """Digits of 24 px."""
    return digits(24, channels=3)


@cache
def trained_transformer(seed: int) -> Learned:
    """A ViT of 6 layers of 4 heads on 6 x 6 patches."""
    return learn(
        lambda: create_encoder(
            "timm/vit_tiny_patch16_224",
            image_size=24,
            patch_size=4,
            embed_dim=48,
            depth=LAYERS,
            num_heads=HEADS,
        ),
        data(),
        steps=600,
        batch_size=64,
        learning_rate=2e-3,
        seed=seed,
    )


def pruning(seeds: Sequence[int]) -> Iterator[Finding | Section]:
    """Heads ranked on training images and taken out, accuracy on test images; the first-order measure."""
    held = data()
    images, labels = held.images[:_MEASURED], held.labels[:_MEASURED]
    lost: list[float] = []
    gained: list[float] = []
    reverse: list[float] = []
    agreeing: list[float] = []
    rows = []
    for seed in seeds:
        learned = trained_transformer(seed)
        model = learned.model
        found = head_importance(model, images, labels)
        rank = found.combined_rank()

        def after(table: Tensor, order: Order = "least first", model: nn.Module = model) -> float:
            test = held.test_images, held.test_labels
            curve = pruning_curve(model, *test, table, order=order, counts=[PRUNED], batch_size=256)
            return 100 * curve[0][1]

        draws = [torch.Generator().manual_seed(1000 * seed + k) for k in range(_RANDOM_ORDERS)]
        random = fmean(after(torch.rand(rank.shape, generator=each)) for each in draws)
        whole = 100 * accuracy(learned.probabilities, learned.labels)
        least, most = after(rank), after(rank, "most first")
        lost.append(whole - least)
        gained.append(least - random)
        reverse.append(min(least, random) - most)
        fast = head_sensitivity(model, images, labels).measures["sensitivity"]
        agreeing.append(float(spearmanr(fast.flatten(), found.measures["loss_increase"].flatten())[0]))
        rows.append(
            f"| {seed} | {whole:.1f} | {least:.1f} | {random:.1f} | {most:.1f} | {agreeing[-1]:.2f} |"
        )
    share = f"{PRUNED} of {LAYERS * HEADS} heads out"
    yield Finding.at_most(f"{share}, least important first: points of test accuracy lost", lost, 1.0)
    yield Finding.at_least(f"{share}: points more than in random order", gained, 3.0)
    yield Finding.fact(
        f"{share}: most important first is the worst order",
        all(value > 0 for value in reverse),
        measured=f"{fmean(reverse):.1f} points below the other two on average",
    )
    yield Finding.at_least("first-order measure and leave-one-out loss: Spearman over heads", agreeing, 0.6)
    yield Section(
        "Heads of a small ViT on digits taken out",
        "Test accuracy in per cent with all heads and with "
        f"{share} in three orders (random: mean of {_RANDOM_ORDERS}); importance is the combined rank on "
        f"{_MEASURED} training images. Models are trained for 600 steps; stopped at 300 (91 % of the test "
        "images right) they lost 1.6 points, least important first, not yet having heads to spare.\n\n"
        "| seed | all heads | least first | random | most first | first order |\n"
        "| --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows),
    )


def report_of_a_trained_model() -> Section:
    """The figure of the report."""
    held = data()
    settings = AttentionSettings(epochs=10, importance_images=100)
    found = analyse_attention(
        trained_transformer(0).model, held.test_images[:100], held.test_labels[:100], settings
    )
    return Section(
        "The report's figure, of one of these models",
        "Patterns found: " + ", ".join(found.atlas.names) + ".",
        attention_figure(found),
    )


def families_are_found(seeds: Sequence[int], count: int) -> Iterator[Finding]:
    """Codes of six known patterns with noise, clustered, beside k-means on the maps themselves."""
    from sklearn.metrics import adjusted_rand_score

    own: list[float] = []
    raw: list[float] = []
    errors: list[float] = []
    size = 0
    for seed in seeds:
        samples = family_samples(count, seed=seed)
        atlas = pattern_atlas(samples, seed=seed)
        flat = samples.patterns.flatten(1).float().numpy()
        size = flat.shape[1]
        own.append(float(adjusted_rand_score(samples.head, atlas.clusters)))
        raw.append(float(adjusted_rand_score(samples.head, k_means(flat, range(4, 13), seed=seed))))
        errors.append(atlas.error)
    yield Finding.at_least(
        f"6 patterns with noise, {count} of each: adjusted Rand index of the clusters", own, 0.9
    )
    yield Finding.at_least(
        f"the same less that of k-means on the {size} values of the maps, for codes of 32",
        [a - b for a, b in zip(own, raw, strict=True)], -0.02,
    )  # fmt: skip
    yield Finding.at_most("squared error of the reconstruction over that of the mean pattern", errors, 0.3)
