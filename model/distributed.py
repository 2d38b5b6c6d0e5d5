"""One training in several processes, as torchrun starts them; one process is the simple case.

DDP and FSDP2 are PyTorch's own. Every process asks for its rows of the same global batch and its
gradients are averaged, so that a step is the step that one process would have made, up to the order
of sums.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from ..errors import ConfigError


@dataclass(frozen=True)
class Group:
    """The processes of a training and this one's place among them."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def rows(self, batch_size: int) -> slice:
        """This process's rows of a global batch."""
        if batch_size % self.size:
            raise ConfigError(
                f"batch_size {batch_size} cannot be shared out evenly to {self.size} processes"
            )
        share = batch_size // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        summed: list[float] = tensor.tolist()
        return summed

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined(device_name: str) -> Iterator[Group]:
    """Join the processes that torchrun started, or be alone where it did not.

    On GPUs each process takes the one of its local number. Raises ConfigError when the device is
    absent.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(0, 1, open_device(device_name))
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = open_device(f"cuda:{local}" if device_name == "cuda" else device_name)
    if dist.is_initialized():  # an outer block, or a program that has its own group
        yield Group(dist.get_rank(), dist.get_world_size(), device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def open_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be cpu or cuda, but is {name!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name} is not there: PyTorch finds no such GPU; use cpu")
    return device


def shard(blocks: Sequence[nn.Module], whole: nn.Module) -> None:
    """FSDP2: every process holds a share of each block, and of the rest."""
    from torch.distributed.fsdp import fully_shard

    # A block's keys and values are views, which only inference keeps; nothing writes into them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    for block in blocks:
        fully_shard(block)
    fully_shard(whole)


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be shared out; every process must ask."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def fill(target: Tensor, whole: Tensor) -> None:
    """Put `whole` into a tensor that may be shared out."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    with torch.no_grad():
        whole = whole.to(target.device, target.dtype)
        if isinstance(target, DTensor):
            whole = distribute_tensor(whole, target.device_mesh, target.placements)
        target.copy_(whole)
