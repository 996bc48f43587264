"""Locality alignment (MaskEmbed): a vision transformer whose patch tokens say what is at their patch.

foveal train locality-alignment --data FOLDER --out runs/aligned
foveal verify locality-alignment
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from foveal.objectives.locality_alignment_settings import AlignmentSettings
from foveal.recipes.base import Card, Evidence, Paper, Recipe, Scale

if TYPE_CHECKING:
    from foveal.models.masked_embedding import MaskedEmbedding


class LocalityAlignmentRecipe(Recipe[AlignmentSettings]):
    """A short self-supervised training after pre-training."""

    card = Card(
        slug="locality-alignment",
        title="Locality alignment: self-supervised post-training that gives patch tokens local semantics",
        paper=Paper(
            citation="Locality Alignment Improves Vision-Language Models, ICLR 2025",
            year=2025,
            link="https://arxiv.org/abs/2410.11087",
        ),
        task="A pre-trained vision transformer (CLIP, SigLIP, DINO, supervised) and images without labels "
        "in; the same transformer out, whose patch tokens say what is at each patch, with a decoder and a "
        "probe.",
        published=(
            "Patch-Seg on COCO, transformer head, local and global macro-recall before -> after (from "
            "memory, +-0.2, unconfirmed): CLIP ViT-B 44.6/52.6 -> 46.3/54.6; CLIP ViT-L 46.4/54.5 -> "
            "51.4/57.5; CLIP ViT-L@336 46.1/53.1 -> 52.7/57.8; SigLIP ViT-B 44.5/54.3 -> 46.5/54.5; SigLIP "
            "so400m 48.3/57.3 -> 53.5/60.1.",
            "All CLIP and SigLIP backbones improve locally and most globally, larger ones more; DINOv2 does "
            "not; a supervised ViT improves strongly with more epochs; linear accuracy on ImageNet-1k stays.",
            "As vision towers (Prismatic, CLIP-L@336 and SigLIP so400m@384, Llama-2 7B): gains on RefCOCO, "
            "OCID-Ref, TallyQA, VSR and AI2D; small or neutral on VQAv2, GQA and TextVQA.",
        ),
        original="https://github.com/iancovert/locality-alignment",
        licence="MIT",
        faithfulness="Masks, targets, scale, student, decoder, losses and optimiser are the paper's. "
        "keep_ratio is the share of patches kept in every sampler, masks of each kind can be left out, and "
        "prefix tokens count as masked in training and validation, where the released code differs. The "
        "decoder's last layer begins small, so that the first loss is 1 at any width; norms and biases do "
        "not decay. Training is in float32 and not compiled unless told (training.mixed_precision). "
        "adapter='decoder' is a module only: no language model is trained here. Nothing was trained on "
        "ImageNet or probed on COCO.",
        built_from=(
            "objectives.locality_alignment",
            "models.masked_embedding",
            "blocks.patch_masks",
            "blocks.soft_cap",
            "blocks.masked_decoder",
            "evaluation.patch_probe",
            "training.alignment",
            "timm",
        ),
    )
    Settings = AlignmentSettings

    def build(self, settings: AlignmentSettings) -> MaskedEmbedding:
        """The student before alignment: `.encoder` with its weights, and head and decoder untrained.

        Example:
            >>> settings = AlignmentSettings(encoder="timm/vit_tiny_patch16_224", image_size=64)
            >>> student = recipe.build(settings)
            >>> student.encoder(torch.rand(1, 3, 64, 64)).patches.shape
            torch.Size([1, 16, 192])
        """
        from foveal.training.alignment import pretrained_encoder, student_of

        return student_of(*pretrained_encoder(settings), settings)

    def train(self, settings: AlignmentSettings, *, data: Path | None, out: Path) -> None:
        """Align to unlabelled images; tells the errors and saves the encoder to `out`/model.

        Args:
            settings: hyper-parameters.
            data: a folder of images of any layout, a manifest, or an `.npz` with `train_images`.
            out: receives model, decoder, checkpoints and log; see `align_encoder`.

        Raises:
            ValueError: no data, no readable image, or an encoder that cannot be aligned.
        """
        from rich.console import Console

        from foveal.scans.unlabelled_images import read_unlabelled_images
        from foveal.training.alignment import align_encoder

        if data is None:
            raise ValueError("recipe 'locality-alignment' needs images; name a folder or .npz with --data")
        done = align_encoder(read_unlabelled_images(data), settings, out)
        console = Console(soft_wrap=True, highlight=False)
        told = ", ".join(f"{name} {value:.3f}" for name, value in done.scores.items())
        console.print(f"val, {done.images['val']} images: {told} (a constant gets 1)", markup=False)
        if done.skipped:
            console.print(f"{len(done.skipped)} images left out, see {out / 'scores.json'}", markup=False)
        console.print(f"model: {out / 'model'}", markup=False)

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._locality_alignment_evidence`."""
        from foveal.recipes._locality_alignment_evidence import evidence

        return evidence(scale)


recipe = LocalityAlignmentRecipe()
