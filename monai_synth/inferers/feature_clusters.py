"""What an object may look like: clusters of the features that the encoder of pix2pixHD finds (Wang et al. 2018).

In training the generator sees the features of the real image beside the labels. For a new label map there is no real
image; one of the looks that objects of the class had in training is drawn for each instance.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import ClusterError, kmeans2
from torch import Tensor, nn

from monai_synth.checkpoints.files import naming_file, write_files
from monai_synth.errors import CheckpointError, ConfigError, GeometryError

__all__ = ["FeatureClusters"]

_FORMAT = 1
_NUM_STARTS = 10  # of k-means, of which the best counts
_NUM_ITERATIONS = 100


class FeatureClusters:
    """Centres of the features of each class, of which one is drawn for each instance.

    Usage: after training ``FeatureClusters.fit(encoder, loader).save(file)``; at inference
    ``generator(FeatureClusters.load(file).complete(condition))``. Of a volume, complete the whole before it is cut into
    slices, so that an instance looks the same in all of them.

    Args:
        centres: class, the place of its channel in the one-hot labels -> ``(num_clusters, num_features)``.

    Raises:
        ConfigError: if there are none, or they are not finite vectors of one length.
    """

    def __init__(self, centres: Mapping[int, Tensor]) -> None:
        self.centres = {int(c): torch.as_tensor(v, dtype=torch.float32) for c, v in sorted(centres.items())}
        widths = {tuple(v.shape[1:]) for v in self.centres.values()}
        is_sound = all(v.ndim == 2 and v.numel() and bool(v.isfinite().all()) for v in self.centres.values())
        if len(widths) != 1 or not is_sound or min(self.centres) < 0:
            raise ConfigError(
                f"The centres of {len(self.centres)} classes have the shapes "
                f"{[list(v.shape) for v in self.centres.values()]}: give finite (num_clusters, num_features) with as "
                "many features in all classes, of one class or more."
            )

    @property
    def num_features(self) -> int:
        """Channels of what is drawn: ``out_channels`` of the encoder."""
        return next(iter(self.centres.values())).shape[1]

    @classmethod
    def fit(
        cls,
        encoder: nn.Module,
        batches: Iterable[Mapping[str, Any]],
        *,
        num_clusters: int = 10,
        smallest_share: float = 1 / 64,
        edge_channels: int = 0,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> "FeatureClusters":
        """Encode all instances of the training images and cluster them, class by class.

        Args:
            encoder: ``(image, instances) -> features``, see :class:`monai_synth.networks.FeatureEncoder`; trained.
            batches: ``target`` ``(B, C, *spatial)``, ``condition``, one-hot labels and then edges, and ``instances``
                ``(B, 1, *spatial)``; without these each class of an image is one instance. Give whole images without
                random transforms.
            num_clusters: of each class; fewer where there are fewer different instances. Published: 10.
            smallest_share: of the image; smaller instances do not count, as the encoder sees little of them. Published:
                1/64. A class that has no larger one keeps its small ones (the published code then leaves the features
                of its instances undefined).
            edge_channels: how many of the last channels of the condition are edge maps, not labels.
            device: where the encoder is.
            seed: of k-means, which starts ten times from k-means++ and keeps the best.

        Raises:
            ConfigError: for a number out of range, or if no batch had an instance.
            GeometryError: if the sizes of a batch differ.
        """
        if num_clusters < 1 or not 0 <= smallest_share < 1 or edge_channels < 0:
            raise ConfigError(
                f"num_clusters={num_clusters} must be 1 or more, smallest_share={smallest_share} in [0, 1) and "
                f"edge_channels={edge_channels} 0 or more."
            )
        found: dict[int, list[NDArray[np.float64]]] = {}
        was_training = encoder.training
        encoder.eval()
        try:
            for batch in batches:
                for label, features, share in _instances_of(encoder, batch, edge_channels, device):
                    found.setdefault(label, []).append(np.append(features, share))
        finally:
            encoder.train(was_training)
        if not found:
            raise ConfigError("There is no instance to cluster: no batch, or none of their voxels has a class.")
        centres = {}
        for label, rows in found.items():
            table = np.stack(rows)
            is_large = table[:, -1] > smallest_share
            kept = table[is_large if is_large.any() else slice(None), :-1]
            centres[label] = torch.from_numpy(_cluster(kept, num_clusters, seed=seed))
        return cls(centres)

    def draw(
        self, labels: Tensor, instances: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw a centre of its class for each instance.

        Args:
            labels: one-hot ``(B, num_classes, *spatial)``.
            instances: ``(B, 1, *spatial)``, whole numbers; ``None``: each class of an image is one instance. An
                instance has the class of most of its voxels.
            generator: of random numbers, on the CPU.

        Returns:
            ``(B, num_features, *spatial)``, type and device of ``labels``; 0 for instances whose class has no centre.

        Raises:
            GeometryError: if labels and instances differ in size.
        """
        drawn = []
        for one, numbers in zip(labels.as_subclass(Tensor), _numbers(labels, instances), strict=True):
            classes, place, _, _ = _read_instances(one, numbers)
            vectors = torch.zeros(len(classes), self.num_features)
            for row, label in enumerate(classes.tolist()):
                centres = self.centres.get(label)
                if centres is not None:
                    vectors[row] = centres[torch.randint(len(centres), (), generator=generator)]
            drawn.append(vectors.to(labels)[place].movedim(-1, 0))
        return torch.stack(drawn)

    def complete(
        self,
        condition: Tensor,
        instances: Tensor | None = None,
        *,
        edge_channels: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Put drawn features behind a condition: what the generator of ``Pix2PixHD`` with an encoder takes.

        Args:
            condition: one-hot labels, then edges ``(B, C, *spatial)``.
            instances: as in :meth:`draw`.
            edge_channels: how many of the last channels are edge maps.
            generator: as in :meth:`draw`.

        Returns:
            ``(B, C + num_features, *spatial)``.
        """
        labels = condition[:, : condition.shape[1] - edge_channels]
        return torch.cat([condition, self.draw(labels, instances, generator=generator)], dim=1)

    def save(self, file: str | Path) -> None:
        """Write the centres as JSON.

        Raises:
            CheckpointError: if the file cannot be written; what was there is unchanged.
        """
        content = {"format": _FORMAT, "centres": {str(c): v.tolist() for c, v in self.centres.items()}}
        text = json.dumps(content, indent=1) + "\n"
        path = Path(file)
        with naming_file(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_files([(path, lambda stream: stream.write(text.encode()))])

    @classmethod
    def load(cls, file: str | Path) -> "FeatureClusters":
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: if the file is absent or damaged.
        """
        path = Path(file)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']}, not {_FORMAT}")
            return cls({int(label): torch.tensor(centres) for label, centres in content["centres"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise CheckpointError(
                f"{path} holds no feature clusters ({type(error).__name__}: {error}). Make them with "
                "FeatureClusters.fit(encoder, loader).save(file)."
            ) from error


@torch.no_grad()
def _instances_of(
    encoder: nn.Module, batch: Mapping[str, Any], edge_channels: int, device: torch.device | str
) -> Iterable[tuple[int, NDArray[np.float64], float]]:
    """Class, features and share of the image of every instance of a batch."""
    condition, image = batch["condition"].to(device), batch["target"].to(device)
    labels = condition[:, : condition.shape[1] - edge_channels].as_subclass(Tensor)
    numbers = _numbers(labels, batch.get("instances"))
    maps = encoder(image, numbers).as_subclass(Tensor)
    for one, number, features in zip(labels, numbers, maps, strict=True):
        classes, _, first, counts = _read_instances(one, number)
        vectors = features.flatten(1)[:, first].T.double().cpu().numpy()
        shares = (counts / number.numel()).tolist()
        for label, vector, share in zip(classes.tolist(), vectors, shares, strict=True):
            if label >= 0:
                yield label, vector, share


def _numbers(labels: Tensor, instances: Tensor | None) -> Tensor:
    if instances is None:
        return labels.as_subclass(Tensor).argmax(dim=1, keepdim=True)
    if instances.shape != (labels.shape[0], 1, *labels.shape[2:]):
        raise GeometryError(
            f"The instances have shape {list(instances.shape)}, but the labels {list(labels.shape)}: each image needs "
            "a map of one channel and its own size. Resample both by the nearest value."
        )
    numbers = instances.as_subclass(Tensor).to(labels.device)
    return numbers if numbers.is_floating_point() else numbers.long()  # torch cannot sort every unsigned type


def _read_instances(labels: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """List the instances of one image.

    Returns:
        Their classes, -1 for none; of each voxel ``(*spatial)`` its instance's place in the list; their first voxels,
        counted through the image; and their numbers of voxels.
    """
    _, place, counts = torch.unique(numbers[0], return_inverse=True, return_counts=True)
    num_instances, num_classes = len(counts), labels.shape[0]
    slot = place.flatten()
    votes = torch.zeros(num_instances, num_classes, dtype=torch.float64, device=labels.device)
    votes.index_add_(0, slot, labels.flatten(1).T.double())
    classes = torch.where(votes.amax(dim=1) > 0, votes.argmax(dim=1), -1)
    first = torch.argsort(slot, stable=True)[counts.cumsum(0) - counts]
    return classes, place, first, counts


def _cluster(points: NDArray[np.float64], num_clusters: int, *, seed: int) -> NDArray[np.float64]:
    """Centres of points ``(n, num_features)`` by k-means."""
    num_different = len(np.unique(points, axis=0))
    for count in range(min(num_clusters, num_different), 1, -1):
        tries = []
        for start in range(_NUM_STARTS):
            source = np.random.default_rng([seed, start])
            try:
                centres, owner = kmeans2(points, count, _NUM_ITERATIONS, minit="++", missing="raise", seed=source)
            except ClusterError:  # a cluster lost its last point; another start keeps all
                continue
            tries.append((float(np.square(points - centres[owner]).sum()), centres))
        if tries:
            best: NDArray[np.float64] = min(tries, key=lambda found: found[0])[1]
            return best
    return points.mean(axis=0, keepdims=True)
