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
    """How many of the channels of the stem are noise, and how that is known."""
    mixed = total - edge_channels  # noise and labels
    if "noise_channels" in hints or "in_channels" in hints:
        noise_channels = hints.get("noise_channels", total - hints.get("in_channels", 0))
        in_channels = hints.get("in_channels", total - noise_channels)
        if noise_channels + in_channels != total or not 0 <= noise_channels < mixed:
            raise ConfigError(
                f"noise_channels={noise_channels} and in_channels={in_channels} do not fit this file: together they "
                f"are {total}, of which at most {mixed - 1} noise. Give one of the two; the other follows."
            )
        return noise_channels, f"The condition has {in_channels} channels and the noise {noise_channels}, as told."
    noise_channels = _PUBLISHED_NOISE if mixed > _PUBLISHED_NOISE else 0
    return noise_channels, (
        f"The file tells only the sum of noise and labels, {mixed} channels. Taken: {noise_channels} of noise (OASIS "
        f"is published with {_PUBLISHED_NOISE}). If that is wrong, say import_checkpoint(file, noise_channels=...); "
        "noise that is given at each call may have any width that adds up."
    )


def notes_on_average(state: StateDict) -> tuple[str, ...]:
    """A note where the singular vectors show that the weights are averages over a training."""
    vectors = [value for key, value in state.items() if key.endswith("weight_u") and not value.is_meta]
    is_averaged = any(abs(float(vector.norm()) - 1) > 1e-3 for vector in vectors)
    return (_AVERAGED_NOTE,) if is_averaged else ()
