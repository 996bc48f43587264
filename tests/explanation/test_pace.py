"""PACE: concepts of any model here, fitted, saved, loaded, mapped."""

import pytest
import timm
import torch
from pydantic import ValidationError
from torch import nn

from foveal.encoders import create_encoder
from foveal.explanation import explain
from foveal.explanation.pace import ConceptConfig, ConceptModel, Pace, PaceSettings, drivers
from foveal.explanation.pace_fitting import ConceptFit, fit_pace, stable_views
from foveal.explanation.pace_tokens import ReadTokens, TokenSettings, read_tokens
from foveal.models.classifier import Classifier, ClassifierConfig

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
IMAGES = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
FEW = {"concepts": 5, "dimensions": 4, "batch_size": 4}


def small_vit(name="vit_tiny_patch16_224", **options):
    torch.manual_seed(0)
    return timm.create_model(name, **SMALL, **{"num_classes": 3, **options}).eval()


@pytest.fixture(scope="module")
def vit():
    return small_vit()


@pytest.fixture(scope="module")
def fitted(vit):
    return fit_pace(vit, IMAGES, **FEW, class_names=("a", "b", "c"))


class Huge(nn.Module):
    """Logits of a transformers model."""

    def __init__(self, kind, **options):
        super().__init__()
        import transformers

        torch.manual_seed(0)
        config = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2}
        config |= {"num_attention_heads": 2, **options}
        made = getattr(transformers, f"{kind}Config")(**config)
        self.inner = getattr(transformers, f"{kind}ForImageClassification")(made)

    def forward(self, images):
        return self.inner(images).logits


def classifier(encoder, **settings):
    torch.manual_seed(0)
    config = ClassifierConfig(encoder=encoder, encoder_settings=settings, classes=("a", "b"), size=32)
    return Classifier(config)


MODELS = {
    "timm": (small_vit, {}, 17),
    "timm, patches alone": (small_vit, {"tokens": "patches"}, 16),
    "timm with registers": (lambda: small_vit(reg_tokens=3), {}, 20),
    "timm without a class token": (lambda: small_vit(class_token=False, global_pool="avg"), {}, 16),
    "timm with attention pooling": (lambda: small_vit("vit_base_patch16_siglip_224"), {}, 16),
    "transformers": (lambda: Huge("ViT"), {}, 17),
    "transformers with registers": (
        lambda: Huge("Dinov2WithRegisters", num_register_tokens=3), {"prefix_tokens": 4}, 20,
    ),
    "classifier": (
        lambda: classifier("timm/vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=16, depth=2,
                           num_heads=2), {}, 17,
    ),
    "state-space classifier": (
        lambda: classifier("vim", image_size=32, patch_size=8, dim=16, depth=2), {"attention": "pooled"}, 16,
    ),
    "encoder without classes": (lambda: create_encoder("vim", image_size=32, patch_size=8, dim=16, depth=2),
                                {}, 16),
    "layer of a CNN": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)),
        {"layer": "1"}, 16,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_any_model_has_concepts(kind):
    make, options, tokens = MODELS[kind]
    model = make().eval()
    read = read_tokens(model, IMAGES, TokenSettings(**options))
    assert read.embeddings.shape[:2] == read.weights.shape == (12, tokens)
    torch.testing.assert_close(read.weights.mean(1), torch.ones(12))
    found = fit_pace(model, IMAGES, **FEW, **options).explain(IMAGES)
    assert found.theta.shape == (12, 5)
    assert found.maps.shape == (12, 5, 4, 4)
    torch.testing.assert_close(found.maps.sum(1), torch.ones(12, 4, 4))
    assert (read.probabilities is None) is (kind == "encoder without classes")


def test_the_class_tokens_attention_is_the_mean_over_heads_of_its_row(vit):
    from foveal.blocks.attention_taps import attention_of

    read = read_tokens(vit, IMAGES)
    wanted = attention_of(vit, IMAGES)[-1].weights.mean(1)[:, 0]
    torch.testing.assert_close(read.weights / 17, wanted)
    hidden = vit.blocks[0](vit._pos_embed(vit.patch_embed(IMAGES)))
    torch.testing.assert_close(read.embeddings, hidden)
    torch.testing.assert_close(read.probabilities, vit(IMAGES).softmax(1))


def test_learned_attention_pooling_weighs_its_tokens():
    from foveal.blocks.attention_taps import attention_of

    model = small_vit("vit_base_patch16_siglip_224")
    wanted = attention_of(model, IMAGES)[-1].weights.mean(1)[:, 0]
    torch.testing.assert_close(read_tokens(model, IMAGES).weights / 16, wanted)


def test_equal_attention_is_1_everywhere(vit):
    assert torch.equal(read_tokens(vit, IMAGES, TokenSettings(attention="equal")).weights, torch.ones(12, 17))


def test_volumes_have_concepts_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(1, 8, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 32, 3)).eval()
    volumes = torch.rand(6, 1, 8, 16, 16)
    pace = fit_pace(model, volumes, concepts=3, dimensions=4, layer="1", batch_size=3)
    assert pace.explain(volumes).maps.shape == (6, 3, 2, 4, 4)
    assert explain(model, volumes, 1, method="pace", trained=pace).shape == (6, 8, 16, 16)


@pytest.mark.parametrize("prior_counts", ["tokens", "steps"])
@pytest.mark.parametrize("prior_strength", [0.0, 500.0])
def test_covariances_stay_symmetric_and_positive_definite(vit, prior_counts, prior_strength):
    options = {"prior_counts": prior_counts, "prior_strength": prior_strength, "epochs": 12}
    covariance = fit_pace(vit, IMAGES, **FEW, **options, stability=0).fitted.covariance
    assert torch.equal(covariance, covariance.mT)
    assert (torch.linalg.eigvalsh(covariance) > 0).all()


def test_saved_concepts_give_the_same_explanations(vit, fitted, tmp_path):
    fitted.fitted.save_pretrained(tmp_path)
    loaded = ConceptModel.from_pretrained(tmp_path)
    assert loaded.config.class_names == ("a", "b", "c")
    again = Pace(vit, loaded).explain(IMAGES)
    assert torch.equal(again.theta, fitted.explain(IMAGES).theta)
    one = explain(vit, IMAGES, 1, method="pace", trained=fitted)
    assert torch.equal(explain(vit, IMAGES, 1, method="pace", trained=str(tmp_path)), one)


def test_the_same_seed_gives_the_same_concepts_and_leaves_randomness_and_model_alone(vit, fitted):
    before, state = [p.clone() for p in vit.parameters()], torch.get_rng_state()
    again = fit_pace(vit, IMAGES, **FEW)
    assert torch.equal(again.fitted.mean, fitted.fitted.mean)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, vit.parameters(), strict=True))
    assert not torch.equal(fit_pace(vit, IMAGES, **FEW, seed=1).fitted.mean, fitted.fitted.mean)


def test_batches_that_can_be_gone_through_twice_are_taken(vit):
    batches = [IMAGES[:6], IMAGES[6:]]
    told = []
    fit_pace(vit, batches, concepts=5, dimensions=4, epochs=2, on_step=told.append)
    assert [step.step for step in told] == [1, 2, 3, 4]
    assert all(torch.isfinite(torch.tensor(step.bound)) for step in told)


def test_relevance_is_what_concepts_say_for_a_class(vit, fitted):
    found, eta = fitted.explain(IMAGES), fitted.fitted.eta
    weights = torch.eye(3)[[1] * 12]
    wanted = ((eta[1] - eta.mean(0)).float() @ found.maps.flatten(2)).view(12, 4, 4)
    maps = explain(vit, IMAGES, 1, method="pace", trained=fitted)
    torch.testing.assert_close(maps, torch.nn.functional.interpolate(
        wanted[:, None], size=(32, 32), mode="bilinear", align_corners=False)[:, 0])  # fmt: skip
    torch.testing.assert_close(fitted.relevance(IMAGES, weights), maps)
    each = torch.stack([explain(vit, IMAGES, c, method="pace", trained=fitted) for c in range(3)])
    torch.testing.assert_close(each.sum(0), torch.zeros(12, 32, 32), atol=1e-5, rtol=0)


def test_the_map_of_a_concept_is_its_chance(vit, fitted):
    maps = [explain(vit, IMAGES, method="pace", trained=fitted, concept=k) for k in range(5)]
    torch.testing.assert_close(torch.stack(maps).sum(0), torch.ones(12, 32, 32))
    with pytest.raises(ValueError, match="concept 5; allowed: 0 to 4"):
        explain(vit, IMAGES, method="pace", trained=fitted, concept=5)


def test_drivers_of_a_class_are_the_concepts_with_the_largest_eta(fitted):
    fitted.fitted.eta.copy_(torch.arange(15).view(3, 5) * torch.tensor([[1.0], [0.0], [-1.0]]))
    assert [number for number, _ in drivers(fitted.fitted, count=2)[0]] == [4, 3]


def test_both_reducers_keep_a_mean_variance_of_1_and_principal_axes_more_of_it():
    sample = torch.randn(500, 20) @ torch.diag(torch.linspace(0.1, 3, 20))
    for reducer in ("random", "pca"):
        model = ConceptFit(sample, PaceSettings(concepts=3, dimensions=4, reducer=reducer)).model
        reduced = model.reduce(sample)
        assert float(reduced.square().mean()) == pytest.approx(1, abs=1e-4)
        assert float(reduced.mean(0).abs().max()) < 1e-4
    covariance = reduced.T @ reduced / 500
    torch.testing.assert_close(covariance, torch.diag(covariance.diagonal()), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="all tokens of the sample are the same"):
        ConceptFit(torch.ones(50, 8), PaceSettings(concepts=2, dimensions=3))


def read_of(tokens):
    return ReadTokens(tokens, torch.ones(tokens.shape[:2]), None, 0, (tokens.shape[1],))


def test_a_dead_concept_goes_where_tokens_are_explained_worst():
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(400, 3, generator=generator)
    settings = PaceSettings(concepts=3, dimensions=3, reducer="pca", reseed_after=2, prior_strength=1, seed=0)
    fit = ConceptFit(sample, settings)
    far = 400.0
    fit.model.mean[2] = far  # no token is near
    fit.prior.mean[2] = far
    outlier = sample.clone()
    outlier[0] = 9.0
    for _ in range(3):
        fit.step(read_of(outlier.view(8, 50, 3)))
    assert float((fit.model.mean[2] - fit.model.reduce(outlier[0])).norm()) < 3
    assert (torch.linalg.eigvalsh(fit.model.covariance) > 0).all()


def test_views_keep_range_and_shape_and_are_their_seed():
    images = 3 * torch.rand(3, 3, 20, 24) - 1
    views = stable_views(images, seed=1)
    assert views.shape == images.shape
    assert views.min() >= images.min() - 1e-5
    assert views.max() <= images.max() + 1e-5
    assert torch.equal(views, stable_views(images, seed=1))
    assert not torch.equal(views, stable_views(images, seed=2))
    assert stable_views(torch.rand(2, 1, 4, 16, 16), seed=0).shape == (2, 1, 4, 16, 16)


def test_wrong_settings_are_refused(vit):
    with pytest.raises(ValidationError, match="concepts"):
        PaceSettings(concepts=0)
    assert issubclass(ValidationError, ValueError)
    with pytest.raises(ValueError, match="dimensions is 25, the model's tokens have 16"):
        fit_pace(vit, IMAGES, concepts=4)
    with pytest.raises(ValueError, match="alpha is"):
        ConceptModel(ConceptConfig(fitted=PaceSettings(concepts=4, dimensions=2, alpha=(1.0, 2.0)), width=3))
    with pytest.raises(ValueError, match="for 500 concepts"):
        fit_pace(vit, IMAGES, concepts=500, dimensions=4)
    with pytest.raises(ValueError, match="no images"):
        fit_pace(vit, [], **FEW)
    with pytest.raises(ValueError, match="block 2; the model has 2"):
        fit_pace(vit, IMAGES, **FEW, block=2)
    with pytest.raises(ValueError, match="training mode"):
        fit_pace(small_vit().train(), IMAGES, **FEW)


def test_tokens_that_are_not_finite_are_refused(vit):
    broken = IMAGES.clone()
    broken[0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        fit_pace(vit, broken, **FEW, stability=0)


def test_attention_that_does_not_match_the_tokens_is_refused(vit):
    with pytest.raises(ValueError, match="does not match 16 tokens"):
        read_tokens(vit, IMAGES, TokenSettings(layer="patch_embed.proj", attention="pooled"))
    with pytest.raises(ValueError, match="no attention of a class token"):
        read_tokens(small_vit(class_token=False, global_pool="avg"), IMAGES, TokenSettings(attention="class"))
    with pytest.raises(ValueError, match="name a layer"):
        read_tokens(nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)).eval(), IMAGES)


def test_concepts_of_another_model_are_refused(vit, fitted):
    other = small_vit()
    with pytest.raises(ValueError, match="another model"):
        explain(other, IMAGES, 0, method="pace", trained=fitted)
    with pytest.raises(ValueError, match="needs trained"):
        explain(vit, IMAGES, 0, method="pace")
    wide = timm.create_model("vit_tiny_patch16_224", **{**SMALL, "embed_dim": 32}).eval()
    with pytest.raises(ValueError, match="width 16"):
        Pace(wide, fitted.fitted).explain(IMAGES)
    with pytest.raises(ValueError, match="fitted with 3 classes"):
        fitted.relevance(IMAGES, torch.zeros(12, 4))
