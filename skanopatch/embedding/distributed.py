"""Fine-tuning by several processes at once, which `accelerate launch` starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from skorch.hf import AccelerateMixin
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler

from skanopatch.embedding.net import FineTuningNet


class DistributedNet(AccelerateMixin, FineTuningNet):
    """A `FineTuningNet` whose steps are shared by the processes of an `Accelerator`.

    Each process computes an equal part of every batch, and all have the mean of their gradients.
    Losses are means over the processes.
    """

    @property
    def is_main_process(self) -> bool:  # type: ignore[override]
        """Whether this is the first process."""
        return self.accelerator.is_main_process

    def share_parameters(self) -> None:
        """Take the parameters of the first process, whose rounding may differ."""
        from accelerate.utils import broadcast

        broadcast([parameter.data for parameter in self.module_.parameters()])

    def get_iterator(self, dataset: Dataset, training: bool = False) -> DataLoader:
        """Return the batches of this process."""
        if training:
            self.iterator_train__shuffle = False
            self.iterator_train__sampler = SharedOrder(dataset, self.accelerator.process_index)
        return super().get_iterator(dataset, training=training)

    def train_step(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """Do a step; its loss is that of the whole batch."""
        step = super().train_step(batch, **fit_params)
        return {**step, "loss": self.accelerator.reduce(step["loss"].detach(), reduction="mean")}


class SharedOrder(Sampler):
    """The random order that one process would take, the same in every process.

    Parameters
    ----------
    dataset : Dataset
    process_index : int
        The generator of the process is seeded by it afterwards, so that masks differ.
    """

    def __init__(self, dataset: Dataset, process_index: int):
        self.dataset = dataset
        self.process_index = process_index

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        order = list(RandomSampler(self.dataset))  # type: ignore[arg-type]
        if self.process_index:
            torch.manual_seed(torch.initial_seed() + self.process_index)
        return iter(order)


def make_accelerator(batch_size: int, device: torch.device) -> Any:
    """Return the `Accelerator` of this process.

    Parameters
    ----------
    batch_size : int
        Clips per step, of all processes together.
    device : torch.device
        Whether to train on CPUs or on one CUDA device a process.

    Raises
    ------
    ImportError
        If accelerate is not installed.
    ValueError
        If the clips of a step cannot be shared equally.
    """
    try:
        from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs
    except ImportError as error:
        raise ImportError(
            "FineTuning(distributed=True) needs accelerate, which is not installed: "
            "pip install skanopatch[distributed]"
        ) from error
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",  # `FineTuning(precision=)` is its own
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        # Layers above the last one of `layers` get no gradient.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if batch_size % accelerator.num_processes:
        raise ValueError(
            f"batch_size must be a multiple of the {accelerator.num_processes} processes that "
            f"share each batch. Got {batch_size} instead."
        )
    return accelerator
