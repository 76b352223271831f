"""anopatch-tiny: the small Vision Transformer whose weights are part of this package."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from timm.layers import resample_patch_embed

from skanopatch.backbones.vit import Backbone, vit_tiny
from skanopatch.spectra.patches import PatchGrid

WEIGHTS = Path(__file__).with_name("weights") / "anopatch-tiny.safetensors"


def anopatch_tiny(grid: PatchGrid, *, pretrained: bool = True) -> Backbone:
    """Build `vit_tiny` with the weights of this package; their model card is in the docs.

    For patches that are not 16 x 16 the patch embedding is resampled (Beyer et al. 2023,
    FlexiViT); for other numbers of bands, the position embeddings are.
    """
    backbone = vit_tiny(grid)
    if pretrained:
        weights = {name: weight.float() for name, weight in load_file(WEIGHTS).items()}
        kernel = "patch_embed.proj.weight"
        weights[kernel] = resample_patch_embed(weights[kernel], [grid.height, grid.width])
        backbone.vit.load_state_dict(weights)
    return backbone
