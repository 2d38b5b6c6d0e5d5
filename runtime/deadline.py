"""How long a call may take."""

from __future__ import annotations

from time import monotonic

from .setting_checks import check_number


class Deadline:
    """The setting `timeout` of one call: looked at between steps, never in the middle of one.

    The time begins to run when the model is first asked to read.
    """

    def __init__(self, timeout_s: float | None = None) -> None:
        """None: no end. Raises ConfigError for what is no number above 0."""
        if timeout_s is not None:
            check_number("timeout", timeout_s, low=0, open_low=True)
        self._timeout_s = timeout_s
        self._end_s: float | None = None

    def begin(self) -> bool:
        """Let the time run; whether any is left, as there always is when it begins."""
        if self._timeout_s is None or self._end_s is not None:
            return not self.is_over()
        self._end_s = monotonic() + self._timeout_s
        return True

    def is_over(self) -> bool:
        return self._end_s is not None and monotonic() >= self._end_s
