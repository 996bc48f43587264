"""Global magnitude pruning: which weights, exactly how many, what stays, and what a user gets."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune
from torchvision.models import VisionTransformer
from transformers import ViTConfig, ViTForImageClassification

from foveal.compression.magnitude_pruning import (
    attention_entropies,
    magnitude_masks,
    masks_by_score,
    mean_gradients,
    prunable_weights,
    prune,
    sparsity_rows,
)
from foveal.compression.masks import zeros_of
from foveal.compression.methods import Material, compress_model, parse_target
from foveal.compression.run import CompressSettings, compress
from foveal.models import Classifier
from foveal.objectives.classification import ClassificationObjective
from foveal.sparse_files import read_tensors
from foveal.training.settings import TrainingSettings

FAST = {"rounds": 1, "memory": False, "batch": 2, "calibration": 8}
BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


class Sides:
    """Random samples for the classifier."""

    labels = torch.randint(2, (64,), generator=torch.Generator().manual_seed(0))
    images = torch.rand(64, 1, 32, 32, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return 64

    def sample(self, index: int, _generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"images": self.images[index], "labels": self.labels[index]}


def test_weights_are_those_of_the_paper(classifier) -> None:
    wanted = ["encoder.backbone.patch_embed.proj.weight"]
    wanted += [f"encoder.backbone.blocks.{i}.{part}.weight" for i in range(3) for part in BLOCK]
    wanted += ["head.weight"]
    assert prunable_weights(classifier) == wanted
    without = [name for name in wanted if "norm" not in name]
    assert prunable_weights(classifier, include_norm=False) == without


def test_weights_of_torchvision_and_transformers_are_found() -> None:
    theirs = VisionTransformer(
        image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3
    )
    layer = "encoder.layers.encoder_layer_0"
    parts = ("ln_1", "self_attention.in_proj", "self_attention.out_proj", "ln_2", "mlp.0", "mlp.3")
    wanted = {f"{layer}.{part}{'_' if 'in_proj' in part else '.'}weight" for part in parts}
    assert set(prunable_weights(theirs)) == wanted | {"conv_proj.weight", "heads.head.weight"}
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    names = prunable_weights(ViTForImageClassification(config))
    assert sum("layernorm" in name for name in names) == 2
    assert sum("layernorm_" in name for name in names) == 2  # the last norm stays
    assert len(names) == 2 + 4 + 2 + 2  # patches and head, attention, MLP, norms


@pytest.mark.parametrize("amount", [0.1, 0.3, 0.5, 0.77])
def test_masks_are_torchs_bit_for_bit(classifier, amount) -> None:
    masks = magnitude_masks(classifier, amount)
    model = deepcopy(classifier)
    pairs = [
        (model.get_submodule(name.removesuffix(".weight")), "weight") for name in prunable_weights(model)
    ]
    torch_prune.global_unstructured(pairs, torch_prune.L1Unstructured, amount=amount)
    for name, (module, _) in zip(masks.kept, pairs, strict=True):
        assert masks.kept[name].equal(module.weight_mask.bool())
    masks.apply(pruned := deepcopy(classifier))
    for module, _ in pairs:
        torch_prune.remove(module, "weight")
    for name, value in pruned.state_dict().items():
        assert value.equal(model.state_dict()[name])


def test_masks_are_a_threshold_on_all_weights_and_nothing_else_changes(classifier) -> None:
    masks = magnitude_masks(classifier, 0.4)
    parameters = dict(classifier.named_parameters())
    every = np.sort(np.concatenate([parameters[n].detach().abs().numpy().ravel() for n in masks.kept]))
    threshold = every[round(0.4 * len(every)) - 1]
    for name, mask in masks.kept.items():
        assert np.array_equal(mask.numpy(), parameters[name].detach().abs().numpy() > threshold)
    masks.apply(model := deepcopy(classifier))
    for name, value in model.named_parameters():
        if name not in masks.kept:
            assert value.equal(parameters[name])
    zeros = sum(int((dict(model.named_parameters())[name] == 0).sum()) for name in masks.kept)
    assert abs(zeros / len(every) - 0.4) <= 1 / len(every)
    assert [row["sparsity"] for row in sparsity_rows(model, masks)] == pytest.approx(
        [1 - float(mask.float().mean()) for mask in masks.kept.values()]
    )


def test_of_equal_weights_exactly_the_share_is_taken() -> None:
    scores = {"a": torch.ones(7, 3), "b": torch.ones(9)}
    masks = masks_by_score(scores, 0.5)
    assert sum(int(mask.sum()) for mask in masks.kept.values()) == 15
    assert masks.sha256 == masks_by_score(scores, 0.5).sha256


def test_nothing_taken_is_the_same_model_and_all_taken_leaves_the_bias_of_the_head(classifier) -> None:
    images = torch.rand(3, 1, 32, 32)
    whole = classifier(images)
    magnitude_masks(classifier, 0.0).apply(model := deepcopy(classifier))
    assert model(images).equal(whole)
    magnitude_masks(classifier, 1.0).apply(model)
    assert model(images).equal(model.head.bias.expand(3, -1))


def test_fused_and_separate_queries_keys_and_values_are_pruned_alike(classifier) -> None:
    """Magnitude is a weight's own, so the layout changes no threshold (ties aside)."""
    parameters = dict(classifier.named_parameters())
    fused = {name: parameters[name].detach().abs() for name in prunable_weights(classifier)}
    split = {}
    for name, score in fused.items():
        if "qkv" in name:
            parts = {f"{name}.{part}": value for part, value in zip("qkv", score.chunk(3), strict=True)}
            split.update({key: value.view(2, 16, 32) for key, value in parts.items()})  # three axes
        else:
            split[name] = score
    one, other = masks_by_score(fused, 0.6).kept, masks_by_score(split, 0.6).kept
    for name, mask in one.items():
        if "qkv" in name:
            mask_parts = [other[f"{name}.{part}"].view(32, 32) for part in "qkv"]
            assert mask.equal(torch.cat(mask_parts))
        else:
            assert mask.equal(other[name])


def test_criteria_differ_and_repeat_by_seed(classifier) -> None:
    objective = ClassificationObjective(classifier)
    gradients = mean_gradients(objective, classifier, Sides())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    options = {"gradients": gradients}
    kinds = ("magnitude", "layer magnitude", "gradient", "random")
    hashes = [magnitude_masks(classifier, 0.5, criterion=kind, **options).sha256 for kind in kinds]
    assert len(set(hashes)) == 4
    assert hashes == [magnitude_masks(classifier, 0.5, criterion=kind, **options).sha256 for kind in kinds]
    assert hashes[3] != magnitude_masks(classifier, 0.5, criterion="random", seed=1).sha256
    layers = magnitude_masks(classifier, 0.5, criterion="layer magnitude")
    assert all(abs(float(mask.float().mean()) - 0.5) < 0.01 for mask in layers.kept.values())
    masks = magnitude_masks(classifier, 0.5, criterion="gradient", **options)
    name = "encoder.backbone.blocks.1.mlp.fc1.weight"
    taylor = (classifier.get_parameter(name) * gradients[name]).abs().detach()
    assert taylor[masks.kept[name]].min() >= taylor[~masks.kept[name]].max()


def test_mean_gradients_are_those_of_all_samples_at_once(classifier) -> None:
    objective = ClassificationObjective(classifier)
    found = mean_gradients(objective, classifier, Sides())
    objective({"images": Sides.images, "labels": Sides.labels})["loss"].backward()
    for name, value in classifier.named_parameters():
        assert torch.allclose(found[name], value.grad, atol=1e-6)
    classifier.zero_grad(set_to_none=True)


def test_rounds_with_recovery_end_at_the_amount_and_bring_nothing_back(classifier) -> None:
    model, taken = deepcopy(classifier), []
    training = TrainingSettings(steps=2, batch_size=16, learning_rate=1e-3, tensorboard=False)

    class Watched(ClassificationObjective):
        def forward(self, batch):  # type: ignore[no-untyped-def]
            taken.append(sum(int((v == 0).sum()) for v in self.model.parameters() if v.ndim > 1))
            return super().forward(batch)

    masks = prune(model, 0.6, objective=Watched(model), samples=Sides(), rounds=3, recovery=training)
    total = sum(mask.numel() for mask in masks.kept.values())
    assert 1 - masks.share == pytest.approx(0.6, abs=1 / total)
    assert len(set(taken)) == 3
    assert taken == sorted(taken)
    assert all((model.get_parameter(name)[~mask] == 0).all() for name, mask in masks.kept.items())
    one = prune(deepcopy(classifier), 0.6, objective=Watched(model), samples=Sides(), rounds=3)
    assert one.sha256 == magnitude_masks(classifier, 0.6).sha256  # without recovery rounds change nothing


def test_the_command_writes_a_pruned_model_with_hash_storage_and_entropy(npz, folder, tmp_path) -> None:
    import json

    out = tmp_path / "small"
    settings = CompressSettings(**FAST)
    found = compress(folder, npz, out, method="sparse-then-prune", target="70%", settings=settings)
    told = json.loads((out / "compression.json").read_text())
    assert told["masks_sha256"] == found.outcome.masks.sha256
    assert found.outcome.masks.share == pytest.approx(0.7, abs=1e-4)
    assert "30.0% of the weights are 0" in (out / "README.md").read_text()
    assert sum("attention_entropy_after" in row for row in told["layers"]) == 3
    loaded = Classifier.from_pretrained(out)
    masks = zeros_of(loaded).kept
    for name, mask in found.outcome.masks.kept.items():
        if mask.ndim > 1:
            assert masks[name].equal(mask)  # saved, loaded, and still 0
    state = read_tensors(out / "model.safetensors")
    assert all(state[name].equal(value) for name, value in loaded.state_dict().items())
    assert (out / "model.safetensors").stat().st_size < (folder / "model.safetensors").stat().st_size
    again = compress(folder, npz, tmp_path / "b", method="sparse-then-prune", target="70%", settings=settings)
    assert again.outcome.masks.sha256 == found.outcome.masks.sha256


def test_tuning_holds_the_masks(npz, folder, tmp_path) -> None:
    settings = CompressSettings(**FAST, tune=3)
    found = compress(folder, npz, tmp_path / "t", method="sparse-then-prune", target="50%", settings=settings)
    loaded = Classifier.from_pretrained(tmp_path / "t")
    assert all((loaded.get_parameter(n)[~m] == 0).all() for n, m in found.outcome.masks.kept.items())


def test_entropy_is_log_n_where_attention_is_even(classifier) -> None:
    model = deepcopy(classifier)
    magnitude_masks(model, 1.0).apply(model)
    for block in model.encoder.backbone.blocks:
        nn.init.zeros_(block.attn.qkv.bias)
    found = attention_entropies(model, torch.rand(2, 1, 32, 32))
    assert list(found.values()) == pytest.approx([float(np.log(17))] * 3, rel=1e-5)


def test_wrong_amounts_words_and_models_are_refused(classifier) -> None:
    for amount in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="allowed: a share of the weights, 0 to 1"):
            magnitude_masks(classifier, amount)
    with pytest.raises(ValueError, match="Sequential has no weights to prune"):
        prunable_weights(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))
    with pytest.raises(ValueError, match="did you mean 'magnitude'"):
        magnitude_masks(classifier, 0.5, criterion="magnitudes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no gradient of encoder"):
        magnitude_masks(classifier, 0.5, criterion="gradient")
    with pytest.raises(ValueError, match="not finite"):
        masks_by_score({"a": torch.tensor([float("nan"), 1.0])}, 0.5)
    objective = ClassificationObjective(classifier)
    with pytest.raises(ValueError, match="rounds is 0"):
        prune(classifier, 0.5, objective=objective, samples=Sides(), rounds=0)
    material, half = Material(Sides(), Sides.images), parse_target("50%")
    for options, message in (
        ({"remove": "blocks"}, "unknown remove 'blocks'"),
        ({"recovery_steps": -1}, "recovery_steps is -1"),
        ({"remove": "heads and units", "rounds": 2}, "in one shot"),
        ({"criteria": "random"}, "did you mean 'criterion'"),
    ):
        with pytest.raises(ValueError, match=message):
            compress_model("sparse-then-prune", deepcopy(classifier), material, half, options)
