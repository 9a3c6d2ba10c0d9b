"""What an image looks like as a vector: intensities, co-occurrence, local binary patterns and energy of derivatives.

Classical features by scikit-image instead of a network trained on photographs: nothing to download, defined for any
number of channels, and each number has a name. They see grain, edges, blur and contrast, not anatomy.
"""

from typing import Any

import numpy as np
from monai.data import MetaTensor
from nibabel.orientations import io_orientation
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_laplace
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern

from monai_synth.data.intensity import Intensity, Window
from monai_synth.errors import GeometryError, IntensityError
from monai_synth.metrics.case_table import float_array

__all__ = ["EXTRACTOR", "FEATURES_PER_CHANNEL", "GREY_LEVELS", "axial_axis", "feature_names", "texture_features"]

# Goes up with any change of the features: distances of different extractors cannot be compared.
EXTRACTOR = "monai_synth texture 1"
GREY_LEVELS = Window(0, 255, "grey levels")
LEVELS = 256  # real 8-bit images have no more, so a prediction may not be told from them by its decimals
COARSE_LEVELS = 32
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
DISTANCES = (1, 2, 4)  # pixels
ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
RADII = (1, 3)  # pixels
PATTERNS = 10  # rotation invariant uniform patterns of 8 neighbours, the last for all that are not uniform
SIGMAS = (1.0, 2.0, 4.0)  # pixels
SMALLEST = 8  # pixels; the largest distance and radius must fit

_NAMES = (
    "mean",
    "std",
    "entropy",
    *(f"percentile_{p}" for p in PERCENTILES),
    *(f"cooccurrence_{name}_{d}" for name in PROPERTIES for d in DISTANCES),
    *(f"pattern_{k}_radius_{r}" for r in RADII for k in range(PATTERNS)),
    *(f"{kind}_energy_{sigma:g}" for sigma in SIGMAS for kind in ("x", "y", "laplace")),
)
FEATURES_PER_CHANNEL = len(_NAMES)


def texture_features(image: Any, *, intensity: Intensity = GREY_LEVELS, axis: int = -1) -> NDArray[np.float64]:
    """Describe an image by fixed, deterministic features.

    The intensities are mapped to 256 levels over the range of ``intensity``, never over the image's own extremes
    unless that is what ``intensity`` says. Each channel gives 54 numbers: mean, standard deviation, entropy and 7
    percentiles; 5 properties of the grey-level co-occurrence matrix of 32 levels at distances of 1, 2 and 4 pixels,
    means of 4 directions with diagonals rounded to pixels (Haralick 1973, doi:10.1109/TSMC.1973.4309314); histograms
    of 10 rotation invariant uniform local binary patterns at radii of 1 and 3 pixels (Ojala 2002,
    doi:10.1109/TPAMI.2002.1017623); the logarithm of the root mean square of both Gaussian derivatives and of the
    Laplacian at scales of 1, 2 and 4 pixels. Several channels add the correlation of each pair.

    Args:
        image: ``(C, X, Y)``, or ``(C, X, Y, Z)``, whose features are the means over the axial slices that are not
            constant (over all where all are).
        intensity: range of the levels: a ``Window`` for calibrated intensities; ``Percentiles`` or ``ZScore`` are
            fitted to each image, which hides its brightness and contrast.
        axis: spatial axis across the slices of a volume, see :func:`axial_axis`.

    Returns:
        ``(54 C + C (C - 1) / 2,)``, in the order of :func:`feature_names`.

    Raises:
        GeometryError: if the image is not 2D or 3D, or smaller than 8 x 8 pixels in the plane.
        IntensityError: if it has NaN or infinite values.
    """
    array = float_array(image)
    if array.ndim not in (3, 4) or not array.size:
        raise GeometryError(f"An image of shape {array.shape} has no texture: give (C, X, Y) or (C, X, Y, Z).")
    if count := int((~np.isfinite(array)).sum()):
        raise IntensityError(
            f"{count} of {array.size} values are NaN or infinite: texture needs finite intensities. Check that the "
            "training did not diverge and that the file is not damaged."
        )
    slices = array[None] if array.ndim == 3 else np.moveaxis(array, _spatial(axis), 0)
    if min(slices.shape[2:]) < SMALLEST:
        raise GeometryError(
            f"An image of {slices.shape[2]} x {slices.shape[3]} pixels in the plane is too small for texture: at least "
            f"{SMALLEST} x {SMALLEST} are needed."
        )
    unit = _unit_range(slices, intensity)
    levels = np.rint(unit * (LEVELS - 1)).astype(np.uint8)
    varies = levels.reshape(len(levels), -1).min(axis=1) < levels.reshape(len(levels), -1).max(axis=1)
    described = [_of_slice(plane) for plane in (levels[varies] if varies.any() else levels)]
    return np.mean(described, axis=0)


def feature_names(num_channels: int) -> list[str]:
    """Names of the features of an image with so many channels, in their order."""
    pairs = [f"correlation_{a}_{b}" for a in range(num_channels) for b in range(a + 1, num_channels)]
    return [f"channel_{c}_{name}" for c in range(num_channels) for name in _NAMES] + pairs


def axial_axis(image: Any) -> int:
    """Spatial axis of a volume across its axial slices: nearest to head-foot where the image knows, else the last."""
    if isinstance(image, MetaTensor) and image.ndim == 4:
        return int(np.flatnonzero(io_orientation(np.asarray(image.affine))[:, 0] == 2)[0])
    return -1


def _spatial(axis: int) -> int:
    return axis + 1 if axis >= 0 else axis


def _unit_range(image: NDArray[np.float32], intensity: Intensity) -> NDArray[np.float32]:
    """Map to [0, 1]. A network that draws one value, or nearly so, must get a bad score, not stop its training."""
    try:
        window = intensity.fit(image)
    except IntensityError:  # percentiles or z-scores of a (nearly) constant image
        low, high = float(image.min()), float(image.max())
        window = Window(low, high) if low < high else Window(low - 1, low + 1)
    return np.asarray((window.to_network(image) + 1) / 2)


def _of_slice(levels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Features of ``(C, X, Y)`` levels."""
    parts = [_of_channel(channel) for channel in levels]
    if len(levels) > 1:
        flat = levels.reshape(len(levels), -1).astype(np.float64)
        flat -= flat.mean(axis=1, keepdims=True)
        norms = np.linalg.norm(flat, axis=1)
        norms[norms == 0] = 1.0  # a constant channel correlates with none
        correlations = flat @ flat.T / np.outer(norms, norms)
        parts.append(correlations[np.triu_indices(len(levels), k=1)])
    return np.concatenate(parts)


def _of_channel(levels: NDArray[np.uint8]) -> NDArray[np.float64]:
    unit = levels / (LEVELS - 1)
    coarse = levels // (LEVELS // COARSE_LEVELS)
    share = np.bincount(coarse.ravel(), minlength=COARSE_LEVELS) / coarse.size
    entropy = -float((share[share > 0] * np.log2(share[share > 0])).sum())
    matrix = graycomatrix(coarse, DISTANCES, ANGLES, levels=COARSE_LEVELS, symmetric=True, normed=True)
    patterns = [local_binary_pattern(levels, P=8, R=radius, method="uniform").astype(int) for radius in RADII]
    energies = []
    for sigma in SIGMAS:
        derivatives = gaussian_filter(unit, sigma, order=(1, 0)), gaussian_filter(unit, sigma, order=(0, 1))
        for filtered in (*derivatives, gaussian_laplace(unit, sigma)):
            # 1e-4 of the range is below one level of 256: the logarithm of a constant image stays finite.
            energies.append(np.log10(np.sqrt(np.square(filtered).mean()) + 1e-4))
    return np.concatenate(
        [
            [unit.mean(), unit.std(), entropy],
            np.percentile(unit, PERCENTILES),
            *(graycoprops(matrix, name).mean(axis=1) for name in PROPERTIES),
            *(np.bincount(found.ravel(), minlength=PATTERNS) / found.size for found in patterns),
            energies,
        ]
    )
