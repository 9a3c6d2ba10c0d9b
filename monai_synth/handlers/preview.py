"""Pictures of the validation cases while a training runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Events
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.data import MetaTensor

from monai_synth.checkpoints import naming_file
from monai_synth.handlers.preview_planes import (
    condition_picture,
    image_picture,
    middle_fraction,
    shorten,
    take_plane,
)
from monai_synth.handlers.random_state import preserved_random_state

Picture = tuple[str, np.ndarray, dict[str, Any]]


class Preview:
    """Draws condition | target | prediction | error of the first validation cases as a PNG after each validation.

    Where the generator takes noise (its ``noise_channels`` is above 0), instead condition | target | several
    predictions, each with another noise. Cases without a target (unpaired methods) show condition | prediction.
    Conditions that are one-hot label maps are shown in colours. Of volumes the slice through the middle of the mask
    along the last axis of the RAS-oriented volume is shown; pictures ``(C, X, Y)`` are shown whole, Y downwards.

    Args:
        directory: gets ``epoch_0010.png`` and so on.
        window: lowest and highest physical value shown of target and prediction.
        error_limit: largest absolute error shown.
        num_cases: rows of the picture.
        num_samples: predictions of a generator that takes noise; 1 shows prediction and error as without. The training
            draws the same random numbers with and without them.
        unit: of target and prediction.
        summary_writer: shows the pictures in TensorBoard too, see :func:`monai_synth.handlers.open_tensorboard`.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        window: tuple[float, float] = (-200.0, 400.0),
        error_limit: float = 300.0,
        num_cases: int = 3,
        num_samples: int = 3,
        unit: str = "HU",
        summary_writer: Any = None,
    ) -> None:
        self.directory = Path(directory)
        self.window = window
        self.error_limit = error_limit
        self.num_cases = num_cases
        self.num_samples = num_samples
        self.unit = unit
        self.summary_writer = summary_writer
        self._rows: list[list[Picture]] = []

    def attach(self, engine: Any) -> None:
        """Collect planes during a validation, draw at its end; first process only."""
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.STARTED, lambda _: self._rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def _collect(self, engine: Any) -> None:
        for item in engine.state.output:
            if len(self._rows) < self.num_cases:
                self._rows.append(self._row(engine, item))

    def _row(self, engine: Any, item: Mapping[str, Any]) -> list[Picture]:
        fraction, (low, high) = middle_fraction(item), self.window
        target = take_plane(item["target"], fraction) if "target" in item else None
        pred, shown = take_plane(item["pred"], fraction), f"{low:g} to {high:g} {self.unit}"
        row: list[Picture] = [
            (f"{shorten(str(item.get('case_id', '')))}: condition", *condition_picture(item, fraction))
        ]
        if target is not None:
            row.append((f"target, {shown}", *image_picture(target, self.window)))
            shown = "same window"
        if self.num_samples > 1 and getattr(engine.network, "noise_channels", 0) > 0:
            preds = [pred, *(take_plane(other, fraction) for other in self._more(engine, item))]
            row += [
                (f"prediction {number}, {shown}", *image_picture(plane, self.window))
                for number, plane in enumerate(preds, start=1)
            ]
        else:
            row.append((f"prediction, {shown}", *image_picture(pred, self.window)))
            if target is not None:
                style = {"cmap": "RdBu_r", "vmin": -self.error_limit, "vmax": self.error_limit}
                error = (pred - target).mean(axis=0)
                row.append((f"error, ±{self.error_limit:g} {self.unit}", error, style))
        # The first row of a drawing is on top: Y of a picture runs down already, anterior of a volume must run up.
        is_picture = item["pred"].ndim == 3
        return [(title, plane.swapaxes(0, 1) if is_picture else np.rot90(plane), style) for title, plane, style in row]

    def _more(self, engine: Any, item: Mapping[str, Any]) -> list[Any]:
        """Further predictions of a case, in physical units as the first one."""
        condition, preds = item["condition"], []
        with preserved_random_state():
            for _ in range(self.num_samples - 1):
                pred = engine.synthesise(condition[None])[0]
                if isinstance(condition, MetaTensor):
                    pred = MetaTensor(pred).copy_meta_from(condition)
                preds.append(engine.postprocess({**item, "pred": pred})["pred"])
        return preds

    def _draw(self, engine: Any) -> None:
        if not self._rows:
            return
        num_columns = max(map(len, self._rows))
        figure = Figure(figsize=(2.5 * num_columns, 2.6 * len(self._rows)), layout="constrained")
        axes = figure.subplots(len(self._rows), num_columns, squeeze=False)
        for line, row in zip(axes, self._rows, strict=True):
            for axis, (title, plane, style) in zip(line, row, strict=False):
                axis.imshow(plane, interpolation="nearest", **style)
                axis.set_title(title, fontsize=8)
                axis.set_axis_off()
        file = self.directory / f"epoch_{engine.state.epoch:04d}.png"
        with naming_file(file):
            self.directory.mkdir(parents=True, exist_ok=True)
            figure.savefig(file, dpi=110)
        if self.summary_writer is not None:
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            pixels = np.asarray(canvas.buffer_rgba())[..., :3]
            self.summary_writer.add_image("preview", pixels, engine.state.epoch, dataformats="HWC")
