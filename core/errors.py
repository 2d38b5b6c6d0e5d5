"""Every error that gpt2edge raises on purpose. Each message is one line: what, where, what to do.

Gpt2EdgeError
 ├── ConfigError            a setting is out of range or settings contradict each other
 ├── CheckpointError        a PyTorch checkpoint is missing, damaged or of another shape
 ├── TokenizerError         vocabulary files are damaged or do not fit the model
 ├── TextError              a text is missing, empty, too short, or not UTF-8
 ├── CorpusError            a corpus cannot be prepared, or is damaged
 ├── TrainingError          training went astray and was stopped
 ├── TrainingInterrupted    it was asked to stop, and its state is saved
 ├── ExportError            the ONNX graph could not be made
 │    └── ParityError       it was made, but its outputs differ from the original
 ├── FusionError            a pattern that must be in the graph was not found
 ├── QuantizeError          a variant cannot be quantized as asked
 │    └── BudgetNotMet      no choice of formats holds the size or the drift that was asked for
 ├── BundleError            a bundle cannot be used
 │    ├── BundleIncomplete  a file is missing
 │    ├── BundleCorrupt     a file is not what the manifest says
 │    ├── BundleVersion     made by a newer gpt2edge
 │    └── UnsafePath        a path leaves the bundle
 ├── StorageError           the disk is full, or a folder cannot be written
 ├── PromptError            a prompt or token ids cannot be used
 │    └── ContextOverflow   prompt and new tokens exceed the context window
 ├── ProviderUnavailable    an execution provider is not installed
 ├── RuntimeFailure         ONNX Runtime failed in the middle of a run
 ├── QueueFull              as many requests wait as may
 ├── RequestCancelled       a request was cancelled before its end
 │    └── RequestTimeout    as its result did not come in the time given
 ├── GenerationInterrupted  a file of prompts was left unfinished, and can be gone on with
 └── EvalError              an evaluation could not run
"""


class Gpt2EdgeError(Exception):
    """Base class: catch this to catch everything below. `exit_code` is what the CLI returns."""

    exit_code = 2


class ConfigError(Gpt2EdgeError, ValueError):
    """A setting is out of range, unknown, or contradicts another."""


class CheckpointError(Gpt2EdgeError):
    """A checkpoint is missing, damaged, or holds tensors that do not fit."""


class TokenizerError(Gpt2EdgeError):
    """Vocabulary files are missing, damaged, or do not fit the model."""


class TextError(Gpt2EdgeError):
    """A text to train on is missing, empty, too short, or not UTF-8."""


class CorpusError(Gpt2EdgeError):
    """Documents cannot be read, or a prepared corpus is missing or damaged."""


class TrainingError(Gpt2EdgeError):
    """Training went astray: the loss is no longer a number."""


class TrainingInterrupted(Gpt2EdgeError):
    """Training was asked to stop (Ctrl-C, SIGTERM); its state is saved and can be gone on from."""

    exit_code = 130


class ExportError(Gpt2EdgeError):
    """The ONNX graph could not be made."""


class ParityError(ExportError):
    """An ONNX graph's outputs differ from the original by more than is allowed."""

    exit_code = 1


class FusionError(Gpt2EdgeError):
    """A pattern that fusion expects in every GPT-2 graph was not found."""


class QuantizeError(Gpt2EdgeError):
    """A variant cannot be quantized as asked."""


class BudgetNotMet(QuantizeError):
    """No choice of formats holds the budget; the message says what the best one reaches.

    `above_bytes`: by how much a variant that was written came out too large.
    """

    exit_code = 1

    def __init__(self, message: str, *, above_bytes: int = 0) -> None:
        super().__init__(message)
        self.above_bytes = above_bytes


class BundleError(Gpt2EdgeError):
    """A bundle cannot be used."""


class BundleIncomplete(BundleError):
    """A file that the bundle needs is missing."""


class BundleCorrupt(BundleError):
    """A file in the bundle is not what the manifest says it is."""


class BundleVersion(BundleError):
    """The bundle was made by a newer gpt2edge."""


class UnsafePath(BundleError):
    """A path named by the bundle leaves the bundle's folder."""


class StorageError(Gpt2EdgeError):
    """Writing failed: the disk is full or the folder cannot be written."""


class PromptError(Gpt2EdgeError, ValueError):
    """A prompt, or token ids, cannot be used with this model."""


class ContextOverflow(PromptError):
    """Prompt and requested tokens together exceed the context window."""


class ProviderUnavailable(Gpt2EdgeError):
    """An execution provider was asked for that this onnxruntime does not have."""


class RuntimeFailure(Gpt2EdgeError):
    """ONNX Runtime failed in the middle of a run, or returned logits that are not numbers."""


class QueueFull(Gpt2EdgeError):
    """A batcher has as many requests waiting as it may: try again later, or serve fewer."""


class RequestCancelled(Gpt2EdgeError):
    """A request was cancelled before its end, by its owner or as its batcher was closed."""


class RequestTimeout(RequestCancelled, TimeoutError):
    """A request's result did not come in the time given; it was cancelled."""


class GenerationInterrupted(Gpt2EdgeError):
    """Ctrl-C ended the work on a file of prompts; the results so far are saved."""

    exit_code = 130


class EvalError(Gpt2EdgeError):
    """An evaluation could not run."""
