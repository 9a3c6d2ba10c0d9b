"""Save and load the weights of one network, safely.

A file is a bare state dict, as MONAI bundles want it. Writing is atomic: a kill leaves the old file or the new one.
Reading never runs code (``weights_only=True``).
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from monai_synth.checkpoints.files import load_file, naming_file, write_files
from monai_synth.errors import CheckpointError

StateDict = dict[str, Tensor]
_WRAPPERS = ("model", "state_dict")
_NUM_NAMED = 3  # how many keys an error names


def save_weights(module: nn.Module, file: str | Path, *, extra_json: Mapping[str, Any] | None = None) -> Path:
    """Write a network's state dict, atomically, with CPU tensors.

    Args:
        module: network; a DDP or ``torch.compile`` wrapper is taken off first.
        file: where to; folders are made.
        extra_json: written beside it as ``<stem>.json`` (intensity contract, network definition, epoch, ...).

    Returns:
        The path of the weights.

    Raises:
        CheckpointError: if the file cannot be written or ``extra_json`` is no JSON.
    """
    path = Path(file)
    state = {key: value.detach().cpu().clone() for key, value in unwrapped(module).state_dict().items()}
    jobs: list[tuple[Path, Callable[[IO[bytes]], object]]] = [(path, lambda stream: torch.save(state, stream))]
    if extra_json is not None:
        sidecar = path.with_suffix(".json")
        if sidecar == path:
            raise CheckpointError(f"{path} would be its own sidecar; give the weights another suffix, such as .pt.")
        try:
            text = json.dumps(extra_json, indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"The details for {sidecar} are no JSON: {error}. Use numbers, text, lists."
            ) from error
        jobs.append((sidecar, lambda stream: stream.write(text.encode() + b"\n")))
    with naming_file(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_files(jobs)
    return path


def load_weights(module: nn.Module, file: str | Path) -> None:
    """Load a state dict into a network, all or nothing.

    Args:
        module: network; a DDP or ``torch.compile`` wrapper is taken off first.
        file: a bare state dict, or one under ``"model"`` or ``"state_dict"``.

    Raises:
        CheckpointError: if the file is absent, damaged or unsafe, or if its entries are not those of the network.
    """
    module = unwrapped(module)
    load_state(module, read_state_dict(file), source=str(file))


def start_from(module: nn.Module, file: str | Path | None) -> nn.Module:
    """Give a network the weights of a file before its training begins, where one is given.

    Raises:
        CheckpointError: as :func:`load_weights`.
    """
    if file is not None:
        load_weights(module, file)
    return module


def read_state_dict(file: str | Path) -> StateDict:
    """Read the state dict of one network on the CPU, without running any code.

    Takes the zip format and the older one; a ``"model"`` or ``"state_dict"`` level and a ``module.`` prefix are
    taken off.

    Raises:
        CheckpointError: if the file is absent, damaged, unsafe or holds something else.
    """
    path = Path(file)
    content = load_file(path)
    if isinstance(content, Mapping):
        for name in _WRAPPERS:
            if isinstance(content.get(name), Mapping):
                content = content[name]
                break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds {_describe(content)}, not the state dict of a network.")
    others = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"{path} is not the state dict of one network, because not all of its entries are tensors: "
            f"{_name_some(others)}. Save each network's state dict in a file of its own; of a training of ours, use "
            "the exported weights (models/model.pt)."
        )
    return _without_prefix({str(key): value for key, value in content.items()}, "module.")


def load_state(module: nn.Module, state: StateDict, *, source: str) -> None:
    """Load a state dict into a network after checking every key and shape; ``source`` names it in errors.

    Raises:
        CheckpointError: naming missing, unexpected and mismatched entries; the network is then unchanged.
    """
    wanted = module.state_dict()
    kind = type(module).__name__
    if not wanted.keys() & state.keys():
        raise CheckpointError(
            f"{source} belongs to another network: none of its {len(state)} entries ({_name_some(state)}) is one of "
            f"{kind}'s {len(wanted)} ({_name_some(wanted)}). Build the network that wrote it; files of published "
            "methods are read by monai_synth.checkpoints.import_checkpoint."
        )
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    mismatched = [
        f"{key} (file {list(state[key].shape)}, network {list(value.shape)})"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [
        f"{len(keys)} {what}: {_name_some(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", mismatched))
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"{source} does not fit {kind}: {'; '.join(problems)}. Build the network with the options that the file "
            "was trained with (its .json or the bundle's network_def has them)."
        )
    module.load_state_dict(state, strict=True)


def unwrapped(module: nn.Module) -> nn.Module:
    """Take off what ``DistributedDataParallel``, ``DataParallel`` and ``torch.compile`` put around a network."""
    if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return unwrapped(module.module)
    compiled = getattr(module, "_orig_mod", None)  # what torch.compile leaves of the network
    return unwrapped(compiled) if isinstance(compiled, nn.Module) else module


def _without_prefix(state: StateDict, prefix: str) -> StateDict:
    if all(key.startswith(prefix) for key in state):
        return {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _describe(content: object) -> str:
    return f"an empty {type(content).__name__}" if content in ({}, [], ()) else f"a {type(content).__name__}"


def _name_some(keys: Iterable[str]) -> str:
    names = list(keys)
    rest = f", ... {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + rest
