"""Poolings: the tokens of a clip -> one vector."""

from __future__ import annotations

import torch
from torch import nn


class MeanPooling(nn.Module):
    """The mean token."""

    n_statistics = 1

    def __init__(self, n_dims: int):
        super().__init__()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Pool tokens (n_clips, n_tokens, n_dims) to (n_clips, n_dims)."""
        return tokens.mean(dim=1)


class GeMPooling(nn.Module):
    """Generalised mean with the odd exponent 3, which keeps the sign of what it averages.

    Radenović et al. 2019 (TPAMI 41, eq. 3) pool features that are never negative, and Wilkinghoff
    et al. 2026 (arXiv 2603.04605, section III-D) set negative entries to zero; here the root keeps
    the sign. Strong tokens count for more than in the mean.
    """

    n_statistics = 1

    def __init__(self, n_dims: int):
        super().__init__()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Pool tokens (n_clips, n_tokens, n_dims) to (n_clips, n_dims)."""
        return _signed_cube_root(tokens.pow(3).mean(dim=1))


class RDPPooling(nn.Module):
    """Relative-deviation pooling: tokens far from the clip's mean token weigh more.

    Wilkinghoff et al. 2026 (arXiv 2603.04605, section III-E). The weight is
    ``(1 + d / d_max) ** gamma`` with d the distance of a token to the mean token of its clip and
    d_max the largest of them. gamma is 10, the paper's value for all backbones (table III).
    """

    n_statistics = 1
    gamma = 10.0

    def __init__(self, n_dims: int):
        super().__init__()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Pool tokens (n_clips, n_tokens, n_dims) to (n_clips, n_dims)."""
        return (self.weights(tokens) * tokens).sum(dim=1)

    def weights(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the weight of each token, (n_clips, n_tokens, 1); those of a clip sum to 1."""
        deviation = (tokens - tokens.mean(dim=1, keepdim=True)).norm(dim=2)
        largest = deviation.amax(dim=1, keepdim=True).clamp_min(1e-12)
        weights = (1 + deviation / largest).pow(self.gamma)
        return (weights / weights.sum(dim=1, keepdim=True))[..., None]


class RDPGeMPooling(RDPPooling):
    """The generalised mean of `GeMPooling` with the weights of `RDPPooling`.

    Wilkinghoff et al. 2026 (arXiv 2603.04605, section III-F), with the exponent 3 and gamma 9 of
    its table III. They set negative entries to zero, which here keep their sign.
    """

    gamma = 9.0

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Pool tokens (n_clips, n_tokens, n_dims) to (n_clips, n_dims)."""
        return _signed_cube_root((self.weights(tokens) * tokens.pow(3)).sum(dim=1))


def _signed_cube_root(values: torch.Tensor) -> torch.Tensor:
    return values.sign() * values.abs().pow(1 / 3)


class AttentiveStatisticsPooling(nn.Module):
    """Attention-weighted mean and standard deviation, in the form of ECAPA-TDNN.

    Desplanques et al. 2020 (Interspeech, section 3.1): the attention of a token and channel is
    computed from the token beside the mean and deviation of its clip. The last layer starts at
    zero, so that without training this is plain statistics pooling: mean and deviation.
    """

    n_statistics = 2
    n_hidden = 128

    def __init__(self, n_dims: int):
        super().__init__()
        self.token_to_hidden = nn.Linear(n_dims, self.n_hidden)
        self.context_to_hidden = nn.Linear(2 * n_dims, self.n_hidden, bias=False)
        self.hidden_to_attention = nn.Linear(self.n_hidden, n_dims)
        nn.init.zeros_(self.hidden_to_attention.weight)
        nn.init.zeros_(self.hidden_to_attention.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Pool tokens (n_clips, n_tokens, n_dims) to (n_clips, 2 * n_dims)."""
        context = _mean_and_deviation(tokens, tokens.new_tensor(1 / tokens.shape[1]))
        # A linear layer on (token, mean, deviation), computed once a clip for the last two.
        hidden = self.token_to_hidden(tokens) + self.context_to_hidden(context)[:, None]
        attention = self.hidden_to_attention(hidden.tanh()).softmax(dim=1)
        return _mean_and_deviation(tokens, attention)


def _mean_and_deviation(tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    mean = (weights * tokens).sum(dim=1)
    variance = (weights * (tokens - mean[:, None]).square()).sum(dim=1)
    return torch.cat([mean, variance.clamp_min(1e-10).sqrt()], dim=1)


POOLINGS: dict[str, type[nn.Module]] = {
    "attentive": AttentiveStatisticsPooling,
    "mean": MeanPooling,
    "gem": GeMPooling,
    "rdp": RDPPooling,
    "rdp_gem": RDPGeMPooling,
}
