"""One training on several processes, as ``torchrun`` or ``srun`` start them."""

import logging
import os
import time
from datetime import timedelta

import torch
import torch.distributed
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from monai_synth.errors import ConfigError

_LOGGER = logging.getLogger(__name__)


def local_device() -> torch.device:
    """The GPU of this process, by ``LOCAL_RANK``; the CPU where there is none."""
    _read_slurm()
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def start_process_group() -> None:
    """Join the processes that the launcher started: nccl on GPUs, gloo on CPUs; does nothing when already joined.

    ``torchrun`` sets what is needed. Of ``srun`` the rank, the number of processes and the port are taken; on several
    nodes ``MASTER_ADDR`` must name the first of them.

    Raises:
        ConfigError: if no launcher set the environment.
    """
    if torch.distributed.is_initialized():
        return
    _read_slurm()
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "multi_gpu_train.json needs a launcher that sets RANK and WORLD_SIZE, such as "
            "`torchrun --nproc_per_node=2 -m monai.bundle run training --config_file ...`, or "
            "`srun --ntasks=2 python -m monai.bundle run training ...`."
        )
    # The first process checks and prepares a cohort while the others wait for it.
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, timeout=timedelta(hours=6))


def _read_slurm() -> None:
    """Put what ``srun`` says under the names that torch reads, unless another launcher has set them."""
    given = os.environ
    if "RANK" in given or "SLURM_PROCID" not in given or int(given.get("SLURM_NTASKS", "1")) < 2:
        return
    num_nodes = int(given.get("SLURM_NNODES", given.get("SLURM_JOB_NUM_NODES", "1")))
    if "MASTER_ADDR" not in given and num_nodes > 1:
        raise ConfigError(
            f"This training runs on {num_nodes} nodes, which need to know the first of them: before srun, say "
            "export MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)."
        )
    given.setdefault("MASTER_ADDR", "127.0.0.1")
    given.setdefault("MASTER_PORT", str(20000 + int(given.get("SLURM_JOB_ID", "0")) % 20000))
    given["RANK"], given["WORLD_SIZE"] = given["SLURM_PROCID"], given["SLURM_NTASKS"]
    given["LOCAL_RANK"] = given.get("SLURM_LOCALID", "0")


def stop_process_group() -> None:
    """Leave the process group, if any."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        # gloo's thread still frees the last all-reduce and needs the interpreter for that: once that has begun to exit,
        # the process aborts although everything is written (torch 2.13). Giving the lock away for a moment prevents it.
        time.sleep(0.5)


def distribute(
    network: nn.Module, device: torch.device, *, find_unused_parameters: bool = False
) -> DistributedDataParallel:
    """Wrap a network so that all processes share its gradients.

    On GPUs batch norms become synchronised ones. On CPUs PyTorch has none: each process normalises with its own
    batch and the running statistics of the first process are used; a warning says so.

    Two processes with half of the images each train as one with all, where images do not meet. The class balance of
    OASIS and USIS counts over all processes. What else looks at a batch as a whole sees that of its process: CUT with
    ``negatives="batch"``, the deviation that a ``WaveletDiscriminator`` appends, SPADE's divergence where it is summed.

    Args:
        network: on any device.
        device: of this process.
        find_unused_parameters: expect that some parameters get no gradient for a while, as in ``fix_trunk_epochs`` of
            :class:`monai_synth.objectives.Pix2PixHD`; costs a walk through the graph in every iteration.
    """
    if device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return DistributedDataParallel(
            network.to(device),
            device_ids=[device.index],
            output_device=device.index,
            find_unused_parameters=find_unused_parameters,
        )
    has_batch_norm = any(isinstance(layer, _BatchNorm) for layer in network.modules())
    if has_batch_norm and torch.distributed.get_world_size() > 1 and torch.distributed.get_rank() == 0:
        _LOGGER.warning(
            "%s has batch norm, which CPU processes do not synchronise: each normalises with the images of its own "
            "batch, so results depend on the number of processes. On GPUs it is synchronised; instance and group norm "
            "need no synchronisation.",
            type(network).__name__,
        )
    return DistributedDataParallel(network.to(device), find_unused_parameters=find_unused_parameters)
