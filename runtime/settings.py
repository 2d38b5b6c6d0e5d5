"""What generate(), stream() and generate_ids() take by name, checked before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from ..errors import ConfigError
from .beam_search import BeamParams
from .deadline import Deadline
from .generate import Limits
from .processors import Processor
from .sampling import SamplingParams, sequence_seed
from .setting_checks import MOST_SEQUENCES, check_whole

if TYPE_CHECKING:
    from .model import Model
    from .prefix import Prefix


class Settings(TypedDict, total=False):
    """All may be left out: `SamplingParams`, `Limits`, `BeamParams` say what they mean."""

    max_new_tokens: int
    on_overflow: str
    slide_keep: int
    timeout: float | None
    stop: str | Sequence[str]

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    seed: int | Sequence[int] | None

    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int | None

    bad_words: str | Sequence[str | Sequence[int]]
    suppress_tokens: Sequence[int]
    begin_suppress_tokens: Sequence[int]
    forced_tokens: Mapping[int, int]
    logit_bias: Mapping[int, float]
    min_new_tokens: int
    stop_ids: Sequence[int] | None

    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]

    processors: Sequence[Processor]
    logprobs: int | None

    draft: Literal["lookup"] | Model | None
    prefix: Prefix | None


_SAMPLING = frozenset(field.name for field in dataclasses.fields(SamplingParams))
_LIMITS = frozenset(field.name for field in dataclasses.fields(Limits))
_BEAMS = frozenset(field.name for field in dataclasses.fields(BeamParams))
_SHORTCUTS = frozenset({"draft", "prefix"})


@dataclass(frozen=True, kw_only=True)
class Request:
    """The settings of one call."""

    params: SamplingParams
    seeds: tuple[int, ...] | None
    """One a prompt, where several were given."""
    limits: Limits
    stop: tuple[str, ...]
    beams: BeamParams
    n: int
    """Sequences a prompt."""
    deadline: Deadline

    def rows(self, prompts: int) -> list[SamplingParams]:
        """The settings of every sequence of every prompt: prompt 0's n first."""
        seeds = [self.params.seed] * prompts if self.seeds is None else self.seeds
        if len(seeds) != prompts:
            raise ConfigError(f"seed has {len(seeds)} seeds, but there are {prompts} prompts")
        return [
            replace(self.params, seed=sequence_seed(seed, at))
            for seed in seeds
            for at in range(self.n)
        ]


def read_settings(
    settings: Mapping[str, Any], n: int | None, encode: Callable[[str], list[int]]
) -> Request:
    """What generate() was called with, as checked settings; unknown names are refused.

    `encode` turns bad words that are texts into token ids.
    """
    if "n" in settings:
        raise ConfigError("n is a setting of generate() and generate_ids(): here one text is made")
    known = _SAMPLING | _LIMITS | _BEAMS | _SHORTCUTS | {"stop", "timeout"}
    if unknown := sorted(settings.keys() - known):
        raise ConfigError(f"unknown setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
    stops = _stop_texts(settings.get("stop"))
    sampling = {k: v for k, v in settings.items() if k in _SAMPLING}
    seeds = _take_seeds(sampling)
    if "bad_words" in sampling:
        sampling["bad_words"] = encode_words(sampling["bad_words"], encode)
    params = SamplingParams(**sampling)
    limits = read_limits(settings)
    beams = BeamParams(**{k: v for k, v in settings.items() if k in _BEAMS})
    if n is not None:
        check_whole("n", n, low=1, high=MOST_SEQUENCES)
        n = int(n)
    if params.min_new_tokens > limits.max_new_tokens:
        raise ConfigError(
            f"min_new_tokens of {params.min_new_tokens} exceed max_new_tokens of "
            f"{limits.max_new_tokens}"
        )
    beams.check_with(params, n or 1)
    if beams.num_beams > 1 and settings.get("draft") is not None:
        raise ConfigError(
            "beam search follows several texts, and guesses are made for one: leave draft out, or "
            "num_beams"
        )
    if n is not None and n > 1 and not params.temperature and beams.num_beams == 1:
        raise ConfigError(f"{n} greedy texts would be the same: set temperature, or num_beams")
    return Request(
        params=params, seeds=seeds, limits=limits, stop=stops, beams=beams, n=n or 1,
        deadline=Deadline(settings.get("timeout")),
    )  # fmt: skip


def read_limits(settings: Mapping[str, Any]) -> Limits:
    return Limits(**{k: v for k, v in settings.items() if k in _LIMITS})


def encode_words(words: Any, encode: Callable[[str], list[int]]) -> list[Sequence[int]]:
    """Bad words, texts or token ids, as token ids.

    A text is forbidden as it stands and after a space, since GPT-2's tokens hold the space before
    a word. Another spelling of it, as two tokens where one was meant, is another sequence.

    >>> encode_words(["no", [7, 8]], lambda text: list(text.encode()))
    [[110, 111], [32, 110, 111], [7, 8]]
    """
    if not isinstance(words, Sequence):
        raise ConfigError(f"bad_words must be texts or lists of token ids, but is {words!r}")
    found: list[Sequence[int]] = []
    for word in [words] if isinstance(words, str) else words:
        if isinstance(word, str):
            spellings = [word] if word[:1].isspace() else [word, f" {word}"]
            found += [encode(spelling) if word else [] for spelling in spellings]
        else:
            found.append(word)
    return found


def _take_seeds(sampling: dict[str, Any]) -> tuple[int, ...] | None:
    seed: Any = sampling.get("seed")
    several = isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str | bytes)
    if not several or not getattr(seed, "shape", True):  # an array may have no dimension
        return None
    del sampling["seed"]
    for each in seed:
        check_whole("seed", each, low=0)
    return tuple(map(int, seed))


def _stop_texts(stop: Any) -> tuple[str, ...]:
    if stop is None:
        return ()
    one = isinstance(stop, str | Mapping) or not isinstance(stop, Iterable)
    # An array without a dimension is no Iterable, though it says so.
    texts = (stop,) if one or not getattr(stop, "shape", True) else tuple(stop)
    if not all(isinstance(text, str) and text for text in texts):
        raise ConfigError(f"stop must be a text or several, none of them empty, but is {stop!r}")
    return texts
