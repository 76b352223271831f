"""Losses on the class of each clip: ArcFace and sub-cluster AdaCos."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

Target = torch.Tensor | tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class AngularLoss(nn.Module):
    """A loss by clip, from `clip_losses`, that also takes what `mixup` gives."""

    def forward(self, embeddings: torch.Tensor, target: Target) -> torch.Tensor:
        """Return the mean loss.

        Parameters
        ----------
        embeddings : Tensor of shape (n_clips, n_dims)
        target : Tensor of shape (n_clips,), or three of them
            Class indices; or those of two classes, and the weight of the first.
        """
        if isinstance(target, torch.Tensor):
            return self.clip_losses(embeddings, target).mean()
        first, second, weight = target
        losses = weight * self.clip_losses(embeddings, first)
        return (losses + (1 - weight) * self.clip_losses(embeddings, second)).mean()

    def clip_losses(self, embeddings: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of each clip for class indices (n_clips,)."""
        raise NotImplementedError


class ArcFace(AngularLoss):
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

    def clip_losses(self, embeddings: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of each clip for class indices (n_clips,)."""
        return F.cross_entropy(self.logits(embeddings, target), target, reduction="none")


class SubClusterAdaCos(AngularLoss):
    """Cross-entropy on scaled cosines with several centres a class, and a scale that adapts.

    Wilkinghoff 2021 (IJCNN), with centres that are trained: the probability of a class is the sum
    of those of its centres. The scale starts at ``sqrt(2) * log(n_classes * n_centers - 1)``, and
    each training batch sets it to ``log(B) / cos(min(pi / 4, median))``.

    With mixup, B and median are those of the author's code: B is the mean over clips of
    ``sum(exp(scale * cosine))`` over all centres, and the median is that of the angles between a
    clip and the centres of its classes, added up. Without mixup that scale grows without bound;
    then they are those of Zhang et al. 2019 (CVPR), eq. 12: over the centres of other classes, and
    of the angles to the nearest centre of the clip's class.

    Parameters
    ----------
    n_dims : int
        Dimensions of an embedding.
    n_classes : int
        Number of classes.
    n_centers : int, default=16
        Centres of a class.
    """

    scale: torch.Tensor

    def __init__(self, n_dims: int, n_classes: int, *, n_centers: int = 16):
        super().__init__()
        self.centers = nn.Parameter(torch.empty(n_classes, n_centers, n_dims))
        nn.init.normal_(self.centers)  # their directions are uniform on the sphere
        start = math.sqrt(2) * math.log(n_classes * n_centers - 1)
        self.register_buffer("scale", torch.tensor(start))

    def forward(self, embeddings: torch.Tensor, target: Target) -> torch.Tensor:
        """Adapt the scale in training mode, and return the mean loss; see `AngularLoss`."""
        if self.training:
            self._adapt(embeddings.detach(), target)
        return super().forward(embeddings, target)

    def cosines(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the cosines to all centres, (n_clips, n_classes, n_centers)."""
        directions = F.normalize(embeddings, dim=1)
        return torch.einsum("nd,ckd->nck", directions, F.normalize(self.centers, dim=2))

    def clip_losses(self, embeddings: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of each clip for class indices (n_clips,)."""
        logits = (self.scale * self.cosines(embeddings)).logsumexp(dim=2)
        return F.cross_entropy(logits, target, reduction="none")

    @torch.no_grad()
    def _adapt(self, embeddings: torch.Tensor, target: Target) -> None:
        cosines = self.cosines(embeddings).clamp(-1, 1)
        counted = torch.ones_like(cosines, dtype=torch.bool)
        if isinstance(target, torch.Tensor):
            is_own = F.one_hot(target, cosines.shape[1]).bool()
            counted[is_own] = False
            angles = torch.acos(cosines[is_own].amax(dim=1))
        else:
            first, second, weight = target
            of_class = torch.acos(cosines).sum(dim=2)
            angles = weight * of_class.gather(1, first[:, None])[:, 0]
            angles += (1 - weight) * of_class.gather(1, second[:, None])[:, 0]
            angles *= 1 + (first != second) * (weight < 1)  # the number of classes of a clip
        log_sum = (self.scale * cosines[counted]).logsumexp(dim=0) - math.log(len(embeddings))
        self.scale.copy_(log_sum / angles.quantile(0.5).clamp_max(math.pi / 4).cos())
