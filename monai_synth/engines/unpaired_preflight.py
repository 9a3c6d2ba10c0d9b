"""What is looked at before a training without pairs: who is used, and whether both sides have pixels of one size."""

from typing import Any

import ignite.distributed as idist
import numpy as np
from numpy.typing import NDArray

from monai_synth.data.manifest import Manifest
from monai_synth.data.voxel_sizes import read_spacing_mm
from monai_synth.errors import GeometryError, ManifestError

__all__ = ["require_cases", "require_one_pixel_size"]

# Below what the random scaling of slices hides.
_TOLERANCE = 0.05


def require_cases(cohort: Manifest, *roles: str, purpose: str, way_out: str) -> None:
    """Say how many cases have all the images that something needs, and stop where none has.

    Args:
        cohort: the cases among which to choose.
        roles: columns.
        purpose: what is done with these cases, as in ``"validating"``.
        way_out: what to do where there is none.

    Raises:
        ManifestError: if no case has an image in every role.
    """
    needed = ", ".join(map(repr, roles))
    num_cases = len(cohort.with_roles(*roles))
    if not num_cases:
        raise ManifestError(
            f"{purpose}: none of the {len(cohort)} cases in {cohort.file} has all of {needed}. {way_out}"
        )
    if idist.get_rank() == 0:
        print(f"{purpose}: {num_cases} of {len(cohort)} cases, which have {needed}", flush=True)  # noqa: T201


def require_one_pixel_size(cohort: Manifest, first: str, second: str, *, spacing_mm: Any = None) -> None:
    """Stop where axial slices of two roles that are learnt from without pairs have pixels of different size.

    A discriminator would see the size, and the generator would learn to enlarge the anatomy. Headers are read only.

    Args:
        cohort: the cases about to be used; a case may lack either role.
        first: column of volumes.
        second: column of volumes.
        spacing_mm: what all images are resampled to; then nothing can differ.

    Raises:
        GeometryError: if the medians of the sides differ by more than 5 % along an axis; with the way to resample.
        ManifestError: if a header cannot be read.
    """
    if spacing_mm is not None or idist.get_rank() > 0:
        return
    sides = {role: _spacings_mm(cohort, role) for role in (first, second)}
    if not all(map(len, sides.values())):
        return
    medians = {role: np.median(side, axis=0) for role, side in sides.items()}
    ratio = medians[first][:2] / medians[second][:2]
    if max(ratio.max(), 1 / ratio.min()) <= 1 + _TOLERANCE:
        return
    # The coarser pixels, which both sides can fill, and the slices of the first.
    common_mm = [*np.maximum(medians[first], medians[second])[:2], medians[first][2]]
    found = " and ".join(
        f"{role!r} {' x '.join(f'{size:.3g}' for size in medians[role][:2])} mm (median of {len(sides[role])})"
        for role in sides
    )
    raise GeometryError(
        f"The slices of both sides have pixels of different size: {found}. Without pairs a network takes that for a "
        "difference of the modalities and changes the size of the anatomy. Resample all images to one voxel size: "
        f'--spacing_mm "[{", ".join(f"{size:.3g}" for size in common_mm)}]".'
    )


def _spacings_mm(cohort: Manifest, role: str) -> NDArray[np.float64]:
    """Voxel sizes ``(cases, 3)`` of a role."""
    return np.array([read_spacing_mm(case["image"]) for case in cohort.with_roles(role).cases(image=role)])
