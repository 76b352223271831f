"""Whole pipelines, whose parts fit each other."""

from __future__ import annotations

from sklearn.pipeline import Pipeline, make_pipeline

from skanopatch.detectors import MahalanobisDetector
from skanopatch.patching import MelPatcher


def make_anopatch_pipeline(backbone="anopatch-tiny", *, detector=None, memory=None, **params):
    """Make the pipeline from clips to scores around a backbone.

    `MelPatcher` takes the mel settings that the backbone was trained with.

    Parameters
    ----------
    backbone : str, default="anopatch-tiny"
        Name of a Vision Transformer, see `skanopatch.backbones.list_backbones`.
    detector : estimator, default=None
        What scores the embeddings. None is `MahalanobisDetector`, which minds no scales.
    memory : str or object with the joblib.Memory interface, default=None
        Where `Pipeline` keeps what its transformers computed.
    **params : dict
        Parameters of the steps, as for `set_params`: ``melpatcher__duration=4.0``,
        ``anopatchembedder__batch_size=8``.

    Returns
    -------
    pipeline : Pipeline
        Of the steps "melpatcher", "anopatchembedder" and the detector.

    Raises
    ------
    ValueError
        If a parameter contradicts the settings of the backbone; both values are named.

    See Also
    --------
    MelPatcher.for_backbone : The first step alone.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import make_anopatch_pipeline
    >>> clips = np.random.default_rng(0).normal(size=(10, 16000))
    >>> pipe = make_anopatch_pipeline(melpatcher__duration=1.0).fit(clips)
    >>> pipe.predict(clips[:2]).shape
    (2,)
    """
    # Not above: they take as long to import as all the rest.
    from skanopatch.backbones import check_front_end
    from skanopatch.embedding import AnoPatchEmbedder

    pipeline: Pipeline = make_pipeline(
        MelPatcher.for_backbone(backbone),
        AnoPatchEmbedder(backbone),
        MahalanobisDetector() if detector is None else detector,
        memory=memory,
    ).set_params(**params)
    patcher, embedder = pipeline[0], pipeline[1]
    embedder.set_params(n_freq=patcher.n_mels // patcher.patch_size)
    check_front_end(embedder.backbone, patcher._front_end())
    return pipeline
