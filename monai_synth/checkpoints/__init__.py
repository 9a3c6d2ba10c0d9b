"""Weights on disk: ours, and those of published methods."""

from monai_synth.checkpoints.contract import in_words, is_same_setting, read_record, refuse_other_contract
from monai_synth.checkpoints.files import load_file, naming_file, require_writable, save_file
from monai_synth.checkpoints.importers import (
    ImportedCheckpoint,
    ImportReport,
    import_checkpoint,
    import_state,
    load_network,
    write_imported,
)
from monai_synth.checkpoints.weights import (
    load_state,
    load_weights,
    read_state_dict,
    save_weights,
    start_from,
    unwrapped,
)

__all__ = [
    "ImportReport",
    "ImportedCheckpoint",
    "import_checkpoint",
    "import_state",
    "in_words",
    "is_same_setting",
    "load_file",
    "load_network",
    "load_state",
    "load_weights",
    "naming_file",
    "read_record",
    "read_state_dict",
    "refuse_other_contract",
    "require_writable",
    "save_file",
    "save_weights",
    "start_from",
    "unwrapped",
    "write_imported",
]
