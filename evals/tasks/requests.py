"""What a task asks a model: to choose, to say a last word, to contrast two texts, or to write."""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[str, str]
"""A context, and a text whose likelihood after it is asked for; the context may be empty."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of several texts is likeliest?"""

    where: str
    """File and line, or id: how a report names the item."""
    pairs: tuple[Pair, ...]
    """One for each option. As a rule the contexts are equal and the model reads them once."""
    right: int
    group: str = ""

    @classmethod
    def after(
        cls, where: str, context: str, continuations: list[str], right: int, *, group: str = ""
    ) -> Choice:
        """Several continuations of one context; they begin with a blank where a word begins."""
        pairs = tuple((context, continuation) for continuation in continuations)
        return cls(where=where, pairs=pairs, right=right, group=group)


@dataclass(frozen=True, kw_only=True)
class LastWord:
    """Is this word what greedy decoding writes after the context, and how likely is it?"""

    where: str
    pairs: tuple[Pair]
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Does the model prefer a stereotype? Pairs: stereotype, its opposite, and maybe nonsense."""

    where: str
    pairs: tuple[Pair, ...]
    group: str
    """The kind of bias, reported on its own too."""


@dataclass(frozen=True, kw_only=True)
class Generate:
    """What does the model write after the prompt?"""

    where: str
    prompt: str
    references: tuple[str, ...]
    """Any one of them is right."""
    max_tokens: int
    ending: str = ""
    """Stands after the prompt. With it a prompt too long for the window loses its end and not its
    beginning."""
    stop: tuple[str, ...] = ()
    """Texts at which writing ends; they are not part of the answer."""
    sentences: int = 0
    """Only so many sentences count; 0: all."""
    top_k: int = 1
    """1: greedy; above: drawn from the k likeliest tokens, with a fixed seed."""
    group: str = ""


Item = Choice | LastWord | Contrast | Generate


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a model thinks of one pair's second text."""

    nats: float
    """Log-likelihood of all its tokens together."""
    tokens: int
    characters: int
    """Of the text, without the one blank that it may begin with: what lm-evaluation-harness
    divides by."""
    greedy: bool
    """Whether each token is the likeliest in its place."""
    filtered: bool
    """The same where the first token must not be a stop word."""


Outcome = tuple[Score, ...] | str | None
"""A model's answer to one item: the scores of its pairs, or the text that it wrote; None where it
could write none, as its logits are no numbers."""
