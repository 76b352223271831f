"""Plain Vision Transformers, built by timm."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.layers import PatchDropout
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from skanopatch.backbones.base import Backbone
from skanopatch.backbones.hub import Source
from skanopatch.spectra.patches import PatchGrid

# Mean and deviation of the Kaldi log-mel bins of AudioSet at 16-bit range, as measured for BEATs
# (Chen et al. 2023, the authors' code). BEATs itself divides by twice the deviation.
AUDIOSET = (15.41663, 6.55582)

# Mean and twice the deviation, by AudioMAE's own front end (Huang et al. 2022, the authors' code).
AUDIOMAE = (-4.2677393, 2 * 4.5689974)

# Whatever the arguments in a saved file say: nothing is fetched, or read from another file.
_NO_WEIGHTS: dict[str, Any] = {
    "pretrained": False,
    "pretrained_cfg": None,
    "pretrained_cfg_overlay": None,
    "checkpoint_path": None,
}

# What `vit_tiny` has position embeddings for: 192 frames (2 s) of 128 mel bins.
TINY_GRID = PatchGrid(n_time=12, n_freq=8, height=16, width=16)


class TimmBackbone(Backbone):
    """A timm Vision Transformer that reads log-mel spectrograms.

    Parameters
    ----------
    vit : nn.Module
        A timm model with ``forward_intermediates`` and ``patch_embed``, one input channel and
        dynamic image size.
    normalization : tuple of float or None, default=None
        As for `Backbone`.
    config : dict or None, default=None
        As for `Backbone`.
    """

    def __init__(
        self,
        vit: nn.Module,
        *,
        normalization: tuple[float, float] | None = None,
        config: dict[str, Any] | None = None,
    ):
        n_layers = len(vit.blocks)  # type: ignore[arg-type]
        super().__init__(
            vit.num_features,  # type: ignore[arg-type]
            n_layers,
            normalization=normalization,
            config=config,
        )
        self.vit = vit

    def drop_patches(self, share: float) -> None:
        """Leave out a share of the patches in training (Liu et al. 2022, arXiv 2208.07220)."""
        self.vit.patch_drop = PatchDropout(share, self.vit.num_prefix_tokens)  # type: ignore

    def token_grid(self, n_frames: int, n_mels: int) -> tuple[int, int]:
        """Return how many tokens there are along time and along frequency."""
        return self.vit.patch_embed.dynamic_feat_size((n_frames, n_mels))  # type: ignore

    def layer_tokens(self, log_mel: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """Return the tokens of some layers; see `Backbone.layer_tokens`."""
        return self.vit.forward_intermediates(  # type: ignore[operator]
            log_mel[:, None],
            indices=list(layers),
            norm=True,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )


class SegmentBackbone(TimmBackbone):
    """A backbone that reads long spectrograms segment by segment, as it is trained.

    Attention then costs in proportion to the length of a clip.

    Parameters
    ----------
    vit : nn.Module
        As for `Backbone`.
    segment : int
        Frames a segment.
    """

    segment: int

    def __init__(self, vit: nn.Module, *, segment: int):
        super().__init__(vit)
        self.segment = segment

    def layer_tokens(self, log_mel: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """Return the tokens of some layers; see `Backbone.layer_tokens`."""
        n_clips, n_frames, n_mels = log_mel.shape
        if n_frames <= self.segment:
            return super().layer_tokens(log_mel, layers)
        starts = [*range(0, n_frames - self.segment, self.segment), n_frames - self.segment]
        segments = torch.stack([log_mel[:, s : s + self.segment] for s in starts], dim=1)
        n_time, n_freq = self.token_grid(n_frames, n_mels)
        outputs = []
        for tokens in super().layer_tokens(segments.flatten(0, 1), layers):
            tokens = tokens.unflatten(0, (n_clips, -1))
            # The last segment ends with the clip; what the one before it covers is left out.
            n_twice = len(starts) * tokens.shape[2] - n_time * n_freq
            outputs.append(torch.cat([tokens[:, :-1].flatten(1, 2), tokens[:, -1, n_twice:]], 1))
        return outputs


def vit_tiny(grid: PatchGrid, *, pretrained: bool = False) -> SegmentBackbone:
    """Build a small ViT with random weights: 6 layers of 192 dimensions, 2.8 M parameters.

    It has the width and the heads of ViT-Ti (Touvron et al. 2021) and half its depth: deep enough
    to learn from a thousand clips, small enough to train on two CPU cores. It reads 12 patches of
    time at once: 2 s, where patches are 16 frames of 10 ms. There are no weights for it, so
    `pretrained`, which every backbone takes, changes nothing.
    """
    segment = TINY_GRID.n_time * grid.height
    vit = VisionTransformer(
        img_size=(segment, TINY_GRID.n_freq * grid.width),
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
    return SegmentBackbone(vit, segment=segment)


def timm_vit(
    name: str, grid: PatchGrid, *, pretrained: bool, config: dict[str, Any] | None = None
) -> Backbone:
    """Build any plain ViT of timm.

    A name with a tag, ``"vit_tiny_patch16_224.augreg_in21k"``, loads the weights of that tag from
    the Hugging Face hub; a name without one has random weights. Position embeddings are resampled
    to the grid, and the kernels of three colours summed to one.

    Raises
    ------
    ValueError
        If timm has no such model, or it is no plain ViT.
    """
    architecture, _, tag = name.partition(".")
    _check_architecture(architecture)
    if not (pretrained and tag):
        return TimmBackbone(_create(architecture, grid), normalization=AUDIOSET)
    pretrained_cfg = timm.get_pretrained_cfg(name)
    if pretrained_cfg is None or not pretrained_cfg.hf_hub_id:
        tags = timm.list_pretrained(f"{architecture}.*")[:5]
        raise ValueError(f"timm has no weights {name!r} on the hub. It has {tags}.")
    return _from_hub(pretrained_cfg.hf_hub_id, grid, normalization=AUDIOSET)


def hf_hub(
    what: str, grid: PatchGrid, *, pretrained: bool = True, config: dict[str, Any] | None = None
) -> Backbone:
    """Build a plain ViT from a folder or a repository of the hub in timm's form.

    Parameters
    ----------
    what : str
        A folder or a name on the hub with config.json and weights, as `Source.parse` reads it.
    grid : PatchGrid
        Position embeddings are resampled to it.
    pretrained : bool, default=True
        False builds the network of `config` with random weights, and reads no file.
    config : dict or None, default=None
        `Backbone.config` of an earlier one.
    """
    if not pretrained and config is not None:
        _check_architecture(config["architecture"])
        vit = _create(config["architecture"], grid, **{**config["model_args"], **_NO_WEIGHTS})
        return TimmBackbone(vit, normalization=AUDIOSET, config=config)
    return _from_hub(what, grid, normalization=AUDIOSET)


def audiomae(
    what: str, grid: PatchGrid, *, pretrained: bool = True, config: dict[str, Any] | None = None
) -> Backbone:
    """Build AudioMAE (Huang et al. 2022, arXiv 2207.06405) in timm's form; see `hf_hub`."""
    backbone = hf_hub(what, grid, pretrained=pretrained, config=config)
    backbone.normalization = AUDIOMAE
    return backbone


def _from_hub(what: str, grid: PatchGrid, *, normalization: tuple[float, float]) -> Backbone:
    source = Source.parse(what)
    path = source.companion("config.json")
    if path is None:
        raise FileNotFoundError(f"{source.place!r} has no config.json with the architecture.")
    stored = json.loads(path.read_text())
    config = {"architecture": stored["architecture"], "model_args": stored.get("model_args", {})}
    folder = source.weights("model.safetensors", "pytorch_model.bin").parent
    vit = _create(f"local-dir:{folder}", grid, pretrained=True)
    return TimmBackbone(vit, normalization=normalization, config=config)


def _check_architecture(name: str) -> None:
    """Refuse what is no model of timm, such as a place to load one from."""
    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:3]
        hint = f" Did you mean one of {close}?" if close else ""
        raise ValueError(f"timm has no model {name!r}.{hint}")


def _create(name: str, grid: PatchGrid, **kwargs: Any) -> nn.Module:
    size = {"img_size": (grid.n_frames, grid.n_mels), "in_chans": 1, "num_classes": 0}
    try:
        return timm.create_model(name, **{**kwargs, **size, "dynamic_img_size": True})
    except TypeError as error:
        raise ValueError(
            f"timm's {name!r} cannot be used: a plain Vision Transformer with dynamic "
            f"image size is needed ({error})."
        ) from error
