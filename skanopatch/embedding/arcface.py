"""ArcFace: an additive angular margin on the class of each clip."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


class ArcFace(nn.Module):
    """Cross-entropy on scaled cosines, with an angular margin on the target class only.

    Deng et al. 2019 (CVPR), eq. 3.

    Parameters
    ----------
    n_dims : int
        Dimensions of an embedding.
    n_classes : int
        Number of classes.
    scale : float, default=30.0
        Factor on the cosines.
    margin : float, default=0.2
        Angle in radians that is added to that between an embedding and its own class.
    """

    def __init__(self, n_dims: int, n_classes: int, *, scale: float = 30.0, margin: float = 0.2):
        super().__init__()
        self.centers = nn.Parameter(torch.empty(n_classes, n_dims))
        nn.init.normal_(self.centers)  # their directions are uniform on the sphere
        self.scale = scale
        self.margin = margin

    def logits(self, embeddings: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return scaled cosines (n_clips, n_classes), those of the targets with the margin."""
        directions = F.normalize(embeddings, dim=1)
        cosine = directions @ F.normalize(self.centers, dim=1).T
        own = cosine.gather(1, target[:, None])
        sine = (1 - own.square()).clamp_min(1e-12).sqrt()
        with_margin = own * math.cos(self.margin) - sine * math.sin(self.margin)
        # Above an angle of pi - margin the cosine would rise; a straight line goes on falling.
        with_margin = torch.where(
            own > -math.cos(self.margin), with_margin, own - self.margin * math.sin(self.margin)
        )
        return self.scale * cosine.scatter(1, target[:, None], with_margin)

    def forward(self, embeddings: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of embeddings (n_clips, n_dims) with class indices (n_clips,)."""
        return F.cross_entropy(self.logits(embeddings, target), target)
