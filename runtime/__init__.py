"""Running a bundle on ONNX Runtime: no torch, no onnx."""

from .generate import FinishReason, Generation
from .model import Model, load
from .prefix import Prefix
from .prefix_cache import PrefixCache
from .sampling import SamplingParams
from .speculative import Speculation
from .text_stream import TextStream
from .tokenizer import Tokenizer

__all__ = [
    "FinishReason",
    "Generation",
    "Model",
    "Prefix",
    "PrefixCache",
    "SamplingParams",
    "Speculation",
    "TextStream",
    "Tokenizer",
    "load",
]
