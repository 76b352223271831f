"""FineTuning: how a backbone is fine-tuned."""

from __future__ import annotations

import math
from numbers import Integral, Real
from pathlib import Path

from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions


class FineTuning(BaseEstimator):
    """Settings of the training of an `AnoPatchEmbedder`.

    They are used if `AnoPatchEmbedder.fit` gets labels. Without labels nothing is trained.

    Parameters
    ----------
    tuning : {"full", "lora", "head", "frozen"}, default="full"
        The part of the backbone that is trained: all of it ("full"), low-rank updates of the query
        and value projections of its attention ("lora" [1]_), or nothing ("head"). Pooling and head
        are trained as well. "frozen" trains nothing at all, as if there were no labels.
    lora_rank : int, default=16
        Rank of the updates of "lora". 64 is usual for backbones of 768 dimensions.
    layer_decay : float, default=1.0
        Learning rate of a layer, divided by that of the layer above it.
    gradient_checkpointing : bool, default=False
        Whether to keep fewer activations in memory. Training then computes each layer twice.
    n_dims : int, default=192
        Number of dimensions of the embedding.
    scale : float or "adaptive", default=30.0
        Factor on the cosines of ArcFace [2]_. "adaptive" replaces ArcFace by sub-cluster AdaCos
        [3]_, which has 16 centres per class. Each training batch then sets the scale from its
        angles, by a rule that depends on `mixup`, see Notes.
    margin : float, default=0.2
        Angle in radians that ArcFace adds for the class of the clip. Sub-cluster AdaCos has none.
    mixup : float, default=0.0
        Probability that a training clip is mixed with another clip of its batch.
    time_mask, frequency_mask : int, default=40 and 60
        Length of the longest masks of SpecAugment [4]_, in frames and in mel bins. A mask covers
        at most half of its axis.
    patch_dropout : float, default=0.0
        Share of the patches that training leaves out at random, to be faster.
    optimizer : str, default="AdamW"
        Name of a class in `torch.optim`.
    lr : float, default=5e-4
        Learning rate after the warm-up.
    weight_decay : float, default=0.05
        Weight decay of the optimizer.
    max_epochs : int or "auto", default="auto"
        Number of passes over the training clips. "auto" is 20,000 divided by the number of clips,
        but at least 5 and at most 100.
    warmup : float or int, default=0.1
        The steps in which the learning rate rises linearly: their share of all steps if it is below
        1, else their number. Then the learning rate falls along a cosine.
    checkpoint_dir : str, Path or None, default=None
        Folder in which each epoch is saved. A fit with the same parameters and clips continues
        from there and ends with the same weights, also in another process. It needs an integer
        `random_state` of the embedder.
    n_workers : int, default=0
        Number of processes that compute patches ahead of the training.
    distributed : bool, default=False
        Whether the processes of ``accelerate launch`` train together. Each computes an equal part
        of every batch. The last batch of an epoch is filled with clips of the first. All processes
        must have access to `checkpoint_dir`.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Precision of the training. "auto" is float32 on every CPU, and bfloat16 on a CUDA device
        that multiplies it natively. Embeddings are always computed in float32.

    See Also
    --------
    AnoPatchEmbedder : The estimator that takes these settings.

    Notes
    -----
    With ``scale="adaptive"`` the scale of the next step is ``log(B) / cos(min(pi / 4, m))``. B is
    the mean over clips of a sum of ``exp(scale * cosine)`` over centres, and m the median of an
    angle, in radians:

    * with `mixup` above 0, B sums over all centres, and the angle of a clip is the sum of its
      angles to all centres of its classes, as in the code of the author of [3]_;
    * with ``mixup=0`` that scale would grow without limit. So B sums over the centres of the other
      classes, and the angle is that to the nearest centre of the clip's own class, as in AdaCos
      [5]_, equation 12.

    References
    ----------
    .. [1] E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022,
       arXiv 2106.09685.
    .. [2] J. Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition",
       CVPR 2019, equation 3.
    .. [3] K. Wilkinghoff, "Sub-cluster AdaCos: learning representations for anomalous sound
       detection", IJCNN 2021.
    .. [4] D. S. Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech
       Recognition", Interspeech 2019.
    .. [5] X. Zhang et al., "AdaCos: Adaptively Scaling Cosine Logits for Effectively Learning Deep
       Face Representations", CVPR 2019.

    Examples
    --------
    >>> from skanopatch import AnoPatchEmbedder, FineTuning
    >>> AnoPatchEmbedder(fine_tuning=FineTuning(max_epochs=10))
    AnoPatchEmbedder(fine_tuning=FineTuning(max_epochs=10))
    >>> AnoPatchEmbedder().set_params(fine_tuning__tuning="head")
    AnoPatchEmbedder(fine_tuning=FineTuning(tuning='head'))
    """

    _parameter_constraints: dict = {
        "tuning": [StrOptions({"full", "lora", "head", "frozen"})],
        "lora_rank": [Interval(Integral, 1, None, closed="left")],
        "layer_decay": [Interval(Real, 0, 1, closed="right")],
        "gradient_checkpointing": ["boolean"],
        "n_dims": [Interval(Integral, 1, None, closed="left")],
        "scale": [Interval(Real, 0, None, closed="neither"), StrOptions({"adaptive"})],
        "margin": [Interval(Real, 0, math.pi / 2, closed="left")],
        "mixup": [Interval(Real, 0, 1, closed="both")],
        "time_mask": [Interval(Integral, 0, None, closed="left")],
        "frequency_mask": [Interval(Integral, 0, None, closed="left")],
        "patch_dropout": [Interval(Real, 0, 1, closed="left")],
        "optimizer": [str],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "warmup": [
            Interval(Real, 0, 1, closed="left"),
            Interval(Integral, 1, None, closed="left"),
        ],
        "checkpoint_dir": [str, Path, None],
        "n_workers": [Interval(Integral, 0, None, closed="left")],
        "distributed": ["boolean"],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
    }

    def __init__(
        self,
        tuning="full",
        *,
        lora_rank=16,
        layer_decay=1.0,
        gradient_checkpointing=False,
        n_dims=192,
        scale=30.0,
        margin=0.2,
        mixup=0.0,
        time_mask=40,
        frequency_mask=60,
        patch_dropout=0.0,
        optimizer="AdamW",
        lr=5e-4,
        weight_decay=0.05,
        max_epochs="auto",
        warmup=0.1,
        checkpoint_dir=None,
        n_workers=0,
        distributed=False,
        precision="auto",
    ):
        self.tuning = tuning
        self.lora_rank = lora_rank
        self.layer_decay = layer_decay
        self.gradient_checkpointing = gradient_checkpointing
        self.n_dims = n_dims
        self.scale = scale
        self.margin = margin
        self.mixup = mixup
        self.time_mask = time_mask
        self.frequency_mask = frequency_mask
        self.patch_dropout = patch_dropout
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.warmup = warmup
        self.checkpoint_dir = checkpoint_dir
        self.n_workers = n_workers
        self.distributed = distributed
        self.precision = precision
