"""How many parameters a GPT-2 has and where they sit, by arithmetic: nothing is built for it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from .config import GPT2Config


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Parameters by place. A head tied to the token embedding has none of its own."""

    token_embedding: int
    position_embedding: int
    attention: int
    mlp: int
    norms: int
    head: int

    @property
    def total(self) -> int:
        return sum(self.to_dict().values())

    def to_dict(self) -> dict[str, int]:
        """The counts by name, without the total."""
        return dataclasses.asdict(self)


def count_parameters(config: GPT2Config) -> ParameterCounts:
    """Count the parameters of a model of these sizes, biases included.

    >>> from gpt2edge import preset
    >>> count_parameters(preset("gpt2")).total
    124439808
    """
    embedding, inner, layers = config.n_embd, config.inner_dim, config.n_layer
    vocabulary = config.vocab_size * embedding
    return ParameterCounts(
        token_embedding=vocabulary,
        position_embedding=config.n_positions * embedding,
        # query, key and value in one matrix, and the projection back
        attention=layers * (_linear(embedding, 3 * embedding) + _linear(embedding, embedding)),
        mlp=layers * (_linear(embedding, inner) + _linear(inner, embedding)),
        norms=(2 * layers + 1) * 2 * embedding,  # scale and bias; two norms a layer, one at the end
        head=0 if config.tie_word_embeddings else vocabulary,
    )


def _linear(n_in: int, n_out: int) -> int:
    return n_in * n_out + n_out
