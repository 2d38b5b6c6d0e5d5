"""Running a bundle on ONNX Runtime: no torch, no onnx."""

from .beam_search import BeamParams
from .generate import FinishReason, Generation
from .logprobs import Score, TokenLogprobs
from .model import Model, load
from .sampling import SamplingParams
from .tokenizer import Tokenizer

__all__ = [
    "BeamParams",
    "FinishReason",
    "Generation",
    "Model",
    "SamplingParams",
    "Score",
    "TokenLogprobs",
    "Tokenizer",
    "load",
]
