"""AnoPatchEmbedder: patches -> one embedding a clip."""

from __future__ import annotations

import math
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from skanopatch.backbones import check_front_end, joins_statistics
from skanopatch.band_statistics import BandStatistics
from skanopatch.feature_notes import MOST_CLASSES, FeatureNotes, SeenClips, with_notes
from skanopatch.finetuning.devices import choose_device, memory_errors
from skanopatch.finetuning.head import WITHIN_A_CLASS, hear_classes
from skanopatch.finetuning.module import PatchEmbedding
from skanopatch.finetuning.net import PatchDataset
from skanopatch.finetuning.pooling import POOLINGS
from skanopatch.finetuning.training import fine_tune
from skanopatch.labels import are_worth_learning, cluster, encode_labels
from skanopatch.patch_statistics import PatchStatistics
from skanopatch.patches import iterate_batches, measure_log_unit, survey_patches, validate_patches
from skanopatch.persistence import PersistenceMixin
from skanopatch.shared_subspace import SharedSubspace


class AnoPatchEmbedder(
    PersistenceMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Embed clips with a Vision Transformer, fine-tuned where labels are given.

    With `labels`, which tell the clips apart (machine, unit, operating state; not normal from
    anomalous), the backbone is fine-tuned with ArcFace to tell them apart too, and the embedding
    is what its head gives [1]_: what changes in a sound when a machine breaks is much like what
    differs between machines. Without `labels` the backbone is used as it is and its tokens are
    pooled, or `pretext` makes labels. What plain statistics of the spectrum know comes first in
    an embedding with the small backbones of this package, see `statistics`.

    Parameters
    ----------
    backbone : str, default="anopatch-tiny"
        Name of a Vision Transformer, see `skanopatch.backbones.list_backbones`:
        ``"anopatch-tiny"`` (6 layers of 192, part of this package), ``"vit_tiny"`` (the same with
        random weights), ``"timm:<name>"``, ...
    n_freq : int, default=8
        Frequency bands of the patches: ``n_mels // patch_size`` of the `MelPatcher`.
    normalization : "backbone", "fit" or tuple (mean, std), default="backbone"
        What is subtracted from the log-mel bins, and by what they are divided: what the backbone
        was trained with (where that is nothing fixed: as "fit"), the mean and deviation of the
        training patches, or two numbers.
    layers : int, sequence of int, "all", "weighted" or None, default=None
        Layers whose tokens are averaged, from 0, or from -1 backwards. None is the last one.
        "weighted" are all, with weights that fine-tuning learns and that start equal.
    pooling : {"attentive", "mean", "gem", "rdp"}, default="attentive"
        How the tokens of a clip become one vector: attentive mean and deviation in the form of
        ECAPA-TDNN (without labels its attention is uniform: plain mean and deviation), their
        mean, their generalised mean with exponent 3, or relative-deviation pooling.
    keep_bands : bool, default=False
        Pool over time only and put the frequency bands side by side.
    output : {"clip", "patches"}, default="clip"
        One embedding a clip, or the token of each patch.
    statistics : bool or "auto", default="auto"
        Whether the clip's `BandStatistics`, or the patches' `PatchStatistics` with
        ``output="patches"``, come before what the network gives. Labels turn the former into
        the `SharedSubspace` of their classes. "auto" is False with other backbones than the small
        ViTs of this package. With those statistics come beside a network that is fine-tuned, and
        stand alone where none is: without labels, with fewer than 64 clips, and with fewer than
        500 whose labels are not heard, which a linear classifier of the statistics finds out.
        The scales differ: `MahalanobisDetector` does not mind, distances of `KNNDetector` do.
    pretext : {"augmentation", "cluster"} or None, default=None
        What fine-tuning tells apart. "augmentation": which of seven changes (pitch, tempo, tilt,
        up, down or none) was made to a clip, and its label if it has one. "cluster": without
        labels, clusters of the clips' statistics. None: the labels alone.
    tuning : {"full", "lora", "head", "frozen"}, default="full"
        What fine-tuning trains beside pooling and head: the whole backbone, low-rank updates of
        its attention (LoRA [2]_), or nothing of it. "frozen" trains nothing at all, as if there
        were no labels.
    lora_rank : int, default=16
        Rank of LoRA's updates; 64 is usual for backbones of 768 dimensions.
    lora_targets : sequence of {"q", "k", "v"}, default=("q", "v")
        The projections of attention that LoRA updates: query, key, value.
    layer_decay : float, default=1.0
        Learning rate of a layer of the backbone over that of the layer above it.
    gradient_checkpointing : bool, default=False
        Compute the layers twice in training, instead of keeping what is in them in memory.
    n_dims : int, default=32
        Dimensions of a fine-tuned embedding. Beside statistics, of those of them are kept the
        principal directions that hold 95 % of how clips vary within their classes.
    scale, margin : float, default=30.0 and 0.2
        ArcFace's factor on the cosines and angle in radians, added for the target class only.
    n_subcenters : int, default=1
        ArcFace's centres a class; more help where a label covers several states.
    time_mask, frequency_mask : int, default=40 and 60
        SpecAugment's largest masks in frames and mel bins; at most half of either axis.
    patch_dropout : float or "auto", default="auto"
        Share of the patches that training leaves out, others each time: it takes less time and
        learns less by heart. "auto" is half with the small ViTs of this package, else none.
    mixup : float, default=0.0
        Parameter alpha of the Beta distribution that clips of a batch are mixed by; 0 is none.
    optimizer : str, default="AdamW"
        Name of a class in `torch.optim`.
    lr : float, default=5e-4
        Learning rate after the warm-up.
    weight_decay : float, default=0.05
        Weight decay of the optimizer.
    max_epochs : int or "auto", default="auto"
        Passes over the training clips. "auto" are as many as make 20,000 clips, but at least 5 and
        at most 100.
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
        What skorch records of each epoch of fine-tuning: its losses, and its seconds as "dur".
    normalization_ : tuple (mean, std)
        What log-mel bins are normalised by.
    n_features_in_ : int
        Patch area.

    References
    ----------
    .. [1] A. Jiang et al., "AnoPatch: Towards Better Consistency in Machine Anomalous Sound
       Detection", Interspeech 2024, arXiv 2406.11364.
    .. [2] E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022,
       arXiv 2106.09685.

    Examples
    --------
    >>> import numpy as np
    >>> from skanopatch import AnoPatchEmbedder, patchify
    >>> log_mel = np.random.default_rng(0).normal(size=(6, 32, 128))
    >>> embedder = AnoPatchEmbedder(random_state=0)
    >>> embedder.fit_transform(patchify(log_mel)).shape
    (6, 186)
    """

    _parameter_constraints: dict = {
        "backbone": [str],
        "n_freq": [Interval(Integral, 1, None, closed="left")],
        "normalization": [StrOptions({"backbone", "fit"}), tuple, list],
        "layers": [Integral, tuple, list, StrOptions({"all", "weighted"}), None],
        "pooling": [StrOptions(set(POOLINGS))],
        "keep_bands": ["boolean"],
        "output": [StrOptions({"clip", "patches"})],
        "statistics": ["boolean", StrOptions({"auto"})],
        "pretext": [StrOptions({"augmentation", "cluster"}), None],
        "tuning": [StrOptions({"full", "lora", "head", "frozen"})],
        "lora_rank": [Interval(Integral, 1, None, closed="left")],
        "lora_targets": [tuple, list],
        "layer_decay": [Interval(Real, 0, 1, closed="right")],
        "gradient_checkpointing": ["boolean"],
        "n_dims": [Interval(Integral, 1, None, closed="left")],
        "scale": [Interval(Real, 0, None, closed="neither")],
        "margin": [Interval(Real, 0, math.pi / 2, closed="left")],
        "n_subcenters": [Interval(Integral, 1, None, closed="left")],
        "time_mask": [Interval(Integral, 0, None, closed="left")],
        "frequency_mask": [Interval(Integral, 0, None, closed="left")],
        "patch_dropout": [Interval(Real, 0, 1, closed="left"), StrOptions({"auto"})],
        "mixup": [Interval(Real, 0, None, closed="left")],
        "optimizer": [str],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
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
        backbone="anopatch-tiny",
        *,
        n_freq=8,
        normalization="backbone",
        layers=None,
        pooling="attentive",
        keep_bands=False,
        output="clip",
        statistics="auto",
        pretext=None,
        tuning="full",
        lora_rank=16,
        lora_targets=("q", "v"),
        layer_decay=1.0,
        gradient_checkpointing=False,
        n_dims=32,
        scale=30.0,
        margin=0.2,
        n_subcenters=1,
        time_mask=40,
        frequency_mask=60,
        patch_dropout="auto",
        mixup=0.0,
        optimizer="AdamW",
        lr=5e-4,
        weight_decay=0.05,
        max_epochs="auto",
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
        self.statistics = statistics
        self.pretext = pretext
        self.tuning = tuning
        self.lora_rank = lora_rank
        self.lora_targets = lora_targets
        self.layer_decay = layer_decay
        self.gradient_checkpointing = gradient_checkpointing
        self.n_dims = n_dims
        self.scale = scale
        self.margin = margin
        self.n_subcenters = n_subcenters
        self.time_mask = time_mask
        self.frequency_mask = frequency_mask
        self.patch_dropout = patch_dropout
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
            tuple of attributes. Of how many clips it takes, `statistics` tells.

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
        """
        made_with = getattr(X, "front_end", None)
        check_front_end(self.backbone, made_with)
        X, self._grid = validate_patches(self, X, n_freq=self.n_freq, reset=True)
        self._log_unit = measure_log_unit(X, self._grid, made_with)
        device = choose_device(self.device)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        usable, measured = survey_patches(X, self.batch_size)
        target = self._target(labels, X, usable, seed)
        is_auto = self.statistics == "auto" and joins_statistics(self.backbone)
        self._has_statistics = is_auto or (self.statistics != "auto" and bool(self.statistics))
        bands = None
        if self._has_statistics and self.classes_ is not None:
            bands = self._bands().fit_transform(X)
        learns = target is not None
        if learns and is_auto and self.pretext is None:
            learns = are_worth_learning(target[usable], bands[usable])
        self._has_network = learns or not is_auto
        self._module_params = {
            "backbone": self.backbone,
            "grid": self._grid,
            "normalization": self._normalization(measured),
            "measured": measured,
            "layers": self.layers,
            "pooling": self.pooling,
            "keep_bands": self.keep_bands,
            "n_dims": self.n_dims if learns else None,
            "time_mask": self.time_mask,
            "frequency_mask": self.frequency_mask,
            "patch_dropout": self.patch_dropout,
            "tuning": self.tuning if learns else "frozen",
            "lora_rank": self.lora_rank,
            "lora_targets": self.lora_targets,
        }
        self.history_ = self._heard_classes = None
        # The generators of the caller stay as they are, and what ran before does not matter.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            if not learns:
                module = PatchEmbedding(**self._module_params)
                self._check_module(module)
            else:
                module, self.history_ = fine_tune(
                    self,
                    X,
                    target,
                    usable,
                    module_params=self._module_params,
                    seed=seed,
                    device=device,
                )
                self._module_params["n_dims"] = module.n_dims
                is_told = bands is None and self.classes_ is not None and self.output == "clip"
                if is_told and len(self.classes_) <= MOST_CLASSES:
                    clips = PatchDataset(X, target, usable, n_freq=self._grid.n_freq)
                    heard = hear_classes(module, clips, self.batch_size, device)
                    self._heard_classes = SeenClips(*heard)
        self._subspace = None if bands is None else SharedSubspace().fit(bands, labels=target)
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
            patches are NaN. The array of one embedding a clip tells detectors how many features
            statistics and network have, which classes were told apart, and how clips would look
            that were not in the training.
        """
        check_is_fitted(self)
        check_front_end(self._module_params["backbone"], getattr(X, "front_end", None))
        X, _ = validate_patches(self, X, n_freq=self.n_freq, reset=False, n_mels=self._grid.n_mels)
        device = choose_device(self.device)
        self._module.to(device)
        batches = tqdm(
            iterate_batches(X, self.batch_size),
            total=math.ceil(len(X) / self.batch_size),
            desc="Embedding",
            unit="batch",
            disable=not self.verbose,
        )
        with torch.inference_mode(), memory_errors(self.batch_size):
            embeddings = np.concatenate([self._embed(batch, device) for batch in batches])
        if self.output == "patches":
            return embeddings
        n_dims = self._module.n_dims if self._has_network else 0
        blocks = tuple(size for size in (embeddings.shape[1] - n_dims, n_dims) if size)
        subspace = self._subspace
        seen = subspace.seen_clips(WITHIN_A_CLASS) if subspace else self._heard_classes
        notes = FeatureNotes(blocks, seen) if seen is not None or len(blocks) > 1 else None
        return with_notes(embeddings, notes)

    def _embed(self, batch: np.ndarray, device: torch.device) -> np.ndarray:
        parts = []
        if self._has_statistics:
            parts.append(self._statistics(batch))
        if self._has_network:
            patches = torch.tensor(batch, device=device)  # a copy: the array may be read-only
            network = self._module if self.output == "clip" else self._module.tokens
            parts.append(network(patches).cpu().numpy())
        return np.concatenate(parts, axis=-1)

    def _statistics(self, batch: np.ndarray) -> np.ndarray:
        """Compute the statistics of the output that is asked for."""
        if self.output == "patches":
            return PatchStatistics(self.n_freq, log_unit=self._log_unit).fit_transform(batch)
        bands = self._bands().fit_transform(batch)
        return bands if self._subspace is None else WITHIN_A_CLASS * self._subspace.transform(bands)

    def _bands(self) -> BandStatistics:
        return BandStatistics(self.n_freq, log_unit=self._log_unit)

    def _normalization(self, measured: tuple[float, float]) -> tuple[float, float] | None:
        if isinstance(self.normalization, str):
            return measured if self.normalization == "fit" else None
        are_numbers = all(isinstance(number, Real) for number in self.normalization)
        if not are_numbers or len(self.normalization) != 2 or not self.normalization[1] > 0:
            raise ValueError(
                "normalization must be 'backbone', 'fit' or two numbers (mean, std) with std > 0. "
                f"Got {self.normalization!r} instead."
            )
        return self.normalization

    def _check_module(self, module: PatchEmbedding) -> None:
        if self._has_statistics and self._has_network and self.output == "patches":
            module.check_tokens_are_patches(self.statistics)

    def _target(self, labels: Any, X: Any, usable: np.ndarray, seed: int) -> np.ndarray | None:
        """Return the class of each clip that fine-tuning tells apart, None without fine-tuning."""
        self.classes_ = None
        if self.tuning == "frozen":
            return None
        if labels is not None:
            self.classes_, target = encode_labels(labels, len(X))
            heard = np.unique(target[usable])
            if len(heard) < 2:
                raise ValueError(
                    "labels must have at least 2 distinct values to tell apart, of clips that can "
                    f"be read. Got only {self.classes_[heard[0]]!r}; leave labels out to use the "
                    "backbone as it is."
                )
            return target
        if self.pretext is None:
            return None
        target = np.zeros(len(X), dtype=int)
        if self.pretext == "cluster":
            target[usable] = cluster(self._bands().fit_transform(X)[usable], seed)
        return target

    def _set_module(self, module: PatchEmbedding) -> None:
        module.cpu().eval().requires_grad_(False)
        self._module = module
        self._module_params["config"] = module.backbone.config
        self.normalization_ = (float(module.mean), float(module.std))
        self._n_features_out = 0
        if self._has_statistics:
            n_time, n_freq, height, width = self._grid
            a_clip = np.zeros((1, n_time * n_freq, height * width), dtype=np.float32)
            self._n_features_out += self._statistics(a_clip).shape[-1]
        if self._has_network:
            is_clip = self.output == "clip"
            self._n_features_out += module.n_dims if is_clip else module.backbone.n_dims

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
