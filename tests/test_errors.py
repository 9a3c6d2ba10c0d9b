"""What a user sees of an uncaught error."""

import os
import subprocess
import sys

SCRIPT = """
from monai_synth.errors import ConfigError, explain_errors
explain_errors()
explain_errors()
try:
    {raised}
except Exception as error:
    raise RuntimeError("wrapped by a configuration parser") from error
"""


def _stderr(raised: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(raised=raised)],
        capture_output=True, text=True, timeout=60, env={**os.environ, **environment},
    )  # fmt: skip
    assert result.returncode == 1
    return result.stderr


def test_a_wrapped_error_of_ours_ends_with_its_sentence() -> None:
    text = _stderr('raise ConfigError("epochs=0: train at least one.")')
    assert text.startswith("\nerror: epochs=0: train at least one.")
    assert "Traceback" not in text


def test_any_other_error_keeps_its_traceback() -> None:
    text = _stderr('raise ValueError("elsewhere")')
    assert "Traceback" in text
    assert "ValueError: elsewhere" in text


def test_the_traceback_can_be_asked_for() -> None:
    assert "Traceback" in _stderr('raise ConfigError("epochs=0")', MONAI_SYNTH_TRACEBACK="1")
