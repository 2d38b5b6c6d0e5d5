"""From a text to a checkpoint in one go: vocabulary, data, training, saving."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from pathlib import Path

from ..config import END_OF_TEXT, GPT2Config
from ..errors import ConfigError
from ..files import staged_folder, write_file, write_json
from .data import encode_documents, read_documents, split_documents
from .gpt2 import GPT2, initialize
from .settings import TrainSettings
from .tokenizer_files import copy_tokenizer
from .train import TrainResult, train
from .vocabulary import open_vocabulary, train_vocabulary
from .weights import write_checkpoint

HELD_OUT_FILE = "held_out.txt"
REPORT_FILE = "training.json"

# With TrainSettings' defaults two cores train this in about 80 s, to 3.14 nats per token held out.
# In the same time a width of 192 came to 3.42, and a context of 256 to 3.39.
DEMO_CONFIG = GPT2Config(vocab_size=1024, n_positions=128, n_embd=128, n_layer=4, n_head=2)
DEMO_SETTINGS = TrainSettings()


@dataclass(frozen=True, kw_only=True)
class TrainedCheckpoint:
    """A checkpoint that was trained, its sizes, and what the training measured."""

    folder: Path
    config: GPT2Config
    training_tokens: int
    held_out_tokens: int
    result: TrainResult

    @property
    def held_out_text(self) -> Path:
        return self.folder / HELD_OUT_FILE


def train_checkpoint(
    source: Path | None,
    folder: Path,
    config: GPT2Config = DEMO_CONFIG,
    settings: TrainSettings = DEMO_SETTINGS,
    *,
    tokenizer_folder: Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> TrainedCheckpoint:
    """Train a model on a text (see `read_documents`) and write its checkpoint at `folder`.

    With `tokenizer_folder` its vocabulary is used, else one of at most `config.vocab_size` tokens
    is learned from the training part of the text; the model gets the size that results. Beside
    the checkpoint stand held_out.txt, the text kept back, and training.json, settings and losses.
    `folder` appears whole or, whatever goes wrong, not at all.
    """
    split = split_documents(read_documents(source), seed=settings.seed)
    if settings.sequence_length > config.n_positions:
        raise ConfigError(
            f"sequence_length {settings.sequence_length} exceeds n_positions {config.n_positions}"
        )
    with staged_folder(folder, overwrite=overwrite) as staging:
        if tokenizer_folder is None:
            train_vocabulary(split.training, staging, config.vocab_size)
        else:
            copy_tokenizer(tokenizer_folder, staging)
        tokenizer = open_vocabulary(staging)
        tokens = encode_documents(split.training, tokenizer)
        held_out = encode_documents(split.held_out, tokenizer)
        end = tokenizer.token_to_id(END_OF_TEXT)
        config = dataclasses.replace(
            config, vocab_size=tokenizer.get_vocab_size(), bos_token_id=end, eos_token_id=end
        )
        model = initialize(GPT2(config), seed=settings.seed)
        result = train(model, tokens, held_out, settings, progress=progress)
        write_checkpoint(model, staging)
        write_file(staging / HELD_OUT_FILE, "\n\n".join(split.held_out))
        report = {
            "source": "pydoc_data.topics" if source is None else str(source),
            "settings": asdict(settings),
            "training_tokens": len(tokens),
            "held_out_tokens": len(held_out),
            **result.to_dict(),
        }
        write_json(staging / REPORT_FILE, report)
    return TrainedCheckpoint(
        folder=folder,
        config=config,
        training_tokens=len(tokens),
        held_out_tokens=len(held_out),
        result=result,
    )
