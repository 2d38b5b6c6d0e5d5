"""Running a bundle on ONNX Runtime: no torch, no onnx."""

from .async_stream import AsyncTextStream
from .batcher import Batcher
from .beam_search import BeamParams
from .generate import FinishReason, Generation
from .logprobs import Score, TokenLogprobs
from .model import Model
from .offline import FileReport, generate_file
from .open_model import load
from .pending import Pending
from .prefix import Prefix
from .prefix_cache import PrefixCache
from .sampling import SamplingParams
from .speculative import Speculation
from .text_stream import TextStream
from .tokenizer import Tokenizer

__all__ = [
    "AsyncTextStream",
    "Batcher",
    "BeamParams",
    "FileReport",
    "FinishReason",
    "Generation",
    "Model",
    "Pending",
    "Prefix",
    "PrefixCache",
    "SamplingParams",
    "Score",
    "Speculation",
    "TextStream",
    "TokenLogprobs",
    "Tokenizer",
    "generate_file",
    "load",
]
