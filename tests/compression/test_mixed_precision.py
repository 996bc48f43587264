"""Bits by layer contributions, and whole classifiers of few bits."""

import itertools
import json
from copy import deepcopy

import numpy as np
import pytest
import torch

from foveal.blocks.changes import change_model
from foveal.blocks.quantized_attention import QuantizedAttention
from foveal.blocks.quantized_linear import QuantizedLinear
from foveal.compression.methods import Material, compress_model, parse_target
from foveal.compression.mixed_precision import (
    allocate_bits,
    bit_operations,
    candidates_of,
    mean_bits,
    quantize_mixed,
    sensitivities,
)
from foveal.compression.onnx_models import export_onnx
from foveal.compression.quantizing import Unit, logits_kl, quantize, uniform_bits, units_of
from foveal.compression.run import CompressSettings, compress
from foveal.models import Classifier, ClassifierConfig


def unit(name, parameters, *, macs=None, elements=None, fixed=False):
    macs, elements = macs or 10 * parameters, elements or parameters
    return Unit(name, (name,), "other", None, None, parameters, macs, elements, fixed)


SIX = [
    unit(str(i), n, elements=m)
    for i, (n, m) in enumerate(zip([3, 5, 2, 8, 4, 6], [1, 1, 3, 2, 5, 1], strict=True))
]
OMEGA = dict(zip("012345", [0.3, 0.1, 0.05, 0.25, 0.2, 0.1], strict=True))


def value(bits, utility):
    return sum(OMEGA[n] * (b if utility == "linear" else 1 - 4.0**-b) for n, (b, _) in bits.items())


@pytest.mark.parametrize("utility", ["linear", "concave"])
@pytest.mark.parametrize("budget", ["bits", "size", "bitops", "size and bitops"])
def test_the_choice_is_the_best_of_all_and_within_the_budget(utility, budget) -> None:
    found = allocate_bits(SIX, OMEGA, 4, utility=utility, budget=budget, candidates=[3, 4, 5, 6])
    best = -1.0
    for widths in itertools.product([3, 4, 5, 6], repeat=6):
        bits = {u.name: (b, b) for u, b in zip(SIX, widths, strict=True)}
        weights, inputs = mean_bits(SIX, bits)
        fits = {
            "bits": weights <= 4 + 1e-9 and inputs <= 4 + 1e-9,
            "size": weights <= 4 + 1e-9,
            "bitops": bit_operations(SIX, bits) <= 16 * sum(u.macs for u in SIX),
            "size and bitops": weights <= 4 + 1e-9
            and bit_operations(SIX, bits) <= 16 * sum(u.macs for u in SIX),
        }[budget]
        if fits:
            best = max(best, value(bits, utility))
        if bits == found:
            assert fits
    assert value(found, utility) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("utility", ["linear", "concave"])
def test_a_larger_budget_never_has_less_value(utility) -> None:
    values = [
        value(allocate_bits(SIX, OMEGA, b, utility=utility, candidates=[2, 3, 4, 5, 6, 7, 8]), utility)
        for b in np.linspace(2, 8, 13)
    ]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(values))


def test_even_contributions_of_equal_layers_give_even_bits() -> None:
    units = [unit(name, 10) for name in "abcd"]
    even = dict.fromkeys("abcd", 0.25)
    assert allocate_bits(units, even, 4, utility="concave") == dict.fromkeys("abcd", (4, 4))
    linear = allocate_bits(units, even, 4)  # of equal value, any of them may be chosen
    assert sum(b for b, _ in linear.values()) == 16


def test_separate_widths_may_differ_and_gain() -> None:
    shared = allocate_bits(SIX, OMEGA, 4, utility="concave")
    apart = allocate_bits(SIX, OMEGA, 4, utility="concave", separate=True)

    def gain(bits):
        return sum(OMEGA[n] * (2 - 4.0**-w - 4.0**-a) / 2 for n, (w, a) in bits.items())

    assert gain(apart) >= gain(shared)
    assert mean_bits(SIX, apart)[0] <= 4
    assert mean_bits(SIX, apart)[1] <= 4


def test_bad_budgets_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"below the least: 4 bits, .* MB"):
        allocate_bits(SIX, OMEGA, 3, candidates=[4, 5])
    with pytest.raises(ValueError, match="utility"):
        allocate_bits(SIX, OMEGA, 4, utility="convex")
    with pytest.raises(ValueError, match="budget"):
        allocate_bits(SIX, OMEGA, 4, budget="time")
    with pytest.raises(ValueError, match="sensitivities"):
        allocate_bits(SIX, OMEGA, 4, utility="joint")
    with pytest.raises(ValueError, match="allowed: 2 to 8"):
        candidates_of(12)
    assert candidates_of(7) == [5, 6, 7, 8]
    assert candidates_of(3) == [2, 3, 4, 5]


@pytest.fixture(scope="module")
def images(npz):
    return torch.from_numpy(np.load(npz)["train_images"])[:, None] / 255


def test_units_are_layers_and_products_with_the_ends_fixed(classifier, images) -> None:
    units = units_of(classifier, images)
    assert len(units) == 3 * 6 + 2
    assert [u.name for u in units if u.fixed] == ["encoder.backbone.patch_embed.proj", "head"]
    scores = next(u for u in units if u.product)
    assert scores.macs == 17 * 17 * 32
    assert scores.elements == 2 * 17 * 32
    assert scores.parameters == 0


@pytest.mark.parametrize("kind", ["clipped", "reparameterised", "min-max"])
def test_eight_bits_hardly_move_the_probabilities(classifier, images, kind) -> None:
    units = units_of(classifier, images)
    small = deepcopy(classifier)
    rows = quantize(small, images[:32], units, uniform_bits(units, 8), kind=kind, attention_weights="uniform")
    assert logits_kl(classifier, small, images) < 0.01
    json.dumps(rows)
    assert len(rows) == len(units)


def test_a_quantised_classifier_loads_to_the_bit_and_is_small(classifier, images, tmp_path) -> None:
    units, small = units_of(classifier, images), deepcopy(classifier)
    rows = quantize(small, images[:32], units, uniform_bits(units, 4))
    again = Classifier.from_pretrained(small.save_pretrained(tmp_path))
    assert torch.equal(again(images[:8]), small(images[:8]))
    free = [row for row in rows if row["weight_bits"] == 4]
    packed = sum(
        m.packed.numel() for m in small.modules() if isinstance(m, QuantizedLinear) and m.weight_bits == 4
    )
    assert packed == sum(row["packed_bytes"] for row in free)
    assert packed <= 0.16 * 4 * sum(row["parameters"] for row in free)


def test_a_quantised_classifier_goes_to_onnx_and_its_other_weights_can_be_tuned(
    classifier, images, tmp_path
) -> None:
    small = deepcopy(classifier)
    quantize_mixed(small, images[:32], 5)
    assert export_onnx(small, tmp_path, images[:4]) < 1e-4
    small.train()(images[:4]).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def test_tokens_may_be_reduced_first_where_products_stay(classifier, images, tmp_path) -> None:
    small = deepcopy(classifier)
    change_model(small.encoder, "reduced-tokens", at=[1], keep_rate=0.5)
    with pytest.raises(ValueError, match="products=False"):
        quantize_mixed(deepcopy(small), images[:32], 5)
    quantize_mixed(small, images[:32], 5, products=False)
    again = Classifier.from_pretrained(small.eval().save_pretrained(tmp_path))
    assert torch.equal(again(images[:8]), small(images[:8]))


def test_sensitivities_fall_with_bits_and_leave_the_model(classifier, images) -> None:
    units, wanted = units_of(classifier, images), classifier(images[:4])
    found = sensitivities(classifier, images[:16], units, [2, 8])
    assert torch.equal(classifier(images[:4]), wanted)
    assert len(found) == 18
    assert sum(each[2] for each in found.values()) > sum(each[8] for each in found.values())


@pytest.mark.parametrize(
    "options", [{}, {"utility": "joint"}, {"mixed": False}, {"separate": True, "measure": "share"}]
)
def test_the_method_keeps_the_mean_and_the_accuracy(classifier, images, options) -> None:
    small = deepcopy(classifier)
    outcome = compress_model("lrp-qvit", small, Material(None, images), parse_target("5bit"), options)
    free = [row for row in outcome.layers if row["layers"] and row["role"] not in ("patches", "head")]
    mean = sum(row["parameters"] * row["weight_bits"] for row in free) / sum(
        row["parameters"] for row in free
    )
    assert mean <= 5
    assert (small(images).argmax(1) == classifier(images).argmax(1)).float().mean() > 0.9
    with pytest.raises(ValueError, match="has few bits already"):
        compress_model("lrp-qvit", small, Material(None, images), parse_target("5bit"), options)


def test_the_command_writes_a_small_folder_with_its_table(npz, folder, tmp_path) -> None:
    settings = CompressSettings(rounds=1, memory=False, batch=2, calibration=32)
    found = compress(folder, npz, tmp_path / "small", method="lrp-qvit", target="6bit", settings=settings)
    assert found.costs["after"].bytes < 0.55 * found.costs["before"].bytes
    assert found.scores["after"].accuracy[0] > found.scores["before"].accuracy[0] - 0.05
    told = json.loads((tmp_path / "small" / "compression.json").read_text())["layers"]
    assert sum(row["contribution"] for row in told) == pytest.approx(1)
    assert {"name", "parameters", "macs", "weight_bits", "activation_bits", "scale", "zero_point"} <= set(
        told[0]
    )


def test_transformers_models_share_bits_between_queries_keys_and_values() -> None:
    torch.manual_seed(0)
    settings = {
        "config": {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                   "intermediate_size": 64, "image_size": 32, "patch_size": 8},
        "in_channels": 3,
    }  # fmt: skip
    config = ClassifierConfig(
        encoder="transformers/vit", encoder_settings=settings, classes=("a", "b"), size=32
    )
    model = Classifier(config).eval()
    images = torch.rand(16, 3, 32, 32)
    units = units_of(model, images)
    assert any(len(u.layers) == 3 and u.layers[0].endswith("q_proj") for u in units)
    small = deepcopy(model)
    compress_model("lrp-qvit", small, Material(None, images), parse_target("6bit"), {})
    assert sum(isinstance(m, QuantizedAttention) for m in small.modules()) == 2
    assert logits_kl(model, small, images) < 0.05
