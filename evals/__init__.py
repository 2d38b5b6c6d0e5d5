"""Is it still the same model? Perplexity, drift and zero-shot accuracy against the original."""

from .bootstrap import Interval, Resampling
from .drift import Drift, token_drift
from .evaluate import evaluate
from .gate import Outcome, Thresholds, Verdict, parse_share
from .lambada import LambadaResult
from .picture import draw_drift
from .report import EvalReport
from .results import VariantResult
from .scores import Perplexity
from .text_source import EvalText, read_eval_text
from .windows import Window, sliding_windows

__all__ = [
    "Drift",
    "EvalReport",
    "EvalText",
    "Interval",
    "LambadaResult",
    "Outcome",
    "Perplexity",
    "Resampling",
    "Thresholds",
    "VariantResult",
    "Verdict",
    "Window",
    "draw_drift",
    "evaluate",
    "parse_share",
    "read_eval_text",
    "sliding_windows",
    "token_drift",
]
