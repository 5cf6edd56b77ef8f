"""From ledger rows to a page, figures and a terminal table. Nothing is measured or decided here."""

from veriscope.report.page import write
from veriscope.report.terminal import show

__all__ = ["show", "write"]
