"""Pictures of the validation cases while a training runs."""

from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from monai.data import MetaTensor
from monai.transforms import Orientation


class Preview:
    """Draws condition | target | prediction | error of the first validation cases as a PNG after each validation.

    Shown is the slice through the middle of the mask along the last axis of the RAS-oriented volume.

    Args:
        directory: gets ``epoch_0010.png`` and so on.
        window: lowest and highest physical value shown of target and prediction.
        error_limit: largest absolute error shown.
        num_cases: rows of the picture.
        unit: of target and prediction.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        window: tuple[float, float] = (-200.0, 400.0),
        error_limit: float = 300.0,
        num_cases: int = 3,
        unit: str = "HU",
    ) -> None:
        self.directory = Path(directory)
        self.window = window
        self.error_limit = error_limit
        self.num_cases = num_cases
        self.unit = unit
        self._rows: list[tuple[str, list[np.ndarray]]] = []

    def attach(self, engine: Engine) -> None:
        """Collect planes during a validation, draw at its end; first process only."""
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.STARTED, lambda _: self._rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def _collect(self, engine: Engine) -> None:
        for item in engine.state.output:
            if len(self._rows) < self.num_cases:
                self._rows.append((str(item.get("case_id", "")), _planes(item)))

    def _draw(self, engine: Engine) -> None:
        if not self._rows:
            return
        figure = Figure(figsize=(10, 2.6 * len(self._rows)), layout="constrained")
        axes = figure.subplots(len(self._rows), 4, squeeze=False)
        low, high = self.window
        for row, (case, (condition, target, pred)) in zip(axes, self._rows, strict=True):
            styles: list[tuple[str, np.ndarray, dict[str, Any]]] = [
                (f"{case}: condition", condition, {"cmap": "gray"}),
                (f"target, {low:g} to {high:g} {self.unit}", target, {"cmap": "gray", "vmin": low, "vmax": high}),
                ("prediction, same window", pred, {"cmap": "gray", "vmin": low, "vmax": high}),
                (
                    f"error, ±{self.error_limit:g} {self.unit}",
                    pred - target,
                    {"cmap": "RdBu_r", "vmin": -self.error_limit, "vmax": self.error_limit},
                ),
            ]
            for axis, (title, plane, style) in zip(row, styles, strict=True):
                axis.imshow(np.rot90(plane), interpolation="nearest", **style)
                axis.set_title(title, fontsize=8)
                axis.set_axis_off()
        self.directory.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.directory / f"epoch_{engine.state.epoch:04d}.png", dpi=110)


def _planes(item: dict[str, Any]) -> list[np.ndarray]:
    """The middle plane of condition, target and prediction, each ``(X, Y)`` in RAS."""
    volumes = [_to_ras(item[key]) for key in ("native_condition", "target", "pred")]
    mask = _to_ras(item["mask"]) if "mask" in item else np.ones_like(volumes[1])
    indices = np.flatnonzero(mask.any(axis=(0, 1)))
    middle = int(indices[len(indices) // 2]) if len(indices) else volumes[1].shape[2] // 2
    return [volume[..., middle] for volume in volumes]


def _to_ras(volume: Any) -> np.ndarray:
    if isinstance(volume, MetaTensor):
        volume = Orientation(axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(volume)
    return np.asarray(volume[0], dtype=np.float32)
