"""What is looked at before hours of computing begin."""

from collections.abc import Mapping, Sequence

import ignite.distributed as idist

from monai_synth.data.manifest import Manifest
from monai_synth.data.manifest_check import require_sound_manifest
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
