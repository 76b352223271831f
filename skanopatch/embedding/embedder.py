"""AnoPatchEmbedder: patches -> one embedding per clip."""

from __future__ import annotations

import math
import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from skanopatch.audio.labels import encode_labels
from skanopatch.backbones import joins_statistics
from skanopatch.embedding.settings import FineTuning
from skanopatch.spectra.band_statistics import BandStatistics
from skanopatch.spectra.patch_statistics import PatchStatistics
from skanopatch.spectra.patches import (
    NO_USABLE_CLIP,
    ClipFeaturesMixin,
    iterate_batches,
    patch_grid,
    survey_patches,
    unpatchify,
    validate_patches,
)

# The usual mean of patches after the normalization that the backbone was trained with. Recordings
# from full scale down to -40 dB have means from -2.6 to 1.2 with BEATs, and from -1.3 to 0.8 with
# AST. With the wrong front end the mean is -3.5 (AST's before BEATs) or 1.9 (BEATs' before AST).
_LEAST_MEAN, _LARGEST_MEAN = -3.0, 1.5


def _has_columns(embedder: AnoPatchEmbedder) -> bool:
    if getattr(embedder, "fitted_output_", embedder.output) == "patches":
        raise AttributeError(
            "get_feature_names_out needs output='clip': the tokens of output='patches' are no "
            "table with named columns."
        )
    return True


class AnoPatchEmbedder(
    ClipFeaturesMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Turn each clip into one vector, by statistics or by a fine-tuned Vision Transformer.

    With `labels`, the backbone is fine-tuned with ArcFace to separate the labels, and the embedding
    is the output of its head [1]_. Labels name the machine, the unit or the operating state of a
    clip, not whether it is normal. This helps because a fault changes a sound in ways in which
    machines differ anyway.

    Without `labels`, the embedding depends on the backbone. For the small ViTs of this package it
    is the clip's `BandStatistics`, each divided by its deviation over the clips of `fit` (with
    ``output="patches"``: the patches' `PatchStatistics`). For other backbones, and with
    ``statistics=False``, it is the pooled tokens of the pre-trained network.

    Parameters
    ----------
    backbone : str, default="anopatch-tiny"
        Name of a Vision Transformer, see `skanopatch.backbones.list_backbones`:
        ``"anopatch-tiny"`` (6 layers of 192, part of this package), ``"vit_tiny"`` (the same with
        random weights), ``"timm:<name>"``, ...
    normalization : "backbone", "fit" or tuple (mean, std), default="backbone"
        The mean that is subtracted from log-mel bins, and the deviation by which they are divided.
        "backbone" takes those that the backbone was trained with, or does as "fit" if there are
        none. "fit" takes those of the training patches.
    layers : int, sequence of int, "all", "weighted" or None, default=None
        Layers whose tokens are averaged, counted from 0, or backwards from -1. None is the last
        one. "weighted" takes all, with weights that start equal and are learnt in fine-tuning.
    pooling : {"attentive", "mean", "gem", "rdp", "rdp_gem"}, default="attentive"
        How the tokens of a clip become one vector: attentive mean and deviation in the form of
        ECAPA-TDNN (without labels its attention is uniform: plain mean and deviation), their
        mean, their generalised mean with exponent 3, relative-deviation pooling, or the
        generalised mean with the weights of relative-deviation pooling.
    keep_bands : bool, default=False
        Pool over time only and put the frequency bands side by side.
    output : {"clip", "patches"}, default="clip"
        One embedding per clip, or the tokens of its patches.
    statistics : bool, default=True
        Whether statistics replace the small ViTs of this package if there are no labels. They rank
        clips better than tokens of these networks without fine-tuning.
    fine_tuning : FineTuning or None, default=None
        Settings of the training. None are its defaults. ``set_params(fine_tuning__lr=1e-4)``
        works with both.
    batch_size : int, default=32
        Clips per training step, and clips embedded at a time.
    random_state : int, RandomState instance or None, default=None
        Seed of random weights, order and augmentation. Two fits with one seed agree to the bit.
    device : str, default="auto"
        Torch device. "auto" is a CUDA device if there is one, else the CPU.
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    classes_ : list or None
        The distinct labels in the order of their first appearance, if there was a fine-tuning.
    history_ : list of dict or None
        One entry per epoch of fine-tuning, by skorch: its losses, and its seconds as "dur".
    normalization_ : tuple (mean, std) or None
        Mean and deviation of log-mel bins in use; None if statistics replace the network.
    n_features_in_ : int
        Patch area.

    See Also
    --------
    FineTuning : The settings of the training.
    BandStatistics : The statistics of a clip.

    References
    ----------
    .. [1] A. Jiang et al., "AnoPatch: Towards Better Consistency in Machine Anomalous Sound
       Detection", Interspeech 2024, arXiv 2406.11364.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import AnoPatchEmbedder, patchify
    >>> log_mel = np.random.default_rng(0).normal(size=(6, 32, 128))
    >>> AnoPatchEmbedder().fit_transform(patchify(log_mel)).shape
    (6, 186)
    >>> embedder = AnoPatchEmbedder(random_state=0).set_params(fine_tuning__max_epochs=1)
    >>> embedder.fit_transform(patchify(log_mel), labels=[0, 1, 0, 1, 0, 1]).shape
    (6, 192)
    """

    _parameter_constraints: dict = {
        "backbone": [str],
        "normalization": [StrOptions({"backbone", "fit"}), tuple, list],
        "layers": [Integral, tuple, list, StrOptions({"all", "weighted"}), None],
        "pooling": [
            StrOptions({"attentive", "gem", "mean", "rdp", "rdp_gem"})
        ],  # those of POOLINGS
        "keep_bands": ["boolean"],
        "output": [StrOptions({"clip", "patches"})],
        "statistics": ["boolean"],
        "fine_tuning": [FineTuning, None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "device": [str],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        backbone="anopatch-tiny",
        *,
        normalization="backbone",
        layers=None,
        pooling="attentive",
        keep_bands=False,
        output="clip",
        statistics=True,
        fine_tuning=None,
        batch_size=32,
        random_state=None,
        device="auto",
        verbose=0,
    ):
        self.backbone = backbone
        self.normalization = normalization
        self.layers = layers
        self.pooling = pooling
        self.keep_bands = keep_bands
        self.output = output
        self.statistics = statistics
        self.fine_tuning = fine_tuning
        self.batch_size = batch_size
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def set_params(self, **params):
        """Set parameters, also those of `fine_tuning` where that is None.

        Parameters
        ----------
        **params : dict
            Parameters, and those of the training as ``fine_tuning__<name>``.

        Returns
        -------
        self : object
        """
        is_nested = any(name.startswith("fine_tuning__") for name in params)
        if is_nested and params.get("fine_tuning", self.fine_tuning) is None:
            params["fine_tuning"] = FineTuning()
        return super().set_params(**params)

    def set_output(self, *, transform=None):
        """Set the container of embeddings; the tokens of ``output="patches"`` stay an array.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None, default=None
            Container of `transform` and `fit_transform`; None changes nothing.

        Returns
        -------
        self : object
        """
        has_columns = hasattr(self, "get_feature_names_out")
        return super().set_output(transform=transform) if has_columns else self

    @available_if(_has_columns)
    def get_feature_names_out(self, input_features=None):
        """Return the names of the columns: "anopatchembedder0" and so on.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Ignored.

        Returns
        -------
        names : ndarray of str
        """
        return super().get_feature_names_out(input_features)

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, labels=None):
        """Build the backbone for the patches, and fine-tune it if there are labels.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_time, n_freq, patch_area) or (n_clips, patch_area)
            Patches, as from `MelPatcher` or `patchify`; 2-D stands for one patch per clip. Clips
            whose patches are NaN are left out of training.
        y : None
            Ignored; drop anomalous clips with `FitOnNormal`.
        labels : array-like of shape (n_clips,), default=None
            The class of each clip, which fine-tuning learns: any hashable, such as a machine's
            name or a tuple of attributes.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If there is one distinct label only, or one is NaN, a clip's patches are NaN in part,
            or a parameter does not fit the backbone.
        MemoryError
            If a batch does not fit into the memory of the device.

        Warns
        -----
        UserWarning
            If the mean of the patches is far from that of the backbone's normalization. They
            probably come from another front end.
        """
        settings = FineTuning() if self.fine_tuning is None else self.fine_tuning
        settings._validate_params()
        X = validate_patches(self, X, reset=True)
        grid = patch_grid(X)
        self._n_mels = grid.n_mels
        self.fitted_output_ = self.output
        normalization = self._given_normalization()
        is_trained = labels is not None and settings.tuning != "frozen"
        self.classes_ = self.history_ = self.normalization_ = None
        self.module_ = self._module_params = self.statistics_ = self.scaler_ = None
        if not is_trained and self.statistics and joins_statistics(self.backbone):
            if self.device not in ("auto", "cpu"):
                from skanopatch.embedding.devices import choose_device

                choose_device(self.device)  # raises if there is none
            self._fit_statistics(X)
            return self
        import torch  # not above: statistics need none

        from skanopatch.embedding.devices import choose_device
        from skanopatch.embedding.module import EmbeddingNetwork
        from skanopatch.embedding.training import fine_tune

        device = choose_device(self.device)
        usable, measured = survey_patches(X, self.batch_size)
        params = {
            "backbone": self.backbone,
            "grid": tuple(grid),
            "normalization": measured if self.normalization == "fit" else normalization,
            "measured": measured,
            "layers": self.layers,
            "pooling": self.pooling,
            "keep_bands": self.keep_bands,
            "tuning": "frozen",
        }
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        # Torch's global generators neither change nor have an influence.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            if is_trained:
                self._check_that_fit_can_resume(settings)
                target = self._encode(labels, len(X), usable)
                module, self.history_ = fine_tune(
                    X,
                    target,
                    usable,
                    settings=settings,
                    module_params={
                        **params,
                        "n_dims": settings.n_dims,
                        "time_mask": settings.time_mask,
                        "frequency_mask": settings.frequency_mask,
                        "patch_dropout": settings.patch_dropout,
                        "tuning": settings.tuning,
                        "lora_rank": settings.lora_rank,
                    },
                    batch_size=self.batch_size,
                    seed=seed,
                    device=device,
                    verbose=bool(self.verbose),
                )
                params["n_dims"] = settings.n_dims
            else:
                module = EmbeddingNetwork(**params)
        self._module_params = {**params, "config": module.backbone.config}
        self.module_ = module.cpu().eval().requires_grad_(False)
        self.normalization_ = (float(module.mean), float(module.std))
        self._n_features_out = module.n_dims
        is_fixed = module.backbone.normalization not in (None, (0.0, 1.0))
        if self.normalization == "backbone" and is_fixed:
            self._warn_of_another_front_end(measured[0])
        return self

    def transform(self, X):
        """Embed clips.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_time, n_freq, patch_area) or (n_clips, patch_area)
            Patches. `n_time` may differ from that in `fit`: position embeddings are resampled.

        Returns
        -------
        embeddings : ndarray of shape (n_clips, n_dims), float32
            With ``output="patches"`` in `fit`, tokens (n_clips, n_time, n_freq, n_dims). NaN for
            clips whose patches are NaN.
        """
        check_is_fitted(self)
        X = validate_patches(self, X, reset=False, n_mels=self._n_mels)
        embed = self._describe if self.module_ is None else self._embed
        batches = tqdm(
            iterate_batches(X, self.batch_size),
            total=math.ceil(len(X) / self.batch_size),
            desc="Embedding",
            unit="batch",
            disable=not self.verbose,
        )
        return np.concatenate([embed(batch) for batch in batches])

    def _fit_statistics(self, X: Any) -> None:
        statistics = BandStatistics if self.output == "clip" else PatchStatistics
        # Arrays, also where scikit-learn's `transform_output` is set to pandas.
        self.statistics_ = statistics().set_output(transform="default").fit(X)
        if self.output == "clip":
            batches = iterate_batches(X, self.batch_size)
            values = np.concatenate([self.statistics_.transform(batch) for batch in batches])
            if np.isnan(values).all():
                raise ValueError(NO_USABLE_CLIP)
            self.scaler_ = (
                StandardScaler(with_mean=False).set_output(transform="default").fit(values)
            )
            self._n_features_out = values.shape[1]

    def _describe(self, batch: np.ndarray) -> np.ndarray:
        """Return the statistics of a batch."""
        values = self.statistics_.transform(batch)
        return values if self.scaler_ is None else self.scaler_.transform(values)

    def _embed(self, batch: np.ndarray) -> np.ndarray:
        """Return what the network gives for a batch."""
        import torch

        from skanopatch.embedding.devices import choose_device, memory_errors

        device = choose_device(self.device)
        module = self.module_.to(device)
        network = module.token_map if self.fitted_output_ == "patches" else module
        with torch.inference_mode(), memory_errors(self.batch_size):
            log_mel = torch.tensor(unpatchify(batch), device=device)
            return torch.cat([network(part) for part in module.parts(log_mel)]).cpu().numpy()

    def _given_normalization(self) -> tuple[float, float] | None:
        if isinstance(self.normalization, str):
            return None
        are_numbers = all(isinstance(number, Real) for number in self.normalization)
        if not are_numbers or len(self.normalization) != 2 or not self.normalization[1] > 0:
            raise ValueError(
                "normalization must be 'backbone', 'fit' or two numbers (mean, std) with std > 0. "
                f"Got {self.normalization!r} instead."
            )
        return self.normalization

    def _encode(self, labels: Any, n_clips: int, usable: np.ndarray) -> np.ndarray:
        """Set `classes_` and return the class of each clip."""
        self.classes_, target = encode_labels(labels, n_clips)
        found = np.unique(target[usable])
        if len(found) < 2:
            raise ValueError(
                "labels must have at least 2 distinct values to learn from, of clips that can be "
                f"read. Got only {self.classes_[found[0]]!r}; leave labels out to use the "
                "backbone as it is."
            )
        return target

    def _check_that_fit_can_resume(self, settings: FineTuning) -> None:
        if settings.checkpoint_dir is not None and not isinstance(self.random_state, Integral):
            raise ValueError(
                "checkpoint_dir needs a random_state that is an int: it identifies the fit to "
                f"resume. Got random_state={self.random_state!r} instead."
            )

    def _warn_of_another_front_end(self, measured: float) -> None:
        mean, std = self.normalization_
        distance = (measured - mean) / std
        if not _LEAST_MEAN <= distance <= _LARGEST_MEAN:
            warnings.warn(
                f"The patches have a mean of {measured:.1f}, and the backbone {self.backbone!r} "
                f"was trained on a mean of {mean:.1f}: they differ by {distance:.1f} times "
                f"{std:.1f}, the divisor, where {_LEAST_MEAN} to {_LARGEST_MEAN} are usual. "
                "Another front end (scale, window or unit of the logarithm) may have made them: "
                f"skanopatch.backbones.make_patcher({self.backbone!r}) makes patches that fit, and "
                "normalization='fit' takes those given as they are.",
                UserWarning,
                stacklevel=4,
            )

    def __getstate__(self):
        state = dict(super().__getstate__())
        module = state.pop("module_", None)
        if module is not None:
            from safetensors.torch import save

            # Bytes of safetensors: they have no device, and reading them executes nothing.
            weights = {name: t.cpu().contiguous() for name, t in module.state_dict().items()}
            state["_weights"] = save(weights)
        return state

    def __setstate__(self, state):
        state = dict(state)
        weights = state.pop("_weights", None)
        super().__setstate__(state)
        if hasattr(self, "_module_params"):
            self.module_ = None
        if weights is not None:
            import torch
            from safetensors.torch import load

            from skanopatch.embedding.module import EmbeddingNetwork

            with torch.random.fork_rng(devices=[]):  # leaves no trace in the global generator
                module = EmbeddingNetwork(**self._module_params, pretrained=False)
            module.load_state_dict(load(weights))
            self.module_ = module.eval().requires_grad_(False)
