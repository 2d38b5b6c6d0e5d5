"""Running a bundle on ONNX Runtime: no torch, no onnx."""

from .generate import FinishReason, Generation
from .model import Model, load
from .sampling import SamplingParams
from .tokenizer import Tokenizer

__all__ = ["FinishReason", "Generation", "Model", "SamplingParams", "Tokenizer", "load"]
