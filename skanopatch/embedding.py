"""AnoPatchEmbedder: patches -> one embedding a clip."""

from __future__ import annotations

import math
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import GradientNormClipping, ProgressBar
from skorch.helper import predefined_split
from tqdm.auto import tqdm

from skanopatch.finetuning.arcface import ArcFace
from skanopatch.finetuning.devices import autocast_dtype, choose_device, memory_errors
from skanopatch.finetuning.module import PatchEmbedding
from skanopatch.finetuning.net import (
    EpochSeed,
    FineTuningNet,
    PatchDataset,
    ResumableCheckpoint,
    ResumableEarlyStopping,
    WarmupCosine,
    callback_by_name,
    optimizer_by_name,
)
from skanopatch.finetuning.pooling import POOLINGS
from skanopatch.patches import iterate_batches, validate_patches


class AnoPatchEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Embed clips with a Vision Transformer, fine-tuned where labels are given.

    Without `labels` the backbone is used as it is and its tokens are pooled. With `labels`, which
    tell the clips apart (machine, unit, operating state; not normal from anomalous), the backbone
    is fine-tuned with ArcFace to tell them apart too, and the embedding is what its head gives
    [1]_. What changes in a sound when a machine breaks is much like what differs between
    machines, so distances between such embeddings show it.

    Parameters
    ----------
    backbone : str, default="vit_tiny"
        Name of a Vision Transformer, see `skanopatch.backbones.list_backbones`: ``"vit_tiny"`` (6
        layers of 192, random weights) or ``"timm:<name>"``.
    n_freq : int, default=8
        Frequency bands of the patches: ``n_mels // patch_size`` of the `MelPatcher`.
    normalization : "backbone", "fit" or tuple (mean, std), default="backbone"
        What is subtracted from the log-mel bins, and by what they are divided: what the backbone
        was trained with, the mean and deviation of the training patches, or two numbers.
    layers : int, sequence of int, "all" or None, default=None
        Layers whose tokens are averaged, from 0, or from -1 backwards. None is the last one.
    pooling : {"attentive", "mean", "gem", "rdp"}, default="attentive"
        How the tokens of a clip become one vector: attentive mean and deviation in the form of
        ECAPA-TDNN (without labels its attention is uniform: plain mean and deviation), their
        mean, their generalised mean with exponent 3, or relative-deviation pooling.
    keep_bands : bool, default=False
        Pool over time only and put the frequency bands side by side.
    output : {"clip", "patches"}, default="clip"
        One embedding a clip, or the token of each patch.
    n_dims : int, default=256
        Dimensions of a fine-tuned embedding.
    scale, margin : float, default=30.0 and 0.2
        ArcFace's factor on the cosines and angle in radians, added for the target class only.
    n_subcenters : int, default=1
        ArcFace's centres a class; more help where a label covers several states.
    time_mask, frequency_mask : int, default=80
        SpecAugment's largest masks in frames and mel bins; at most half of either axis.
    mixup : float, default=0.0
        Parameter alpha of the Beta distribution that clips of a batch are mixed by; 0 is none.
    optimizer : str, default="AdamW"
        Name of a class in `torch.optim`.
    lr : float, default=5e-4
        Learning rate after the warm-up.
    weight_decay : float, default=0.05
        Weight decay of the optimizer.
    max_epochs : int, default=20
        Passes over the training clips.
    batch_size : int, default=32
        Clips a step, and clips embedded at a time.
    warmup : float, default=0.1
        Share of the steps in which the learning rate rises linearly; then it falls along a cosine.
    gradient_clip : float or None, default=1.0
        Largest norm of a gradient.
    early_stopping : int or None, default=None
        Stop after that many epochs without a lower loss on `validation_fraction` of the clips,
        and keep the best epoch's weights.
    validation_fraction : float, default=0.1
        Share of the clips set aside for `early_stopping`.
    callbacks : sequence of str or None, default=None
        Further callbacks by their name in `skorch.callbacks`, or as ``"module:Class"``.
    checkpoint_dir : str, Path or None, default=None
        Folder where each epoch is saved. A fit with the same parameters and clips, even in
        another process after the first was killed, goes on from there to the same weights.
    n_workers : int, default=0
        Processes that compute lazy patches ahead of the training.
    random_state : int, RandomState instance or None, default=None
        Seed of random weights, order and augmentation. Two fits with one seed agree to the bit.
    device : str, default="auto"
        Torch device. "auto" is a CUDA device if there is one, else the CPU.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Precision of training; embeddings are always computed in float32. "auto" is bfloat16 where
        the device multiplies it natively, else float32.
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    classes_ : list or None
        The distinct labels in the order of their first appearance.
    history_ : list of dict or None
        Loss, learning rate and seconds of each epoch of fine-tuning.
    normalization_ : tuple (mean, std)
        What log-mel bins are normalised by.
    n_features_in_ : int
        Patch area.

    References
    ----------
    .. [1] A. Jiang et al., "AnoPatch: Towards Better Consistency in Machine Anomalous Sound
       Detection", Interspeech 2024, arXiv 2406.11364.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import AnoPatchEmbedder, patchify
    >>> log_mel = np.random.default_rng(0).normal(size=(6, 32, 128))
    >>> embedder = AnoPatchEmbedder(normalization="fit", random_state=0)
    >>> embedder.fit_transform(patchify(log_mel)).shape
    (6, 384)
    """

    _parameter_constraints: dict = {
        "backbone": [str],
        "n_freq": [Interval(Integral, 1, None, closed="left")],
        "normalization": [StrOptions({"backbone", "fit"}), tuple, list],
        "layers": [Integral, tuple, list, StrOptions({"all"}), None],
        "pooling": [StrOptions(set(POOLINGS))],
        "keep_bands": ["boolean"],
        "output": [StrOptions({"clip", "patches"})],
        "n_dims": [Interval(Integral, 1, None, closed="left")],
        "scale": [Interval(Real, 0, None, closed="neither")],
        "margin": [Interval(Real, 0, math.pi / 2, closed="left")],
        "n_subcenters": [Interval(Integral, 1, None, closed="left")],
        "time_mask": [Interval(Integral, 0, None, closed="left")],
        "frequency_mask": [Interval(Integral, 0, None, closed="left")],
        "mixup": [Interval(Real, 0, None, closed="left")],
        "optimizer": [str],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "warmup": [Interval(Real, 0, 1, closed="left")],
        "gradient_clip": [Interval(Real, 0, None, closed="neither"), None],
        "early_stopping": [Interval(Integral, 1, None, closed="left"), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "callbacks": [tuple, list, None],
        "checkpoint_dir": [str, Path, None],
        "n_workers": [Interval(Integral, 0, None, closed="left")],
        "random_state": ["random_state"],
        "device": [str],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        backbone="vit_tiny",
        *,
        n_freq=8,
        normalization="backbone",
        layers=None,
        pooling="attentive",
        keep_bands=False,
        output="clip",
        n_dims=256,
        scale=30.0,
        margin=0.2,
        n_subcenters=1,
        time_mask=80,
        frequency_mask=80,
        mixup=0.0,
        optimizer="AdamW",
        lr=5e-4,
        weight_decay=0.05,
        max_epochs=20,
        batch_size=32,
        warmup=0.1,
        gradient_clip=1.0,
        early_stopping=None,
        validation_fraction=0.1,
        callbacks=None,
        checkpoint_dir=None,
        n_workers=0,
        random_state=None,
        device="auto",
        precision="auto",
        verbose=0,
    ):
        self.backbone = backbone
        self.n_freq = n_freq
        self.normalization = normalization
        self.layers = layers
        self.pooling = pooling
        self.keep_bands = keep_bands
        self.output = output
        self.n_dims = n_dims
        self.scale = scale
        self.margin = margin
        self.n_subcenters = n_subcenters
        self.time_mask = time_mask
        self.frequency_mask = frequency_mask
        self.mixup = mixup
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.warmup = warmup
        self.gradient_clip = gradient_clip
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.callbacks = callbacks
        self.checkpoint_dir = checkpoint_dir
        self.n_workers = n_workers
        self.random_state = random_state
        self.device = device
        self.precision = precision
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, labels=None):
        """Build the backbone for the patches, and fine-tune it where labels are given.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_patches, patch_area) or (n_clips, patch_area)
            Patches in the order of time, from `MelPatcher` or `patchify`; 2-D stands for one
            patch a clip. Clips whose patches are NaN are left out of training.
        y : None
            Ignored; drop anomalous clips with `FitOnNormal`.
        labels : array-like of shape (n_clips,), default=None
            What fine-tuning tells apart: any hashable a clip, such as a machine's name or a
            tuple of attributes.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If there is one distinct label only, or a clip's patches are NaN in part.
        MemoryError
            If a batch does not fit into the memory of the device.
        """
        X, self._grid = validate_patches(self, X, n_freq=self.n_freq, reset=True)
        device = choose_device(self.device)
        random_state = check_random_state(self.random_state)
        seed = int(random_state.randint(2**31 - 1))
        usable = None
        self.normalization_ = None if self.normalization == "backbone" else self.normalization
        if labels is not None or self.normalization == "fit":
            usable, mean_and_std = _survey(X, self.batch_size)
            if self.normalization == "fit":
                self.normalization_ = mean_and_std
        # The generators of the caller stay as they are, and what ran before does not matter.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            if labels is None:
                self.classes_ = self.history_ = None
                self._module_params = self._make_module_params()
                module = PatchEmbedding(**self._module_params)
            else:
                target = self._encode_labels(labels, len(X))
                self._module_params = self._make_module_params()
                module = self._fine_tune(X, target, usable, seed, device)
        self._set_module(module)
        return self

    def transform(self, X):
        """Embed clips.

        Parameters
        ----------
        X : array-like of shape (n_clips, n_patches, patch_area) or (n_clips, patch_area)
            Patches. Their number may differ from that in `fit`: position embeddings are
            resampled.

        Returns
        -------
        embeddings : ndarray of shape (n_clips, n_dims), float32
            With ``output="patches"``, tokens (n_clips, n_tokens, n_dims). NaN for clips whose
            patches are NaN.
        """
        check_is_fitted(self)
        X, _ = validate_patches(self, X, n_freq=self.n_freq, reset=False)
        device = choose_device(self.device)
        module = self._module.to(device)
        embed = module.tokens if self.output == "patches" else module
        batches = tqdm(
            iterate_batches(X, self.batch_size),
            total=math.ceil(len(X) / self.batch_size),
            desc="Embedding",
            unit="batch",
            disable=not self.verbose,
        )
        with torch.inference_mode(), memory_errors(self.batch_size):
            return np.concatenate(
                [embed(torch.from_numpy(batch).to(device)).cpu().numpy() for batch in batches]
            )

    def _make_module_params(self) -> dict[str, Any]:
        return {
            "backbone": self.backbone,
            "grid": self._grid,
            "normalization": self.normalization_,
            "layers": self.layers,
            "pooling": self.pooling,
            "keep_bands": self.keep_bands,
            "n_dims": None if self.classes_ is None else self.n_dims,
            "time_mask": self.time_mask,
            "frequency_mask": self.frequency_mask,
        }

    def _set_module(self, module: PatchEmbedding) -> None:
        module.cpu().eval().requires_grad_(False)
        self._module = module
        self.normalization_ = (float(module.mean), float(module.std))
        self._n_features_out = module.n_dims

    def _encode_labels(self, labels: Any, n_clips: int) -> np.ndarray:
        """Return the labels as integers and keep what they stand for in `classes_`."""
        if hasattr(labels, "itertuples"):
            labels = list(labels.itertuples(index=False, name=None))
        elif hasattr(labels, "tolist"):
            labels = labels.tolist()
        labels = [tuple(label) if isinstance(label, list) else label for label in labels]
        if len(labels) != n_clips:
            raise ValueError(
                f"labels must have one entry a clip. Got {len(labels)} labels for {n_clips} clips."
            )
        nameless = [i for i, label in enumerate(labels) if label != label]
        if nameless:
            raise ValueError(
                f"labels must not be NaN. Got NaN for clip {nameless[0]}; give clips without a "
                "label one of their own, such as 'unknown'."
            )
        self.classes_ = list(dict.fromkeys(labels))
        if len(self.classes_) < 2:
            raise ValueError(
                "labels must have at least 2 distinct values to tell apart. Got only "
                f"{self.classes_[0]!r}; leave labels out to use the backbone as it is."
            )
        index = {label: i for i, label in enumerate(self.classes_)}
        return np.array([index[label] for label in labels])

    def _fine_tune(
        self, X: Any, target: np.ndarray, usable: np.ndarray, seed: int, device: torch.device
    ) -> PatchEmbedding:
        """Train backbone, pooling and head with skorch, from a checkpoint if there is one."""
        train, valid = usable, None
        if self.early_stopping is not None:
            train, valid = _split(usable, target, self.validation_fraction, seed)
        n_steps = self.max_epochs * math.ceil(len(train) / self.batch_size)
        checkpoint = self._checkpoint(X, target)
        callbacks = [EpochSeed(seed), WarmupCosine(n_steps, self.warmup)]
        if self.gradient_clip is not None:
            callbacks.append(GradientNormClipping(self.gradient_clip))
        if self.early_stopping is not None:
            callbacks.append(ResumableEarlyStopping(patience=self.early_stopping, load_best=True))
        if self.verbose:
            callbacks.append(ProgressBar())
        callbacks += [callback_by_name(name) for name in self.callbacks or ()]
        if checkpoint is not None:
            callbacks.append(checkpoint)
        net = FineTuningNet(
            PatchEmbedding,
            **{f"module__{name}": value for name, value in self._module_params.items()},
            criterion=ArcFace,
            criterion__n_dims=self.n_dims,
            criterion__n_classes=len(self.classes_),
            criterion__n_subcenters=self.n_subcenters,
            criterion__scale=self.scale,
            criterion__margin=self.margin,
            optimizer=optimizer_by_name(self.optimizer),
            optimizer__weight_decay=self.weight_decay,
            lr=self.lr,
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            iterator_train__shuffle=True,
            iterator_train__num_workers=self.n_workers,
            iterator_train__pin_memory=device.type == "cuda",
            train_split=None if valid is None else predefined_split(PatchDataset(X, target, valid)),
            callbacks=callbacks,
            autocast_dtype=autocast_dtype(device, self.precision),
            mixup_alpha=self.mixup,
            device=str(device),
            verbose=0,
        )
        with memory_errors(self.batch_size):
            net.initialize()
            is_finished = checkpoint is not None and checkpoint.restore(net)
            if not is_finished:
                net.train_on(PatchDataset(X, target, train))
        self.history_ = [
            {key: value for key, value in epoch.items() if key != "batches"}
            for epoch in net.history
        ]
        return net.module_

    def _checkpoint(self, X: Any, target: np.ndarray) -> ResumableCheckpoint | None:
        if self.checkpoint_dir is None:
            return None
        if not isinstance(self.random_state, Integral):
            raise ValueError(
                "checkpoint_dir needs a random_state that is an int, by which a fit that goes on "
                f"is told from a new one. Got random_state={self.random_state!r} instead."
            )
        params = self.get_params()
        for name in ("checkpoint_dir", "device", "n_workers", "output", "verbose"):
            del params[name]  # they do not change the weights
        fingerprint = joblib.hash((params, X, target))
        return ResumableCheckpoint(Path(self.checkpoint_dir) / f"{fingerprint}.pt")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def __getstate__(self):
        state = super().__getstate__().copy()
        module = state.pop("_module", None)
        if module is not None:
            # Plain arrays: what was fitted on a GPU loads without one, and without torch's pickle.
            state["_weights"] = {name: t.cpu().numpy() for name, t in module.state_dict().items()}
        return state

    def __setstate__(self, state):
        state = dict(state)
        weights = state.pop("_weights", None)
        super().__setstate__(state)
        if weights is not None:
            with torch.random.fork_rng(devices=[]):
                module = PatchEmbedding(**self._module_params, pretrained=False)
            # Copied, since a memory-mapped pickle hands out read-only arrays.
            module.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
            self._set_module(module)


def _survey(X: Any, batch_size: int) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the indices of clips that are not NaN, and mean and deviation of their patches."""
    usable = []
    count, mean, squares = 0, 0.0, 0.0
    for batch in iterate_batches(X, batch_size):
        is_usable = np.isfinite(batch[:, 0, 0])
        usable.append(is_usable)
        values = batch[is_usable]
        if values.size == 0:
            continue
        # Chan et al. 1983: merging batches loses no digits, as sums of squares would.
        shift = float(values.mean(dtype=np.float64)) - mean
        squares += float(values.var(dtype=np.float64)) * values.size
        squares += shift**2 * count * values.size / (count + values.size)
        mean += shift * values.size / (count + values.size)
        count += values.size
    if count == 0:
        raise ValueError("Every clip is NaN: there is nothing to learn from.")
    std = math.sqrt(squares / count)
    return np.flatnonzero(np.concatenate(usable)), (mean, std or 1.0)


def _split(
    usable: np.ndarray, target: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Set clips aside for validation, class by class where the classes are large enough."""
    classes, counts = np.unique(target[usable], return_counts=True)
    can_stratify = counts.min() >= 2 and fraction * len(usable) >= len(classes)
    return train_test_split(
        usable,
        test_size=fraction,
        stratify=target[usable] if can_stratify else None,
        random_state=seed,
    )
