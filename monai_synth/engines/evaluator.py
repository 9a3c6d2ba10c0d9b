"""Whole volumes through a network, with metrics in physical units."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from ignite.metrics import Metric
from monai.engines import Evaluator
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.utils import ForwardMode
from torch import Tensor, nn

from monai_synth.engines.batches import prepare_synthesis_batch
from monai_synth.engines.trainer import autocast_dtype


class SynthesisEvaluator(Evaluator):
    """Synthesises each case of a loader and hands it to postprocessing and metrics.

    ``engine.state.output`` is, after MONAI's decollation and ``postprocessing``, one dictionary a case with
    everything the loader gave (``target``, ``mask``, ``case_id``, …) and ``pred``. Only ``condition`` goes to the
    device, so large targets stay where they are.

    Args:
        device: where the network is.
        val_data_loader: yields dictionaries with ``condition`` ``(B, C, *spatial)``.
        network: the generator, usually the averaged one.
        inferer: a volume in, a volume out, see ``monai_synth.inferers``.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``. Reduced precision costs HU: 1.5 to 21 HU were measured.
        postprocessing, key_val_metric, additional_metrics, metric_cmp_fn, val_handlers: as in MONAI's evaluators.
    """

    def __init__(
        self,
        *,
        device: torch.device | str,
        val_data_loader: Iterable[Mapping[str, Any]],
        network: nn.Module,
        inferer: Inferer,
        precision: str = "fp32",
        postprocessing: Callable[..., Any] | None = None,
        key_val_metric: dict[str, Metric] | None = None,
        additional_metrics: dict[str, Metric] | None = None,
        metric_cmp_fn: Callable[[float, float], bool] = lambda current, best: current < best,
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.network = network
        self.inferer = inferer
        self.precision = precision
        self._dtype = autocast_dtype(precision)
        self._metrics = {**(key_val_metric or {}), **(additional_metrics or {})}
        # For whoever synthesises one case again, such as a preview of several noises.
        self.postprocess: Callable[[dict[str, Any]], Any] = postprocessing or _unchanged
        super().__init__(
            device=device,
            val_data_loader=val_data_loader,
            prepare_batch=prepare_synthesis_batch,
            postprocessing=postprocessing,
            key_val_metric=key_val_metric,
            additional_metrics=additional_metrics,
            metric_cmp_fn=metric_cmp_fn,
            val_handlers=val_handlers,
            mode=ForwardMode.EVAL,
        )

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What a run leaves in ``state.metrics``; a metric with several values, such as ``CaseScores``, gives them all.

        The key value of such a metric has the name that the evaluator gave the metric.
        """
        names: dict[str, None] = {}
        for name, metric in self._metrics.items():
            others = [each for each in getattr(metric, "units", ()) if each != getattr(metric, "key_metric", name)]
            names |= dict.fromkeys([name, *others])
        return tuple(names)

    def _iteration(self, engine: "SynthesisEvaluator", batchdata: Mapping[str, Any]) -> dict[str, Any]:
        pred = self.synthesise(batchdata["condition"])
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        self.state.output = {**batchdata, "pred": pred}
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return self.state.output

    def synthesise(self, condition: Tensor) -> Tensor:
        """Run the network in evaluation mode; the result is in network range, on the device of ``condition``.

        Args:
            condition: ``(B, C, *spatial)``.
        """
        given = condition.to(self.state.device)
        dtype = self._dtype or torch.bfloat16
        with self.mode(self.network), torch.autocast(given.device.type, dtype=dtype, enabled=self._dtype is not None):
            pred: Tensor = self.inferer(given, self.network)
        return pred.float().to(condition.device)


def _unchanged(item: dict[str, Any]) -> dict[str, Any]:
    return item
