"""The contrastive loss over patches of CUT (Park et al. 2020): a place resembles itself more than any other place.

InfoNCE (van den Oord et al. 2018) in which the classes are the sampled places: the query is the feature of a place in
the synthetic image, its positive the feature of the same place in the condition, its negatives those of other places.
"""

import torch
from torch import Tensor, nn

from monai_synth.errors import ConfigError, GeometryError

_NEGATIVES = ("image", "batch")
_REDUCTIONS = ("mean", "none")
_FILL = -10.0


class PatchNCELoss(nn.Module):
    """Cross entropy of finding the place of a query among all sampled places.

    ``-log(exp(q_i k_i / t) / (exp(-10 / t) + sum_j exp(q_i k_j / t)))``. The term with -10 stands in the published code
    where the positive would be among the negatives; at vectors of length one it does not count.

    Args:
        temperature: ``t``; 0.07 in CUT.
        negatives: ``"image"``: other places of the same image; ``"batch"``: other places of all images of the batch, as
            CUT does for single-image training. In distributed training the batch is that of one process.
        reduction: ``"mean"``, or ``"none"`` for one value per query.

    Raises:
        ConfigError: for an option out of range.
    """

    def __init__(self, *, temperature: float = 0.07, negatives: str = "image", reduction: str = "mean"):
        super().__init__()
        if temperature <= 0:
            raise ConfigError(f"temperature={temperature} divides similarities; choose more than 0 (published: 0.07).")
        if negatives not in _NEGATIVES:
            raise ConfigError(f"negatives={negatives!r} is not known; choose one of {', '.join(_NEGATIVES)}.")
        if reduction not in _REDUCTIONS:
            raise ConfigError(f"reduction={reduction!r} is not known; choose one of {', '.join(_REDUCTIONS)}.")
        self.temperature = temperature
        self.negatives = negatives
        self.reduction = reduction

    def forward(self, queries: Tensor, keys: Tensor, *, num_images: int = 1) -> Tensor:
        """Compare features of the same places in two batches of images.

        Args:
            queries: ``(num_images * num_places, C)``, image by image, as
                :class:`monai_synth.networks.PatchSampler` gives them.
            keys: same shape and places; they get no gradient.
            num_images: number of images that the rows belong to.

        Returns:
            Scalar, or ``(num_images * num_places,)`` without reduction; float32 also under autocast.

        Raises:
            GeometryError: if the shapes differ or are not those of so many images.
        """
        if queries.shape != keys.shape or queries.ndim != 2 or num_images < 1 or len(queries) % num_images:
            raise GeometryError(
                f"Queries {list(queries.shape)} and keys {list(keys.shape)} of {num_images} image(s): both must be "
                "(num_images * num_places, C) with the same places. Sample both with the same ids."
            )
        num_groups = num_images if self.negatives == "image" else 1
        # Similarities divided by 0.07 need more than the three digits of bfloat16.
        with torch.autocast(queries.device.type, enabled=False):
            grouped_queries = queries.float().unflatten(0, (num_groups, -1))
            grouped_keys = keys.detach().float().unflatten(0, (num_groups, -1))
            logits = grouped_queries @ grouped_keys.mT / self.temperature
            positives = logits.diagonal(dim1=1, dim2=2)
            fill = logits.new_tensor(_FILL / self.temperature)
            losses = (torch.logaddexp(logits.logsumexp(dim=2), fill) - positives).flatten()
        return losses.mean() if self.reduction == "mean" else losses
