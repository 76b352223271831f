"""The skorch net that fine-tunes a backbone: precision, rates, checkpoints, resuming."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, LRScheduler
from skorch.dataset import unpack_data
from skorch.history import History
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

from skanopatch.embedding.augmentation import change, mixup
from skanopatch.embedding.layers import rate_factors
from skanopatch.files import atomic_write
from skanopatch.spectra.patches import unpatchify


class SpectrogramDataset(Dataset):
    """Spectrograms and class indices, read in whole batches.

    Parameters
    ----------
    patches : ndarray or LazyPatches of shape (n_clips, n_time, n_freq, patch_area)
        `LazyPatches` are computed batch by batch.
    target : ndarray of shape (n_clips,), int
    indices : ndarray of int
        The clips that belong to this data set.
    segment : int or None, default=None
        Frames of the random segment that each epoch takes of a clip. A clip that is not longer is
        rotated in time by a random number of frames. None takes clips as they are.
    changes : sequence of str, default=("none",)
        Kinds of `change`, of which one is drawn for each clip and epoch. Each pair of class and
        kind is a class.
    """

    def __init__(
        self,
        patches: Any,
        target: np.ndarray,
        indices: np.ndarray,
        *,
        segment: int | None = None,
        changes: Sequence[str] = ("none",),
    ):
        self.patches = patches
        self.target = target
        self.indices = indices
        self.segment = segment
        self.changes = changes
        self.epoch_seed = 0  # `EpochSeed` sets it

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[np.ndarray, int]]:
        rows = self.indices[indices]
        log_mel = unpatchify(np.asarray(self.patches[rows], dtype=np.float32))
        target = self.target[rows]
        if self.segment is not None or len(self.changes) > 1:
            n_frames = log_mel.shape[1]
            n_taken = min(self.segment or n_frames, n_frames)
            # Seeded by epoch and rows, so that any number of workers draws the same.
            seed = np.random.SeedSequence([self.epoch_seed, *rows]).generate_state(1)[0]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(seed))
                kinds = torch.randint(len(self.changes), (len(rows),)).numpy()
                if self.segment is not None and self.segment >= n_frames:
                    starts = torch.randint(n_frames, (len(rows),)).tolist()
                    log_mel = np.stack(
                        [np.roll(x, -s, axis=0) for x, s in zip(log_mel, starts, strict=True)]
                    )
                log_mel = np.stack(
                    [
                        change(clip, self.changes[kind], n_taken)
                        for clip, kind in zip(log_mel, kinds, strict=True)
                    ]
                )
            target = target * len(self.changes) + kinds
        return list(zip(log_mel, target.tolist(), strict=True))


class FineTuningNet(NeuralNet):
    """A skorch net with mixed precision and layer-wise learning rates.

    Parameters
    ----------
    *args, **kwargs
        As for `skorch.NeuralNet`.
    autocast_dtype : torch.dtype or None, default=None
        Precision of the matrix products in training; None is float32.
    layer_decay : float, default=1.0
        Learning rate of a layer over that of the one above it, see `rate_factors`.
    mixup : float, default=0.0
        Probability with which a training clip is mixed with another, see `mixup`.
    """

    is_main_process: bool = True  # which writes checkpoints and shows progress

    def __init__(
        self,
        *args: Any,
        autocast_dtype: torch.dtype | None = None,
        layer_decay: float = 1.0,
        mixup: float = 0.0,
        **kwargs: Any,
    ):
        self.autocast_dtype = autocast_dtype
        self.layer_decay = layer_decay
        self.mixup = mixup
        super().__init__(*args, **kwargs)

    def get_params_for_optimizer(
        self, prefix: str, named_parameters: Iterable[tuple[str, torch.nn.Parameter]]
    ) -> tuple[tuple[list[dict[str, Any]]], dict[str, Any]]:
        """Group the trainable parameters by learning rate; the first group has the full rate."""
        parameters = {name: p for name, p in named_parameters if p.requires_grad}
        args, kwargs = super().get_params_for_optimizer(prefix, parameters.items())
        if self.layer_decay == 1:
            return args, kwargs
        n_layers = max(self.module_.layers) + 1
        groups: dict[float, list[torch.nn.Parameter]] = {1.0: []}
        for name, factor in rate_factors(parameters, n_layers, self.layer_decay).items():
            groups.setdefault(factor, []).append(parameters[name])
        rates = [{"params": group, "lr": factor * kwargs["lr"]} for factor, group in groups.items()]
        return (rates,), kwargs

    def infer(self, x: torch.Tensor, **fit_params: Any) -> torch.Tensor:
        """Embed a batch, and return float32 for the loss."""
        with torch.autocast(
            next(self.module_.parameters()).device.type,
            dtype=self.autocast_dtype,
            enabled=self.autocast_dtype is not None,
        ):
            return super().infer(x, **fit_params).float()

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, torch.Tensor]:
        """Mix the clips of a batch with probability `mixup`, and compute loss and gradients."""
        if self.mixup > 0:
            log_mel, target = unpack_data(batch)
            batch = mixup(log_mel, target, probability=self.mixup)
        return super().train_step_single(batch, **fit_params)

    def share_parameters(self) -> None:
        """Do nothing: there is one process."""

    def train_on(self, dataset: Dataset) -> None:
        """Train until `max_epochs`, the epochs of a checkpoint included.

        Unlike in `skorch.NeuralNet.fit`, ctrl-C is an error and does not end training early.
        """
        self.notify("on_train_begin", X=dataset, y=None)
        self.fit_loop(dataset, epochs=self.max_epochs - len(self.history))
        self.notify("on_train_end", X=dataset, y=None)


class WarmupCosine(LRScheduler):
    """The learning rate of each step: a linear rise, then half a cosine down to zero.

    Parameters
    ----------
    n_steps : int
        Steps of the whole training.
    warmup : float or int
        Share of the steps, below 1, or number of steps in which the rate rises.
    """

    def __init__(self, n_steps: int, warmup: float):
        self.n_steps = n_steps
        self.warmup = warmup
        super().__init__(policy=LambdaLR, step_every="batch")

    @property
    def kwargs(self) -> dict[str, Any]:
        """What `LambdaLR` is made with; a resumed training goes on at its step."""
        return {"lr_lambda": self.factor, "last_epoch": self.batch_idx_ - 1}

    def factor(self, step: int) -> float:
        """Return the share of the full rate at a step."""
        is_share = self.warmup < 1
        n_warmup = max(1, round(self.warmup * self.n_steps if is_share else self.warmup))
        if step < n_warmup:
            return (step + 1) / n_warmup
        progress = (step - n_warmup) / max(1, self.n_steps - n_warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class EpochSeed(Callback):
    """Seed torch before each epoch, so that epoch n is the same in a resumed training."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_epoch_begin(self, net: NeuralNet, dataset_train: Any = None, **kwargs: Any) -> None:
        """Seed by the number of epochs done, the data set too."""
        epoch_seed = np.random.SeedSequence([self.seed, len(net.history)]).generate_state(1)[0]
        torch.manual_seed(int(epoch_seed))
        dataset_train.epoch_seed = int(epoch_seed)


class ResumableCheckpoint(Callback):
    """Save the state of training after each epoch, and resume from it.

    The file is replaced atomically, so that a process killed at any time leaves a whole checkpoint.

    Parameters
    ----------
    path : Path
        The file. It is read with ``weights_only=True``.
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    def restore(self, net: FineTuningNet) -> bool:
        """Load the saved state into an initialised net, if there is one.

        Returns
        -------
        is_finished : bool
            Whether the saved training was complete.
        """
        if not self.path.exists():
            return False
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        bare_module(net.module_).load_state_dict(state["module"])
        bare_module(net.criterion_).load_state_dict(state["criterion"])
        net.optimizer_.load_state_dict(state["optimizer"])
        net.history = History(state["history"])
        return state["is_finished"]

    def on_epoch_end(self, net: FineTuningNet, **kwargs: Any) -> None:
        """Save; the other callbacks come first."""
        self._save(net, is_finished=False)

    def on_train_end(self, net: FineTuningNet, **kwargs: Any) -> None:
        """Save the final weights."""
        self._save(net, is_finished=True)

    def _save(self, net: FineTuningNet, *, is_finished: bool) -> None:
        if not net.is_main_process:
            return
        state = {
            "module": bare_module(net.module_).state_dict(),
            "criterion": bare_module(net.criterion_).state_dict(),
            "optimizer": net.optimizer_.state_dict(),
            "history": _plain(net.history.to_list()),
            "is_finished": is_finished,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # torch calls a full disk "unexpected pos"
        torch.save(state, content)
        with atomic_write(self.path) as file:
            file.write(content.getbuffer())


def bare_module(module: Any) -> Any:
    """Return a module without torch's wrapper that averages gradients over processes."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def _plain(record: Any) -> Any:
    """Return a history in types that ``torch.load(weights_only=True)`` accepts."""
    if isinstance(record, dict):
        return {key: _plain(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [_plain(value) for value in record]
    return record.item() if isinstance(record, np.generic) else record


def optimizer_by_name(name: str) -> type[torch.optim.Optimizer]:
    """Return a class of `torch.optim`.

    Raises
    ------
    ValueError
        If there is no such class.
    """
    optimizer = getattr(torch.optim, name, None)
    if not (isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)):
        raise ValueError(
            "optimizer must be the name of a class in torch.optim, such as 'AdamW'. "
            f"Got {name!r} instead."
        )
    return optimizer
