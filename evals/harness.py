"""A bundle as a model of lm-evaluation-harness (Gao et al. 2021): `--model gpt2edge`.

The harness looks for no plug-ins, so it must be told: `gpt2edge lm-eval ...` is its own command
with this model known to it, and a program that imports this module calls `simple_evaluate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from ..errors import ConfigError, EvalError, Gpt2EdgeError
from ..runtime import load
from .tasks.language_model import VariantModel
from .tasks.loglikelihood import Encoded, score_pairs

NAME = "gpt2edge"
_MAX_NEW_TOKENS = 256  # the harness's own default


@register_model(NAME)
class Gpt2EdgeLM(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """What `--model_args bundle=PATH,precision=int4,provider=cpu,threads=2` opens.

    loglikelihood, loglikelihood_rolling and generate_until give the numbers that the harness's own
    `hf` model gives for the checkpoint, up to what the precision costs. A context that several
    continuations share is read once.

    Raises BundleError, ProviderUnavailable and ConfigError as `gpt2edge.load` does.
    """

    def __init__(
        self,
        bundle: str | Path,
        precision: str | None = None,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        batch_size: int | str | None = None,  # noqa: ARG002 (rows are batched by length)
        max_batch_size: int | None = None,  # noqa: ARG002
        device: str | None = None,  # noqa: ARG002 (the harness's default is a GPU)
        max_gen_toks: int = _MAX_NEW_TOKENS,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise ConfigError(
                f"--model_args {', '.join(sorted(unknown))}: not known; there are bundle, "
                "precision, provider, threads and max_gen_toks"
            )
        self._model = load(bundle, precision, provider=provider, threads=threads)
        if self._model.tokenizer is None:
            raise EvalError(f"{bundle}: has no tokenizer, so it cannot read a text")
        self._words = self._model.tokenizer
        if self._words.eos_id is None:
            raise EvalError(f"{bundle}: its vocabulary lacks <|endoftext|>")
        self._eot: int = self._words.eos_id
        self._scored = VariantModel(self._model)
        self.max_length = self._model.config.n_positions
        self.max_gen_toks = max_gen_toks

    @property
    def eot_token_id(self) -> int:
        return self._eot

    @property
    def tokenizer_name(self) -> str:
        return str(self._model.bundle.path)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into its results."""
        variant = self._model.variant
        return {
            "gpt2edge_variant": variant.name,
            "gpt2edge_files": {
                name: record.sha256 for name, record in self._model.bundle.manifest.files.items()
            },
        }

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,  # noqa: ARG002 (GPT-2 adds none)
        **_options: Any,
    ) -> list[int]:
        return self._words.encode(string)

    def tok_decode(self, tokens: Sequence[int], **_options: Any) -> str:
        return self._words.decode(list(tokens))

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, Sequence[int], Sequence[int]]],
        disable_tqdm: bool = False,
        **_options: Any,
    ) -> list[tuple[float, bool]]:
        pairs = [self._fitted(context, target) for _, context, target in requests]
        with tqdm(total=len(pairs), disable=disable_tqdm, desc="log-likelihoods") as bar:
            scores = score_pairs(pairs, self._scored, on_done=bar.update)
        answers = [(score.nats, score.greedy) for score in scores]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts: every token once, in windows that do not overlap."""
        answers = []
        for request in requests:
            (text,) = request.args
            windows = utils.get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
            )
            pairs = [(None, *utils.make_disjoint_window(window)) for window in windows]
            scored = self._loglikelihood_tokens(pairs, disable_tqdm=disable_tqdm)
            answers.append(sum(nats for nats, _ in scored))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answers[-1])
        return answers

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue each context until one of its stops; the beginning goes if it is too long."""
        answers = []
        for request in tqdm(requests, disable=disable_tqdm, desc="texts"):
            context, asked = request.args
            settings = _generation(asked, self.max_gen_toks)
            new_tokens = min(settings["max_new_tokens"], self.max_length)
            settings["max_new_tokens"] = new_tokens
            ids = self.tok_encode(context) or [self._eot]
            room = max(1, self.max_length - new_tokens)  # as its `hf` model has it
            done = self._model.generate_ids(ids[-room:], **settings)
            answers.append(str(done.text))
            self.cache_hook.add_partial("generate_until", request.args, answers[-1])
        return answers

    def _fitted(self, context: Sequence[int], target: Sequence[int]) -> Encoded:
        room = self.max_length + 1 - len(target)
        if room < 1:
            raise EvalError(
                f"a continuation of {len(target)} tokens exceeds the window of {self.max_length}"
            )
        cut = max(0, len(context) - room)
        return Encoded(tuple(context[cut:]), tuple(target), characters=0, cut=cut)


def _generation(asked: dict[str, Any], most: int) -> dict[str, Any]:
    """The harness's generation settings as `generate_ids` takes them."""
    asked = dict(asked)
    until = asked.pop("until", None) or []
    found: dict[str, Any] = {
        "stop": [until] if isinstance(until, str) else [text for text in until if text],
        "max_new_tokens": int(asked.pop("max_gen_toks", most)),
    }
    drawn = asked.pop("do_sample", float(asked.get("temperature", 0.0)) > 0)
    temperature = float(asked.pop("temperature", 1.0 if drawn else 0.0))
    found["temperature"] = temperature if drawn else 0.0
    for name in ("top_k", "top_p", "repetition_penalty", "seed"):
        if name in asked:
            value = asked.pop(name)
            if drawn or name == "repetition_penalty":
                found[name] = value
    if asked:
        raise ConfigError(f"generation setting {sorted(asked)[0]!r} is not known to gpt2edge")
    return found


def main(arguments: Sequence[str]) -> None:
    """The harness's own command line, with this model known to it."""
    import sys

    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["gpt2edge lm-eval", *arguments]
    try:
        cli_evaluate()
    except Gpt2EdgeError:
        raise  # some of ours are a ValueError as well
    except ValueError as reason:  # so the harness says that a task or a setting is not known
        raise EvalError(f"lm-eval: {reason}") from reason
