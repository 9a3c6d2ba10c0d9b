"""Looks of objects: clustered after training, drawn for new label maps, kept in a file."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_synth.errors import CheckpointError, ConfigError, GeometryError
from monai_synth.inferers import FeatureClusters
from monai_synth.networks import FeatureEncoder, ResNetGenerator
from monai_synth.networks.pix2pixhd import average_over_instances

NUM_CLASSES = 3
# Two looks of class 0 and one of class 1, as (grey, darkness).
LOOKS = {0: (-0.75, 0.5), 1: (0.25,)}


class Grey(nn.Module):
    """An encoder that is known: the mean grey of an instance, and its negative."""

    def forward(self, image: Tensor, instances: Tensor) -> Tensor:
        return average_over_instances(torch.cat([image, -image], dim=1), instances)


def make_batch(index: int, *, shape: tuple[int, ...] = (16, 16)) -> dict[str, Any]:
    """Class 0 to the left with the look of the index, class 1 to the right; instances have other numbers."""
    classes = torch.zeros(1, *shape, dtype=torch.long)
    classes[:, 8:] = 1
    grey = torch.where(classes == 0, LOOKS[0][index % 2], LOOKS[1][0])
    noise = torch.randn(grey.shape, generator=torch.Generator().manual_seed(index)) * 0.01
    return {
        "condition": functional.one_hot(classes, NUM_CLASSES).movedim(-1, 1).float(),
        "target": (grey + noise).unsqueeze(1),
        "instances": classes.unsqueeze(1) * 1000 + 7,
    }


@pytest.fixture
def batches() -> list[dict[str, Any]]:
    return [make_batch(index) for index in range(12)]


def sorted_greys(centres: Tensor) -> list[float]:
    assert torch.allclose(centres[:, 0], -centres[:, 1], atol=1e-6)
    return sorted(centres[:, 0].tolist())


def test_the_looks_of_training_are_found_class_by_class(batches):
    encoder = Grey().train()
    clusters = FeatureClusters.fit(encoder, batches, num_clusters=2)
    assert encoder.training
    assert list(clusters.centres) == [0, 1]
    assert sorted_greys(clusters.centres[0]) == pytest.approx(LOOKS[0], abs=0.01)
    assert clusters.centres[1][:, 0].tolist() == pytest.approx([LOOKS[1][0]] * 2, abs=0.01)
    again = FeatureClusters.fit(encoder, batches, num_clusters=2)
    assert all(torch.equal(value, again.centres[label]) for label, value in clusters.centres.items())


def test_there_are_no_more_clusters_than_different_instances(batches):
    clusters = FeatureClusters.fit(Grey(), [batches[0], batches[0], batches[1]])
    assert {label: len(value) for label, value in clusters.centres.items()} == {0: 2, 1: 2}
    assert len(FeatureClusters.fit(Grey(), batches).centres[0]) == 10
    assert len(FeatureClusters.fit(Grey(), batches, num_clusters=1).centres[0]) == 1


def test_small_instances_count_only_where_their_class_has_no_large_one(batches):
    for batch in batches:
        batch["instances"][0, 0, 0, 0] = 5  # one voxel of class 0, of another grey
        batch["target"][0, 0, 0, 0] = 1.0
    assert max(FeatureClusters.fit(Grey(), batches).centres[0][:, 0]) < 0.6
    assert max(FeatureClusters.fit(Grey(), batches, smallest_share=0.0).centres[0][:, 0]) == 1.0
    for batch in batches:
        batch["condition"][0, :, 0, 0] = torch.tensor([0.0, 0.0, 1.0])  # of a class of its own
    clusters = FeatureClusters.fit(Grey(), batches)
    assert clusters.centres[2][:, 0].tolist() == [1.0]


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 4)])
def test_each_instance_gets_one_of_the_centres_of_its_class(batches, shape):
    clusters = FeatureClusters.fit(Grey(), batches, num_clusters=2)
    batch = make_batch(0, shape=shape)
    instances = batch["instances"]
    instances[0, 0, :4] = 3  # a second instance of class 0
    instances[0, 0, 9, 0] = 3  # one voxel of it in class 1: most decide
    seen = set()
    source = torch.Generator().manual_seed(0)
    for _ in range(20):
        drawn = clusters.draw(batch["condition"], instances, generator=source)
        assert drawn.shape == (1, 2, *shape)
        for number in instances.unique():
            vectors = drawn[0, :, instances[0, 0] == number].unique(dim=1)
            assert vectors.shape[1] == 1
            label = 1 if number == 1007 else 0
            (which,) = [k for k, centre in enumerate(clusters.centres[label]) if torch.equal(centre, vectors[:, 0])]
            seen.add((int(number), which))
    assert len(seen) == 6, "every instance gets every centre of its class at times"
    pairs = [clusters.draw(batch["condition"], instances, generator=torch.Generator().manual_seed(4)) for _ in "ab"]
    assert torch.equal(*pairs)


def test_classes_that_were_not_there_and_voxels_of_none_get_zeros(batches):
    clusters = FeatureClusters.fit(Grey(), batches)
    labels = torch.zeros(2, NUM_CLASSES, 4, 4)
    labels[0, 2] = 1
    assert not clusters.draw(labels, torch.ones(2, 1, 4, 4)).any()


def test_without_instances_each_class_of_an_image_is_one(batches):
    for batch in batches:
        del batch["instances"]
    clusters = FeatureClusters.fit(Grey(), batches, num_clusters=2)
    assert sorted_greys(clusters.centres[0]) == pytest.approx(LOOKS[0], abs=0.01)
    drawn = clusters.draw(torch.cat([batch["condition"] for batch in batches]))
    assert all(image[:, :8].flatten(1).unique(dim=1).shape == (2, 1) for image in drawn)


def test_a_generator_of_pix2pixhd_takes_what_is_completed_and_other_looks_are_other_images(batches):
    torch.manual_seed(0)
    encoder = FeatureEncoder(out_channels=2, channels=2, num_downs=2, init_gain=0.5)
    generator = ResNetGenerator(in_channels=NUM_CLASSES + 1 + 2, channels=2, num_downs=2, num_blocks=1, init_gain=0.5)
    for batch in batches:
        batch["condition"] = torch.cat([batch["condition"], torch.zeros(1, 1, 16, 16)], dim=1)  # edges
    clusters = FeatureClusters.fit(encoder, batches, num_clusters=2, edge_channels=1)
    assert set(clusters.centres) == {0, 1}
    given = [
        clusters.complete(
            batches[0]["condition"], batches[0]["instances"], edge_channels=1,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in range(6)
    ]  # fmt: skip
    assert all(torch.equal(one[:, :4], batches[0]["condition"]) for one in given)
    with torch.no_grad():
        images = [generator.eval()(one) for one in given]
    assert images[0].shape == (1, 1, 16, 16)
    assert any((image - images[0]).abs().max() > 1e-4 for image in images[1:])


def test_they_survive_a_file(batches, tmp_path):
    clusters = FeatureClusters.fit(Grey(), batches)
    clusters.save(tmp_path / "new" / "clusters.json")
    again = FeatureClusters.load(tmp_path / "new" / "clusters.json")
    assert again.num_features == clusters.num_features == 2
    assert clusters.centres.keys() == again.centres.keys()
    assert all(torch.equal(value, again.centres[label]) for label, value in clusters.centres.items())


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        "{}",
        json.dumps({"format": 2, "centres": {"0": [[1.0]]}}),
        json.dumps({"format": 1, "centres": {}}),
        json.dumps({"format": 1, "centres": {"0": [[1.0]], "1": [[1.0, 2.0]]}}),
        json.dumps({"format": 1, "centres": {"0": [[float("nan")]]}}),
        json.dumps({"format": 1, "centres": {"lesion": [[1.0]]}}),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "clusters.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"clusters.json holds no feature clusters .*FeatureClusters.fit"):
        FeatureClusters.load(tmp_path / "clusters.json")
    with pytest.raises(CheckpointError, match="absent.json"):
        FeatureClusters.load(tmp_path / "absent.json")


def test_what_does_not_fit_is_refused(batches):
    for options in ({"num_clusters": 0}, {"smallest_share": 1.0}, {"edge_channels": -1}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            FeatureClusters.fit(Grey(), batches, **options)
    with pytest.raises(ConfigError, match="no instance to cluster"):
        FeatureClusters.fit(Grey(), [])
    with pytest.raises(GeometryError, match=r"\[1, 1, 8, 16\].*\[1, 3, 16, 16\]"):
        FeatureClusters.fit(Grey(), [{**batches[0], "instances": batches[0]["instances"][:, :, :8]}])
