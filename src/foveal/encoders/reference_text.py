"""The words of docs/encoders.md around its tables; the examples in them are run by the tests."""

HEAD = """
# Encoders
<!-- Made by tests/encoders/test_encoder_page.py with FOVEAL_WRITE_DOCS=1; do not edit. -->

An encoder turns images `(B, C, H, W)` into `Features`:

| attribute | shape | what it is |
| --- | --- | --- |
| `patches` | `(B, N, D)` | patch tokens, row by row over `grid` |
| `grid` | `(h, w)` | of the patch tokens; N = h w |
| `pooled` | `(B, D)` | one vector an image |
| `pyramid` | maps `(B, C_i, H_i, W_i)`, finest first | for dense tasks; plain encoders have one map |

```python
import torch
from foveal.encoders import create_encoder, list_encoders

print(list_encoders())
encoder = create_encoder("vim", dim=64, depth=2, image_size=64).eval()
features = encoder(torch.rand(1, 3, 64, 96))
print(features.grid, features.patches.shape, features.pooled.shape)
```

The images of this example are random; so are the weights of an encoder until it is trained or loaded.
`foveal encoders` lists what is below on the command line, `foveal encoders NAME` the settings of one.

## All encoders
Linear ones cost twice as much for twice as many tokens, quadratic ones four times as much; with few tokens
(196 at 224 px with 16 px patches) that hardly shows. Sizes are named by the setting `size`.
"""

FOOT = """
Besides, **any model of timm** is an encoder as `timm/NAME`, and **any vision model of transformers** as
`transformers/FOLDER`. Time and memory are those of the model: linear for convolutional networks and windowed
transformers such as Swin, quadratic for plain vision transformers.

## Models of timm
```python
import timm
import torch
from foveal.encoders import create_encoder

print(timm.list_models("*dinov2*"))
encoder = create_encoder("timm/vit_tiny_patch16_224", in_channels=2, depth=2).eval()
features = encoder(torch.rand(1, 2, 96, 160))
print(features.grid, features.pooled.shape)
```

`pretrained=True` loads timm's weights from the hub's cache, or the network. Plain transformers take any size
that their patches divide, Swin any size at all; models that are built for one size (BEiT, EVA-02, MLP mixers,
MaxViT and others) get it as `image_size=`, and pretrained positions are resized. One small model of each of
the 98 families of timm 1.0 was tried. What is not taken in full: CSATv2 takes three channels only, CrossViT
gives the maps of its two grids, and Inception, NASNet, PNASNet, Xception and PiT do not pad, so that the
sides of their maps are a little smaller than the stride says.

## Models of transformers
From a configuration, without weights:

```python
import torch
from foveal.encoders import create_encoder

config = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 14}
encoder = create_encoder("transformers/dinov2", config=config).eval()
print(encoder(torch.rand(1, 3, 70, 98)).grid)
```

From a folder with a model that transformers saved, or a repository of its hub that is in the cache
(`local_files_only=False` allows to download): `create_encoder("transformers/facebook/dinov2-small")`.
ViT, DeiT, MAE, DINOv2 with and without registers, DINOv3, BEiT, the image towers of CLIP and SigLIP, Swin,
Swin v2, ConvNeXt and ResNet are tested. Positions are interpolated to the images that come; `in_channels=1`
adapts the first kernel to a grey camera; `encoder.preprocess` holds the mean, deviation and side that the
folder's image processor tells.

## Official weights
`load_official` reads a checkpoint in the layout of the paper's repository, resizes positions and patch
kernels, adapts the number of channels, and names every key that does not fit. Torch files are read with
`weights_only=True`: no code in them is run.

```python
import torch
from foveal.encoders import create_encoder, load_official

trained = create_encoder("timm/vit_tiny_patch16_224", depth=2)
official = {"model": trained.backbone.state_dict()}  # or the name of a .safetensors or .pth file
encoder = create_encoder("timm/vit_tiny_patch16_224", depth=2, in_channels=1, image_size=384)
loaded = load_official(encoder, official)
print(loaded.layout, loaded.fitted)
```

The weights of masked autoencoders, such as RETFound, are in timm's layout. Their decoder, and the norm
behind the class token, have no place in an encoder that averages its patches, whose own norm they lack:

    encoder = create_encoder("timm/vit_large_patch16_224", global_pool="avg")
    load_official(encoder, file, skip=["decoder_", "mask_token", r"^backbone\\.(fc_)?norm\\."])

What `skip` matches need not fit. A layout of your own is a function with
`@register_layout(encoder_name, layout_name)`.

## Saving
```python
import tempfile
from foveal.encoders import Encoder, create_encoder

encoder = create_encoder("conv-pyramid", widths=(8, 16))
with tempfile.TemporaryDirectory() as folder:
    encoder.save_pretrained(folder, card="# My encoder")
    again = Encoder.from_pretrained(folder)
```

A folder holds `config.json`, `model.safetensors` and the card; nothing is ever unpickled.

## In a classifier, a segmenter, an embedder
```python
import torch
from foveal.encoders import create_encoder
from foveal.models import Classifier, ClassifierConfig, Embedder, Segmenter, SegmenterConfig

small = {"dim": 64, "depth": 2, "image_size": 64}
classifier = Classifier(
    ClassifierConfig(encoder="vim", encoder_settings=small, classes=("no", "yes"), size=64)
).eval()
print(classifier.predict_proba(torch.rand(1, 3, 64, 64)))

config = SegmenterConfig(encoder="vim", encoder_settings=small, classes=("vessel",))
segmenter = Segmenter(config).eval()
print(segmenter(torch.rand(1, 3, 100, 80)).shape)  # any size: padded with black, and cropped

embedder = Embedder.of(create_encoder("timm/resnet10t").eval(), unit=True).eval()
print(embedder.embed(torch.rand(3, 3, 120, 90)).shape)
```

Encoders with a pyramid of several maps get a U-Net over it, those with one map a linear head on each patch.
`foveal train vim --data FOLDER --out MODEL` trains a classifier; see [train.md](train.md).
"""
