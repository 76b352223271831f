"""Whole pipelines, whose parts fit each other."""

from __future__ import annotations

import numpy as np
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import gen_batches

from skanopatch.detectors import MahalanobisDetector, SubbandKNNDetector
from skanopatch.spectra.lazy_patches import LazyPatches

_BATCH_SIZE = 64  # clips whose tokens are held at a time


def make_anopatch_pipeline(backbone="anopatch-tiny", *, detector=None, memory=None, **params):
    """Make a pipeline from clips to scores with a backbone of your choice.

    `MelPatcher` takes the mel settings that the backbone was trained with.

    Parameters
    ----------
    backbone : str, default="anopatch-tiny"
        Name of a Vision Transformer, see `skanopatch.backbones.list_backbones`.
    detector : estimator, default=None
        Scores the embeddings. None is `MahalanobisDetector`.
    memory : str or object with the joblib.Memory interface, default=None
        Where `Pipeline` stores the output of its transformers.
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
    skanopatch.backbones.make_patcher : The first step alone.

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
    from skanopatch.backbones import check_front_end, make_patcher
    from skanopatch.embedding.embedder import AnoPatchEmbedder

    pipeline: Pipeline = make_pipeline(
        make_patcher(backbone),
        AnoPatchEmbedder(backbone),
        MahalanobisDetector() if detector is None else detector,
        memory=memory,
    ).set_params(**params)
    check_front_end(pipeline[1].backbone, pipeline[0].front_end)
    return pipeline


def make_map_pipeline(backbone="anopatch-tiny", *, detector=None, memory=None, **params):
    """Make a pipeline from clips to anomaly maps: where in time and frequency a clip is anomalous.

    Parameters
    ----------
    backbone : str, default="anopatch-tiny"
        Name of a Vision Transformer, see `skanopatch.backbones.list_backbones`.
    detector : estimator with `anomaly_map`, default=None
        Compares the tokens. None is `SubbandKNNDetector`.
    memory : str or object with the joblib.Memory interface, default=None
        Where `Pipeline` stores the output of its transformers.
    **params : dict
        Parameters of the steps, as for `set_params`: ``melpatcher__duration=4.0``.

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
    anomaly_map : The maps of clips.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import anomaly_map, make_map_pipeline
    >>> clips = np.random.default_rng(0).normal(size=(12, 16000))
    >>> pipe = make_map_pipeline(melpatcher__duration=1.0).fit(clips)
    >>> anomaly_map(pipe, clips[:2]).shape
    (2, 6, 8)
    """
    return make_anopatch_pipeline(
        backbone,
        detector=SubbandKNNDetector() if detector is None else detector,
        memory=memory,
        anopatchembedder__output="patches",
        **params,
    )


def anomaly_map(pipeline, X):
    """Return where in time and frequency clips are anomalous.

    Parameters
    ----------
    pipeline : Pipeline or AnomalousSoundDetector
        Fitted. Its last step has `anomaly_map`, as in a pipeline of `make_map_pipeline`.
    X : sequence of clips
        What `pipeline.predict` takes.

    Returns
    -------
    maps : ndarray of shape (n_clips, n_time, n_freq)
        Float64, higher = more anomalous, 1 is the threshold; NaN for clips that cannot be read.

    Raises
    ------
    TypeError
        If the last step has no `anomaly_map`.

    Notes
    -----
    Tokens are computed and compared in batches, so only the maps need memory for each clip.

    See Also
    --------
    make_map_pipeline : Make such a pipeline.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import anomaly_map, make_map_pipeline
    >>> clips = np.random.default_rng(0).normal(size=(12, 16000))
    >>> pipe = make_map_pipeline(melpatcher__duration=1.0).fit(clips)
    >>> anomaly_map(pipe, clips).shape
    (12, 6, 8)
    """
    if hasattr(pipeline, "anomaly_map"):
        return pipeline.anomaly_map(X)
    detector = pipeline[-1]
    if not hasattr(detector, "anomaly_map"):
        raise TypeError(
            "The last step of the pipeline must have anomaly_map, as SubbandKNNDetector and "
            f"PatchKNNDetector do. Got {detector!r} instead."
        )
    patches = pipeline[0].transform(X)
    if isinstance(patches, LazyPatches):
        batches = patches.batches(_BATCH_SIZE)
    else:
        batches = (patches[rows] for rows in gen_batches(len(patches), _BATCH_SIZE))
    others = pipeline[1:-1] if len(pipeline) > 2 else FunctionTransformer()
    return np.concatenate([detector.anomaly_map(others.transform(batch)) for batch in batches])
