"""Error of a synthetic CT by tissue: air, soft tissue and bone, as the target's HU tell them apart.

Shapes: numpy arrays or tensors of one case, all alike. Units: HU.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from monai_synth.errors import ConfigError, GeometryError

__all__ = ["BINS_HU", "BinsHU", "check_bins", "tissue_mae"]

BinsHU = Mapping[str, tuple[float | None, float | None]]

# Air inside the body, soft tissue with fat (about -100 HU) and organs (0 to 100 HU), and mineralised bone. Studies
# differ in the limits (review: Spadea and Maspero et al. 2021, doi:10.1002/mp.15150), so give them with the number.
BINS_HU: BinsHU = {"air": (None, -200.0), "soft_tissue": (-200.0, 250.0), "bone": (250.0, None)}


def tissue_mae(
    prediction: NDArray[Any] | torch.Tensor,
    target: NDArray[Any] | torch.Tensor,
    *,
    mask: NDArray[Any] | torch.Tensor | None = None,
    bins_hu: BinsHU | None = None,
) -> dict[str, float]:
    """Mean absolute error in each tissue class of the target.

    Classes come from the target alone, so bone that is missing in the prediction counts fully.

    Args:
        prediction: any shape, in HU.
        target: same shape, in HU.
        mask: same shape, positive where voxels count; ``None`` counts all, the air around the body included.
        bins_hu: ``low <= HU < high`` of each class, ``None`` for an open end; :data:`BINS_HU` by default.

    Returns:
        ``mae_<class>_hu``, NaN where the case has no voxel of the class, and ``num_voxels_<class>``.

    Raises:
        ConfigError: if a bin is empty.
        GeometryError: if the shapes differ.
    """
    bins = check_bins(BINS_HU if bins_hu is None else bins_hu)
    x, y = _numpy(prediction), _numpy(target)
    inside = np.ones(y.shape, dtype=bool) if mask is None else _numpy(mask) > 0
    if not x.shape == y.shape == inside.shape:
        raise GeometryError(
            f"The prediction has shape {x.shape}, the target {y.shape}, the mask {inside.shape}: all must lie on the "
            "grid of the target. Resample to it first."
        )
    y = y[inside].astype(np.float64)
    error = np.abs(x[inside].astype(np.float64) - y)
    maes, counts = {}, {}
    for name, (low, high) in bins.items():
        selected = (y >= (-np.inf if low is None else low)) & (y < (np.inf if high is None else high))
        counts[f"num_voxels_{name}"] = float(selected.sum())
        maes[f"mae_{name}_hu"] = float(error[selected].mean()) if selected.any() else float("nan")
    return maes | counts


def check_bins(bins_hu: BinsHU) -> BinsHU:
    """Return the bins if each has a usable name and ``low < high``.

    Raises:
        ConfigError: if not.
    """
    for name, (low, high) in bins_hu.items():
        if not name.isidentifier() or (low is not None and high is not None and not low < high):
            raise ConfigError(
                f"Tissue bin {name!r}: [{low}, {high}): a bin has a name of letters, digits and underscores and its "
                "lower limit below its upper one, for example {'bone': (250, None)}."
            )
    return bins_hu


def _numpy(array: NDArray[Any] | torch.Tensor) -> NDArray[Any]:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        return (array.float() if array.dtype in (torch.bfloat16, torch.float16) else array).numpy()
    return np.asarray(array)
