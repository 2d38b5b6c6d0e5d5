"""Does the bundle mean the same in every runtime? The same questions to all, answers compared."""

from .report import VerifyReport
from .systems import SYSTEMS
from .verify import verify

__all__ = ["SYSTEMS", "VerifyReport", "verify"]
