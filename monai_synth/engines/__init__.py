"""Adversarial training and whole-volume evaluation on MONAI's and Ignite's engines."""

from monai_synth.engines.batches import prepare_synthesis_batch
from monai_synth.engines.compiling import compile_player
from monai_synth.engines.distributed import distribute, local_device, start_process_group, stop_process_group
from monai_synth.engines.evaluation import EvaluationTables, refuse_leakage
from monai_synth.engines.evaluator import SynthesisEvaluator
from monai_synth.engines.fused_adam import FusedAdam
from monai_synth.engines.memory_reuse import reused_memory
from monai_synth.engines.options import refuse_unknown_options
from monai_synth.engines.preflight import check_cohort, check_patch_size
from monai_synth.engines.schedules import (
    cosine_decay,
    late_linear_decay,
    linear_decay,
    per_iteration,
    step_decay,
    warm_up,
)
from monai_synth.engines.trainer import SynthesisTrainer, autocast_dtype
from monai_synth.engines.unpaired_preflight import require_cases, require_one_pixel_size

__all__ = [
    "EvaluationTables",
    "FusedAdam",
    "SynthesisEvaluator",
    "SynthesisTrainer",
    "autocast_dtype",
    "check_cohort",
    "check_patch_size",
    "compile_player",
    "cosine_decay",
    "distribute",
    "late_linear_decay",
    "linear_decay",
    "local_device",
    "per_iteration",
    "prepare_synthesis_batch",
    "refuse_leakage",
    "refuse_unknown_options",
    "require_cases",
    "require_one_pixel_size",
    "reused_memory",
    "start_process_group",
    "step_decay",
    "stop_process_group",
    "warm_up",
]
