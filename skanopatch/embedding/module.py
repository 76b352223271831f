"""The network that embeds spectrograms: normalisation, backbone, pooling and head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import nn

from skanopatch.backbones import create_backbone
from skanopatch.embedding.augmentation import spec_augment
from skanopatch.embedding.lora import add_lora
from skanopatch.embedding.pooling import POOLINGS
from skanopatch.spectra.patches import PatchGrid

_TOKENS_OF_A_PART = 2048


class EmbeddingNetwork(nn.Module):
    """Take the log-mel spectrograms of clips to one embedding each.

    Parameters
    ----------
    backbone : str
        A name that `create_backbone` knows.
    config : dict or None, default=None
        The architecture of a backbone that was built before, see `create_backbone`.
    grid : PatchGrid or tuple
        The patches of a clip; other lengths can be embedded later.
    normalization : tuple of float or None, default=None
        Mean and deviation; None takes the backbone's own.
    measured : tuple of float, default=(0.0, 1.0)
        Mean and deviation of the training patches, for a backbone that has none of its own.
    layers, pooling, keep_bands
        As for `AnoPatchEmbedder`.
    n_dims : int or None, default=None
        Outputs of the linear head, the dimensions of the embedding. None is no head: the embedding
        is the pooled tokens.
    time_mask, frequency_mask, patch_dropout, tuning, lora_rank
        As for `FineTuning`. Masks and dropout are applied in training mode only.
    pretrained : bool, default=True
        Whether to load the weights that the backbone's name stands for. They are not needed if a
        state dict is loaded afterwards.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        backbone: str,
        *,
        config: dict[str, Any] | None = None,
        grid: tuple[int, int, int, int],
        normalization: tuple[float, float] | None = None,
        measured: tuple[float, float] = (0.0, 1.0),
        layers: str | int | Sequence[int] | None = None,
        pooling: str = "attentive",
        keep_bands: bool = False,
        n_dims: int | None = None,
        time_mask: int = 0,
        frequency_mask: int = 0,
        patch_dropout: float = 0.0,
        tuning: str = "full",
        lora_rank: int = 16,
        pretrained: bool = True,
    ):
        super().__init__()
        grid = PatchGrid(*grid)
        self.backbone = create_backbone(backbone, grid, pretrained=pretrained, config=config)
        if keep_bands and patch_dropout:
            raise ValueError(
                "patch_dropout must be 0 with keep_bands=True, which needs the same patches of "
                f"every band. Got {patch_dropout} instead."
            )
        self.backbone.drop_patches(float(patch_dropout))
        if tuning == "lora":
            add_lora(self.backbone, rank=lora_rank)
        elif tuning != "full":
            self.backbone.requires_grad_(False)
        self.layers = _layer_indices(layers, self.backbone.n_layers)
        self.layer_logits = None
        if layers == "weighted":
            self.layer_logits = nn.Parameter(torch.zeros(len(self.layers)))
        mean, std = normalization or self.backbone.normalization or measured
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))
        self.time_mask = time_mask
        self.frequency_mask = frequency_mask
        self.keep_bands = keep_bands
        self.pooling = POOLINGS[pooling](self.backbone.n_dims)
        self.n_dims: int = self.backbone.n_dims * self.pooling.n_statistics  # type: ignore
        if keep_bands:
            self.n_dims *= self.backbone.token_grid(grid.n_frames, grid.n_mels)[1]
        self.head: nn.Module = nn.Identity()
        if n_dims is not None:
            self.head = nn.Linear(self.n_dims, n_dims)
            self.n_dims = n_dims

    @torch.no_grad()
    def standardize(self, mean: torch.Tensor, scale: torch.Tensor) -> None:
        """Change the head to first standardize features by their mean and scale (n_features,)."""
        weight, bias = self.head.get_parameter("weight"), self.head.get_parameter("bias")
        weight.div_(scale)
        bias.sub_(weight @ mean)

    def tokens(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Return the tokens (n_clips, n_tokens, n_dims), ordered by time and then by band."""
        log_mel = (log_mel - self.mean) / self.std
        if self.training:
            log_mel = spec_augment(
                log_mel, time_mask=self.time_mask, frequency_mask=self.frequency_mask
            )
        if self.layer_logits is None:
            return self.backbone(log_mel, self.layers)
        # Peters et al. 2018 (ELMo), eq. 1.
        tokens = torch.stack(self.backbone.layer_tokens(log_mel, self.layers), dim=-1)
        return tokens @ self.layer_logits.softmax(dim=0)

    def token_map(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Return the tokens on their grid, (n_clips, n_time, n_freq, n_dims)."""
        grid = self.backbone.token_grid(*log_mel.shape[1:])
        return self.tokens(log_mel).unflatten(1, grid)

    def pooled(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Return the pooled tokens, which the head takes."""
        if not self.keep_bands:
            return self.pooling(self.tokens(log_mel))
        bands = self.token_map(log_mel).transpose(1, 2)
        return self.pooling(bands.flatten(0, 1)).reshape(len(log_mel), -1)

    def parts(self, log_mel: torch.Tensor) -> Sequence[torch.Tensor]:
        """Split spectrograms into parts of few clips, which a CPU embeds faster than all at once.

        What a layer makes of few tokens stays in the cache, and its memory is used again.
        """
        if log_mel.device.type != "cpu":
            return [log_mel]
        n_tokens = math.prod(self.backbone.token_grid(*log_mel.shape[1:]))
        return log_mel.split(max(1, _TOKENS_OF_A_PART // n_tokens))

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (n_clips, n_dims) of spectrograms (n_clips, n_frames, n_mels)."""
        return self.head(self.pooled(log_mel))


def _layer_indices(layers: str | int | Sequence[int] | None, n_layers: int) -> list[int]:
    if layers is None:
        return [n_layers - 1]
    if layers in ("all", "weighted"):
        return list(range(n_layers))
    chosen: list[Any] = [layers] if isinstance(layers, Integral) else list(layers)  # type: ignore
    are_indices = all(isinstance(layer, Integral) for layer in chosen)
    if not chosen or not are_indices or not all(-n_layers <= i < n_layers for i in chosen):
        raise ValueError(
            f"layers must be indices of the backbone's {n_layers} layers, from {-n_layers} to "
            f"{n_layers - 1}. Got {layers!r} instead."
        )
    return sorted(int(layer) % n_layers for layer in chosen)
