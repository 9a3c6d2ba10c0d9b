"""What is looked at before hours of computing begin."""

from collections.abc import Mapping, Sequence

import ignite.distributed as idist
from torch import nn

from monai_synth.data.manifest import Manifest
from monai_synth.data.manifest_check import require_sound_manifest
from monai_synth.errors import ConfigError
from monai_synth.handlers import is_true


def check_cohort(cohort: Manifest, roles: Mapping[str, str | Sequence[str]], *, check: bool | str = True) -> None:
    """Read every image once, on the first process, and stop on any that is broken or does not fit its case.

    Args:
        cohort: the cases about to be used.
        roles: key -> column or columns.
        check: whether to do it at all; a large cohort that has been checked does not need it at every start.

    Raises:
        ManifestError: with all findings.
    """
    if is_true(check, "check") and idist.get_rank() == 0:
        print(f"checking {len(cohort)} cases (--check false leaves it out)", flush=True)  # noqa: T201
        require_sound_manifest(cohort, roles)


def check_patch_size(patch_size: int | Sequence[int], network: nn.Module) -> None:
    """Stop before any image is read where the generator cannot take crops of this size.

    Args:
        patch_size: size of the training crops, one number for all axes or one for each.
        network: the generator; its ``stride`` and ``min_size`` decide, where it has them.

    Raises:
        ConfigError: with sizes that it can take.
    """
    bare = getattr(network, "module", network)
    stride, smallest = int(getattr(bare, "stride", 1)), int(getattr(bare, "min_size", 1))
    sizes = [patch_size] if isinstance(patch_size, int) else list(patch_size)
    if all(size >= smallest and size % stride == 0 for size in sizes):
        return
    fitting = [max(round(size / stride), -(-smallest // stride), 1) * stride for size in sizes]
    raise ConfigError(
        f"patch_size {patch_size}: the generator takes multiples of {stride}"
        + (f" from {smallest} on" if smallest > stride else "")
        + f". Give --patch_size {fitting[0] if isinstance(patch_size, int) else fitting}, or a generator that halves "
        "its images less often."
    )
