import argparse
import json
import os
import pickle
import stat

import pytest
import torch
from torch import nn

from monai_synth.checkpoints import load_weights, read_state_dict, save_weights
from monai_synth.errors import CheckpointError
from monai_synth.networks import PatchDiscriminator, UNetGenerator


def make(seed: int = 0, **options) -> UNetGenerator:
    torch.manual_seed(seed)
    return UNetGenerator(**{"channels": 4, "num_downs": 3, **options})


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_what_is_saved_is_loaded(tmp_path):
    network, twin = make(0), make(1)
    file = save_weights(network, tmp_path / "models" / "model.pt", extra_json={"epoch": 3, "intensity": {"low": -1024}})
    load_weights(twin, file)
    assert equal(network, twin)
    assert json.loads((tmp_path / "models" / "model.json").read_text()) == {"epoch": 3, "intensity": {"low": -1024}}
    assert sorted(path.name for path in file.parent.iterdir()) == ["model.json", "model.pt"]


def test_the_file_is_a_bare_state_dict_that_anyone_can_read(tmp_path):
    file = save_weights(make(), tmp_path / "model.pt")
    state = torch.load(file, weights_only=True)
    assert list(state) == list(make().state_dict())
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("wrap", [lambda s: {"model": s}, lambda s: {"state_dict": s, "epoch": 3}])
def test_one_level_around_the_state_dict_is_taken_off(tmp_path, wrap):
    torch.save(wrap(make(0).state_dict()), tmp_path / "model.pt")
    twin = make(1)
    load_weights(twin, tmp_path / "model.pt")
    assert equal(make(0), twin)


def test_the_prefix_of_wrappers_is_taken_off(tmp_path):
    torch.save({f"module.{key}": value for key, value in make(0).state_dict().items()}, tmp_path / "ddp.pt")
    twin = make(1)
    load_weights(twin, tmp_path / "ddp.pt")
    assert equal(make(0), twin)
    save_weights(nn.DataParallel(make(0)), tmp_path / "unwrapped.pt")
    assert list(read_state_dict(tmp_path / "unwrapped.pt")) == list(make().state_dict())


def test_a_kill_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    file = save_weights(make(0), tmp_path / "model.pt", extra_json={"epoch": 1})

    def killed(state, stream):
        stream.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save_weights(make(1), file, extra_json={"epoch": 2})
    twin = make(1)
    load_weights(twin, file)
    assert equal(make(0), twin)
    assert json.loads((tmp_path / "model.json").read_text()) == {"epoch": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.pt"]


def test_details_that_are_no_json_write_nothing(tmp_path):
    with pytest.raises(CheckpointError, match=r"model.json.*no JSON"):
        save_weights(make(), tmp_path / "model.pt", extra_json={"when": object()})
    assert not list(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="its own sidecar"):
        save_weights(make(), tmp_path / "model.json", extra_json={})


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_weights(make(), tmp_path / "file" / "model.pt")


def save_bytes(file, data):
    file.write_bytes(data)
    return file


def saved(content, **options) -> bytes:
    import io

    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"There is no checkpoint .*absent\.pt"):
        load_weights(make(), tmp_path / "absent.pt")


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_called_so(tmp_path, legacy, part):
    data = saved(make().state_dict(), _use_new_zipfile_serialization=not legacy)
    file = save_bytes(tmp_path / "model.pt", data[: int(len(data) * part)])
    with pytest.raises(CheckpointError, match=r"model\.pt \(\d+ bytes\) is truncated, damaged"):
        load_weights(make(), file)


@pytest.mark.parametrize("data", [b"hello world", b"<!DOCTYPE html>", bytes(2000), b"\x80\x02", bytes(range(1, 65))])
def test_a_file_of_another_kind_is_called_damaged(tmp_path, data):
    with pytest.raises(CheckpointError, match="no torch file"):
        load_weights(make(), save_bytes(tmp_path / "model.pt", data))


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(argparse.Namespace(batch=1), protocol=2),
        saved({"opt": argparse.Namespace(batch=1)}),
        saved(nn.Linear(2, 2), _use_new_zipfile_serialization=False),
    ],
)
def test_pickled_objects_are_refused_and_named(tmp_path, data):
    with pytest.raises(CheckpointError, match=r"pickled Python objects \((argparse.Namespace|torch.nn.*Linear)\)"):
        load_weights(make(), save_bytes(tmp_path / "opt.pkl", data))


@pytest.mark.filterwarnings("ignore:.*torch.load.*:UserWarning")
def test_torchscript_is_named(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "model.ts")
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        load_weights(make(), tmp_path / "model.ts")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        ({}, "holds an empty dict"),
        ({"generator": {"w": torch.zeros(1)}, "epoch": 3}, "not all of its entries are tensors: generator, epoch"),
    ],
)
def test_content_that_is_no_state_dict_is_described(tmp_path, content, message):
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=message):
        load_weights(make(), tmp_path / "last.pt")


def test_another_network_is_called_so(tmp_path):
    file = save_weights(PatchDiscriminator(in_channels=2, channels=4), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"belongs to another network.*layers\.0\.conv\.weight.*UNetGenerator"):
        load_weights(make(), file)


def test_other_options_are_named_key_by_key_and_nothing_is_loaded(tmp_path):
    network = make(0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_weights(network, save_weights(make(1, norm="instance", in_channels=2), tmp_path / "model.pt"))
    for part in ("missing: downs.1.norm.weight", "more", "unexpected: downs.0.conv.bias", "of another shape"):
        assert part in str(error.value)
    assert "downs.0.conv.weight (file [4, 2, 4, 4], network [4, 1, 4, 4])" in str(error.value)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
