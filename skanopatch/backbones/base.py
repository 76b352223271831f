"""What every backbone is: spectrograms in, tokens in the order of time out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class Backbone(nn.Module):
    """A network that reads log-mel spectrograms and writes tokens.

    Parameters
    ----------
    n_dims : int
        Width of a token.
    n_layers : int
        Number of layers.
    normalization : tuple of float or None, default=None
        What log-mel spectrograms are reduced and divided by before they come here. None stands
        for mean and deviation of the training patches.
    config : dict or None, default=None
        Architecture, in types of JSON, where the backbone's name alone does not tell it:
        `create_backbone` builds the same network from it without the file it came from.

    Attributes
    ----------
    segment : int or None
        Frames of a stretch of time that it reads at a time; None reads a clip as a whole.
    """

    segment: int | None = None

    def __init__(
        self,
        n_dims: int,
        n_layers: int,
        *,
        normalization: tuple[float, float] | None = None,
        config: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.n_dims = n_dims
        self.n_layers = n_layers
        self.normalization = normalization
        self.config = config

    def drop_patches(self, share: float) -> None:
        """Leave out a share of the patches in training, others in each clip.

        Raises
        ------
        ValueError
            If the network needs all of them.
        """
        if share > 0:
            raise ValueError(
                f"patch_dropout must be 0 for {type(self).__name__}, which needs all patches of a "
                f"clip. Got {share} instead."
            )

    def token_grid(self, n_frames: int, n_mels: int) -> tuple[int, int]:
        """Return how many tokens there are along time and along frequency."""
        raise NotImplementedError

    def layer_tokens(self, log_mel: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """Return the tokens of some layers, in the order of the layers.

        Parameters
        ----------
        log_mel : Tensor of shape (n_clips, n_frames, n_mels)
            Normalised spectrograms.
        layers : sequence of int
            Layers from 0, increasing; those after the last are not computed. Where the network
            ends with a normalisation, the tokens of every layer pass through it.

        Returns
        -------
        tokens : list of Tensor of shape (n_clips, n_tokens, n_dims)
            In the order of time.
        """
        raise NotImplementedError

    def forward(self, log_mel: torch.Tensor, layers: Sequence[int]) -> torch.Tensor:
        """Return tokens, averaged over layers; see `layer_tokens`."""
        tokens = self.layer_tokens(log_mel, layers)
        return tokens[0] if len(tokens) == 1 else torch.stack(tokens).mean(dim=0)
