"""Plain Vision Transformers, built by timm."""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from skanopatch.patches import PatchGrid

# Mean and deviation of the Kaldi log-mel bins of AudioSet at 16-bit range, as measured for BEATs
# (Chen et al. 2023, the authors' code). BEATs itself divides by twice the deviation.
AUDIOSET_MEAN, AUDIOSET_STD = 15.41663, 6.55582


class Backbone(nn.Module):
    """A timm Vision Transformer that reads log-mel spectrograms.

    Parameters
    ----------
    vit : nn.Module
        A timm model with ``forward_intermediates`` and ``patch_embed``, one input channel and
        dynamic image size.
    normalization : tuple of float, default=(15.41663, 6.55582)
        Mean and deviation by which log-mel spectrograms are normalised for it.

    Attributes
    ----------
    n_dims : int
        Width of a token.
    n_layers : int
        Number of layers.
    """

    def __init__(
        self,
        vit: nn.Module,
        *,
        normalization: tuple[float, float] = (AUDIOSET_MEAN, AUDIOSET_STD),
    ):
        super().__init__()
        self.vit = vit
        self.normalization = normalization
        self.n_dims: int = vit.num_features  # type: ignore[assignment]
        self.n_layers = len(vit.blocks)  # type: ignore[arg-type]

    def token_grid(self, n_frames: int, n_mels: int) -> tuple[int, int]:
        """Return how many tokens there are along time and along frequency."""
        return self.vit.patch_embed.dynamic_feat_size((n_frames, n_mels))  # type: ignore

    def forward(self, log_mel: torch.Tensor, layers: Sequence[int]) -> torch.Tensor:
        """Return tokens, averaged over layers.

        Parameters
        ----------
        log_mel : Tensor of shape (n_clips, n_frames, n_mels)
            Normalised spectrograms.
        layers : sequence of int
            Layers from 0 whose outputs, after the final normalisation, are averaged.

        Returns
        -------
        tokens : Tensor of shape (n_clips, n_tokens, n_dims)
            In the order of time.
        """
        outputs = self.vit.forward_intermediates(  # type: ignore[operator]
            log_mel[:, None],
            indices=list(layers),
            norm=True,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return outputs[0] if len(outputs) == 1 else torch.stack(outputs).mean(dim=0)


def vit_tiny(grid: PatchGrid) -> Backbone:
    """Build a small ViT with random weights: 6 layers of 192 dimensions, 2.8 M parameters.

    It has the width and the heads of ViT-Ti (Touvron et al. 2021) and half its depth: deep enough
    to learn from a thousand clips, small enough to train on two CPU cores.
    """
    vit = VisionTransformer(
        img_size=(grid.n_frames, grid.n_mels),
        patch_size=(grid.height, grid.width),
        in_chans=1,
        num_classes=0,
        global_pool="",
        embed_dim=192,
        depth=6,
        num_heads=3,
        class_token=False,
        dynamic_img_size=True,
    )
    return Backbone(vit)


def timm_vit(name: str, grid: PatchGrid, *, pretrained: bool) -> Backbone:
    """Build any plain ViT of timm.

    A name with a tag, ``"vit_tiny_patch16_224.augreg_in21k"``, loads the weights of that tag from
    the Hugging Face hub; a name without one has random weights. Position embeddings are resampled
    to the grid.

    Raises
    ------
    ValueError
        If timm has no such model, or it is no plain ViT.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = timm.list_models(f"*{architecture}*")[:3]
        hint = f" Did you mean one of {close}?" if close else ""
        raise ValueError(f"timm has no model {architecture!r}.{hint}")
    try:
        vit = timm.create_model(
            name,
            pretrained=pretrained and bool(tag),
            img_size=(grid.n_frames, grid.n_mels),
            in_chans=1,
            num_classes=0,
            dynamic_img_size=True,
        )
    except TypeError as error:
        raise ValueError(
            f"timm's {architecture!r} cannot be used: a plain Vision Transformer with dynamic "
            f"image size is needed ({error})."
        ) from error
    return Backbone(vit)
