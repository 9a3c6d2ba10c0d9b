"""Reports of a training run: one self-contained HTML file and three lines for the terminal."""

from monai_synth.reports.report import write_report
from monai_synth.reports.verdict import headline

__all__ = ["headline", "write_report"]
