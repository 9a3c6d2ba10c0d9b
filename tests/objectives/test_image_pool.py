"""History of synthetic images."""

import io
import random

import numpy as np
import pytest
import torch

from monai_synth.errors import CheckpointError, ConfigError, GeometryError
from monai_synth.objectives import ImagePool


class Recorded:
    """Gives back what the published code drew."""

    def __init__(self, uniform, randint):
        self.numbers, self.slots = list(uniform), list(randint)

    def uniform(self, a, b):
        assert (a, b) == (0, 1)
        return self.numbers.pop(0)

    def randint(self, a, b):
        assert (a, b) == (0, 2)
        return int(self.slots.pop(0))


def numbered(*values):
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 2, 3, 4)


def ids(images):
    return images[:, 0, 0, 0].tolist()


def test_equals_the_published_pool_draw_by_draw(shared_dir):
    golden = np.load(shared_dir / "golden" / "p2p_imagepool.npz")
    source = Recorded(golden["in/uniform"], golden["in/randint"])
    pool = ImagePool(3, source=source)
    for i, expected in enumerate(golden["out/ids"]):
        assert ids(pool.query(numbered(2 * i, 2 * i + 1))) == expected.tolist()
    assert not source.numbers
    assert not source.slots


def test_size_zero_gives_everything_back():
    pool = ImagePool(0)
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    assert torch.equal(pool.query(images), images)
    assert not pool.query(images).requires_grad
    assert len(pool) == 0


def test_filling_gives_everything_back_then_half_are_older():
    pool = ImagePool(20, source=random.Random(0))
    assert ids(pool.query(numbered(*range(20)))) == list(range(20))
    given = [ids(pool.query(numbered(i)))[0] for i in range(20, 1020)]
    older = sum(k != i for k, i in zip(given, range(20, 1020), strict=True))
    assert 430 < older < 570
    assert len(pool) == 20
    assert len(set(given)) == 1000, "no image is given twice"


def test_images_are_detached_copies():
    images = torch.rand(3, 1, 4, 4, requires_grad=True)
    pool = ImagePool(3)
    assert not pool.query(images * 1).requires_grad
    kept = [image.clone() for image in pool.state_dict()["images"]]
    with torch.no_grad():
        images.zero_()
    for before, after in zip(kept, pool.state_dict()["images"], strict=True):
        assert torch.equal(before, after)
        assert not after.requires_grad
        assert after.untyped_storage().nbytes() == after.numel() * 4, "a kept image does not hold its batch in memory"


def test_an_interrupted_training_goes_on_the_same():
    straight, before = (ImagePool(4, source=random.Random(1)) for _ in range(2))
    for i in range(0, 20, 2):
        expected = ids(straight.query(numbered(i, i + 1)))
        assert ids(before.query(numbered(i, i + 1))) == expected

    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    after = ImagePool(4, source=before.source)
    after.load_state_dict(torch.load(file, weights_only=True))
    for i in range(20, 60, 2):
        assert ids(after.query(numbered(i, i + 1))) == ids(straight.query(numbered(i, i + 1)))
    assert set(after.state_dict()) == {"images"}


def test_the_default_source_is_pythons():
    given = []
    for _ in range(2):
        random.seed(4)
        pool = ImagePool(2)
        given.append([ids(pool.query(numbered(i))) for i in range(30)])
    assert given[0] == given[1]


def test_volumes_and_half_precision():
    pool = ImagePool(1, source=random.Random(2))
    pool.query(torch.ones(1, 1, 3, 4, 5))
    out = pool.query(torch.zeros(6, 1, 3, 4, 5, dtype=torch.bfloat16))
    assert out.shape == (6, 1, 3, 4, 5)
    assert out.dtype == torch.bfloat16


def test_bad_input_is_refused():
    with pytest.raises(ConfigError, match="size=-1"):
        ImagePool(-1)
    pool = ImagePool(2, source=random.Random(0))
    pool.query(torch.zeros(2, 1, 4, 4))
    with pytest.raises(GeometryError, match="Train on patches of one size"):
        pool.query(torch.zeros(40, 1, 5, 5))
    with pytest.raises(CheckpointError, match="pool of 2 images, this pool takes 1"):
        ImagePool(1).load_state_dict(ImagePool(2).state_dict() | {"images": [torch.zeros(1)] * 2})
    for state in ({}, {"images": 3}, {"images": ["a"]}):
        with pytest.raises(CheckpointError, match="a list of tensors"):
            ImagePool(1).load_state_dict(state)
