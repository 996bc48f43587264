"""Encoders written for timm and transformers are read by these."""

import pytest
import timm
import torch

from foveal.blocks.soft_cap import cap_attention
from foveal.encoders import create_encoder
from foveal.encoders.preprocessing import EncoderPreprocess
from foveal.encoders.timm_export import export_timm


@pytest.fixture
def capped():
    torch.manual_seed(0)
    settings = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
    return create_encoder("timm/vit_tiny_patch16_224", in_channels=1, soft_cap=30.0, **settings).eval()


def test_timm_reads_weights_settings_and_preprocessing(capped, tmp_path):
    folder = export_timm(
        capped, tmp_path / "out", preprocess=EncoderPreprocess(size=32, mean=(0.3,), std=(0.1,))
    )
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    assert (data["input_size"], *data["mean"], *data["std"]) == ((1, 32, 32), 0.3, 0.1)
    cap_attention(model, 30.0)
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(images)[:, 1:], capped(images).patches)


def test_transformers_reads_it_too(capped, tmp_path):
    from transformers import TimmWrapperModel

    model = TimmWrapperModel.from_pretrained(export_timm(capped, tmp_path / "out")).eval()
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        found = model(images).last_hidden_state[:, 1:]
        torch.testing.assert_close(found, capped(images).patches, atol=1e-3, rtol=1e-3)


def test_other_encoders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no whole model of timm"):
        export_timm(create_encoder("conv-pyramid"), tmp_path)
