"""``torch.compile`` as a switch."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monai_synth.checkpoints import load_weights, save_weights
from monai_synth.engines import compile_player
from monai_synth.errors import ConfigError
from monai_synth.handlers import EMA
from monai_synth.networks import UNetGenerator


class _Backend:
    """Counts what would be compiled, and runs it as it is."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


def _network() -> UNetGenerator:
    torch.manual_seed(0)
    return UNetGenerator(channels=4, num_downs=3)


def test_off_is_off() -> None:
    network = _network()
    assert compile_player(network, enabled=False, backend="nowhere") is network
    assert compile_player(network, "false", backend="nowhere") is network


def test_a_compiled_network_keeps_its_names_and_its_results(tmp_path: Path) -> None:
    plain, backend = _network(), _Backend()
    compiled = compile_player(copy.deepcopy(plain), backend=backend)
    probes = backend.graphs
    x = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(compiled(x), plain(x))
    assert backend.graphs > probes
    assert type(compiled) is UNetGenerator
    assert list(compiled.state_dict()) == list(plain.state_dict())
    save_weights(compiled, tmp_path / "model.pt")
    load_weights(_network(), tmp_path / "model.pt")
    assert torch.equal(EMA(compiled).network(x), compiled(x))


def test_a_training_with_compiled_players_can_be_checkpointed(make_trainer: Any) -> None:
    trainer = make_trainer(max_epochs=1)
    backend = _Backend()
    for player in trainer.objective.players.values():
        compile_player(player, backend=backend)
    trainer.run()
    assert backend.graphs > 2


def test_where_nothing_can_be_compiled_a_sentence_says_so() -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    network = nn.Conv2d(1, 1, 1)
    with pytest.raises(ConfigError, match=r"torch.compile does not work here for cpu: .*No working C\+\+ compiler"):
        compile_player(network, backend=broken)
    with pytest.raises(ConfigError, match="torch.compile does not work here"):
        compile_player(network, mode="fastest")


@pytest.mark.slow
def test_the_default_compiler_computes_the_same() -> None:
    plain = _network().eval()
    compiled = compile_player(copy.deepcopy(plain))
    x = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), plain(x), atol=1e-5, rtol=1e-5)
