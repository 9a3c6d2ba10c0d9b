"""What files of OASIS and its successors do not say outright: how wide their noise is, and that they are averages."""

from monai_synth.checkpoints.importers.family import Hints
from monai_synth.checkpoints.weights import StateDict
from monai_synth.errors import ConfigError

_PUBLISHED_NOISE = 64
_AVERAGED_NOTE = (
    "The singular vectors of the spectral norm are not of unit length: they were averaged like the weights (EMA). They "
    "are used as they are, as in the original; a training that goes on renews them."
)


def find_noise(total: int, edge_channels: int, hints: Hints) -> tuple[int, str]:
    """How many of the channels of the stem are noise, and why that is a guess."""
    mixed = total - edge_channels  # noise and labels
    if "noise_channels" in hints or "in_channels" in hints:
        noise_channels = hints.get("noise_channels", total - hints.get("in_channels", 0))
        in_channels = hints.get("in_channels", total - noise_channels)
        if noise_channels + in_channels != total or not 0 <= noise_channels < mixed:
            raise ConfigError(
                f"noise_channels={noise_channels} and in_channels={in_channels} do not fit this file: together they "
                f"must be {total}, of which at most {mixed - 1} noise. Give one of the two; the other follows."
            )
        return noise_channels, ""
    noise_channels = _PUBLISHED_NOISE if mixed > _PUBLISHED_NOISE else 0
    edges = f", and {edge_channels} of edges" if edge_channels else ""
    return noise_channels, (
        f"The file tells only the sum of noise and labels, {mixed} channels{edges}; published networks have "
        f"{_PUBLISHED_NOISE} of noise (z_dim)."
    )


def notes_on_average(state: StateDict) -> tuple[str, ...]:
    """A note where the singular vectors show that the weights are averages over a training."""
    vectors = [value for key, value in state.items() if key.endswith("weight_u") and not value.is_meta]
    is_averaged = any(abs(float(vector.norm()) - 1) > 1e-3 for vector in vectors)
    return (_AVERAGED_NOTE,) if is_averaged else ()
