"""The training-free recipe: a frozen network, pooling by deviation, and detectors joined."""

from __future__ import annotations

from sklearn.pipeline import Pipeline

from skanopatch.detectors import JoinedDetector, KNNDetector, MahalanobisDetector
from skanopatch.recipes.pipelines import make_anopatch_pipeline


def make_training_free_pipeline(
    backbone="anopatch-tiny",
    *,
    layers=None,
    pooling="rdp_gem",
    joining="min",
    memory=None,
    **params,
) -> Pipeline:
    """Make a pipeline from clips to scores that trains no network.

    The tokens of a frozen backbone are pooled to one embedding [1]_. Three detectors score it: the
    cosine distance to the nearest normal clip, the same divided by the local density [2]_, and the
    Mahalanobis distance. `JoinedDetector` joins their standardized scores [3]_.

    Parameters
    ----------
    backbone : str, default="anopatch-tiny"
        Name of a Vision Transformer, see `skanopatch.backbones.list_backbones`. The recipe is meant
        for large ones, such as BEATs. The small ones rank clips worse than `BandStatistics`.
    layers : int, sequence of int, "all" or None, default=None
        Layers whose tokens are averaged, as for `AnoPatchEmbedder`. None is the last one.
    pooling : {"rdp_gem", "rdp", "gem", "mean", "attentive"}, default="rdp_gem"
        How the tokens of a clip become one vector, as for `AnoPatchEmbedder`.
    joining : {"min", "mean"}, default="min"
        The minimum of the standardized scores, or their mean, as for `JoinedDetector`.
    memory : str or object with the joblib.Memory interface, default=None
        Where `Pipeline` stores the output of its transformers.
    **params : dict
        Parameters of the steps, as for `set_params`: ``melpatcher__duration=4.0``,
        ``joineddetector__density__n_density_neighbors=16``.

    Returns
    -------
    pipeline : Pipeline
        Of the steps "melpatcher", "anopatchembedder" and "joineddetector". The members of the last
        are "nearest", "density" and "mahalanobis".

    Raises
    ------
    ValueError
        If a parameter contradicts the settings of the backbone; both values are named. If `layers`
        is "weighted", which learns weights.

    See Also
    --------
    AnomalousSoundDetector : The default recipe.
    make_anopatch_pipeline : The same with any detector, and with fine-tuning.

    References
    ----------
    .. [1] K. Wilkinghoff, S. Yadav and Z.-H. Tan, "Temporal pooling strategies for training-free
       anomalous sound detection with self-supervised audio embeddings", 2026, arXiv 2603.04605.
    .. [2] K. Wilkinghoff et al., "Local density-based anomaly score normalization for domain
       generalization", 2025, arXiv 2509.10951.
    .. [3] J. Zhou and M. Wang, "Scoring backends matter more than pooling: a systematic study of
       training-free anomalous sound detection under domain shift", 2026, arXiv 2606.19269.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import make_training_free_pipeline
    >>> clips = np.random.default_rng(0).normal(size=(12, 16000))
    >>> pipe = make_training_free_pipeline(melpatcher__duration=1.0).fit(clips)
    >>> pipe.predict(clips[:2]).shape
    (2,)
    """
    if layers == "weighted":
        raise ValueError(
            "layers must be indices, 'all' or None without training. Got 'weighted' instead, whose "
            "weights are learnt; 'all' weighs layers equally."
        )
    members = [
        ("nearest", KNNDetector()),
        ("density", KNNDetector(normalization="local_density")),
        ("mahalanobis", MahalanobisDetector()),
    ]
    return make_anopatch_pipeline(
        backbone,
        detector=JoinedDetector(members, joining=joining),
        memory=memory,
        anopatchembedder__layers=layers,
        anopatchembedder__pooling=pooling,
        anopatchembedder__statistics=False,
        **params,
    )
