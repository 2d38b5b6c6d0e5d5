from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2edge import Bundle
from gpt2edge.errors import ConfigError, EvalError, Gpt2EdgeError
from gpt2edge.evals import EvalReport, Outcome, Thresholds, draw_drift, evaluate
from gpt2edge.evals.original import Original
from gpt2edge.model import initialize, load_checkpoint, save_checkpoint
from gpt2edge.model.gpt2 import GPT2
from gpt2edge.runtime import Tokenizer

VARIANTS = ["fp32", "fp32-portable", "fp16", "int8", "int4"]


def test_perplexity_is_transformers(
    report: EvalReport, tiny_folder: Path, tiny_bundle: Path, text: str
) -> None:
    """As Hugging Face's guide to perplexity does it: labels of -100 where a token is context."""
    model = GPT2LMHeadModel.from_pretrained(tiny_folder).eval()
    ids = Tokenizer.from_folder(tiny_bundle).encode(text)
    total, scored, end = 0.0, 1, 65
    while scored < len(ids):
        end = min(end, len(ids))
        context = torch.tensor([ids[max(0, end - 65) : end]])
        labels = context.clone()
        labels[:, : -(end - scored)] = -100
        with torch.no_grad():
            total += model(context, labels=labels).loss.item() * (end - scored)
        scored, end = end, end + 24
    wanted = total / (len(ids) - 1)
    fp32, portable = (variant.scored for variant in report.variants[:2])
    for perplexity in (report.original.perplexity, fp32.perplexity, portable.perplexity):
        assert perplexity.tokens == len(ids) - 1
        assert perplexity.nll_nats == pytest.approx(wanted, rel=1e-5)
        assert perplexity.per_token == pytest.approx(math.exp(wanted), rel=1e-4)
        assert perplexity.per_word == pytest.approx(math.exp(total / len(text.split())), rel=1e-3)
        assert perplexity.bits_per_byte == pytest.approx(
            total / len(text.encode()) / math.log(2), rel=1e-4
        )


def test_drift_grows_as_bits_go(report: EvalReport) -> None:
    assert [variant.name for variant in report.variants] == VARIANTS
    fp32, portable, fp16, int8, int4 = (v.drift.mean_kl_nats for v in report.variants)
    assert max(fp32, portable) < 1e-8 < fp16 < int8 < int4
    assert report.variants[0].drift.top1_agreement == 1.0
    assert report.variants[0].drift.ppl_ratio == pytest.approx(1, abs=1e-5)


def test_the_gate(report: EvalReport) -> None:
    passed = {variant.name: variant.passed for variant in report.variants}
    assert passed["fp32"]
    assert not passed["int4"]
    assert report.exit_code == 1
    table = report.to_table()
    assert "FAIL int4: max_mean_kl is" in table
    assert table.count("95% interval") == 1


def test_every_number_lies_in_its_interval(report: EvalReport) -> None:
    for variant in report.variants:
        assert len(variant.intervals) == 11
        for name, ends in variant.intervals.items():
            assert ends.low <= getattr(variant.drift, name) <= ends.high, (variant.name, name)
    assert report.variants[-1].intervals["ppl_ratio"].low > 0


def test_a_limit_inside_the_interval_is_not_decided(
    tiny_bundle: Path, tiny_folder: Path, text: str, report: EvalReport
) -> None:
    int4 = report.variants[-1]
    for limit, outcome in (
        (int4.drift.mean_kl_nats, Outcome.UNDECIDED),
        (2 * int4.intervals["mean_kl_nats"].high, Outcome.PASS),
        (0.5 * int4.intervals["mean_kl_nats"].low, Outcome.FAIL),
    ):
        result = evaluate(
            Bundle.open(tiny_bundle), tiny_folder, text, variants=["int4"], window=64, stride=24,
            thresholds=Thresholds(max_mean_kl=limit),
        )  # fmt: skip
        assert result.variants[0].outcome is outcome
        assert result.exit_code == {"pass": 0, "fail": 1, "undecided": 2}[outcome]


def test_where_drift_lives(report: EvalReport) -> None:
    for variant in report.variants:
        for bins in (variant.breakdown.by_position, variant.breakdown.by_frequency):
            assert sum(part.tokens for part in bins) == report.original.perplexity.tokens
            total = sum(part.tokens * part.mean_kl_nats for part in bins)
            assert total / report.original.perplexity.tokens == pytest.approx(
                variant.drift.mean_kl_nats
            )
        assert variant.breakdown.by_position[-1].high == 64


def test_greedy_continuations_are_transformers(
    report: EvalReport, tiny_folder: Path, tiny_bundle: Path, text: str
) -> None:
    model = GPT2LMHeadModel.from_pretrained(tiny_folder).eval()
    ids = np.array(Tokenizer.from_folder(tiny_bundle).encode(text))
    original = Original(load_checkpoint(tiny_folder))
    starts = np.linspace(0, len(ids) - 32, 11).astype(int)  # more than are continued together
    prompts = np.stack([ids[start : start + 32] for start in starts])
    made = original.greedy(prompts, 64)
    with torch.no_grad():
        wanted = model.generate(
            torch.tensor(prompts), max_new_tokens=64, do_sample=False, eos_token_id=None,
            pad_token_id=0, attention_mask=torch.ones(11, 32, dtype=torch.int64),
        )  # fmt: skip
    np.testing.assert_array_equal(made, wanted[:, 32:].numpy())
    fp32, int4 = report.variants[0].generation, report.variants[-1].generation
    assert (fp32.prompts, fp32.equal, fp32.new_tokens) == (3, 3, 64)
    assert int4.equal < 3
    assert "greedy fp32: 3 of 3 prompts continued alike for 64 tokens\n" in report.to_table()
    assert "prompts continued alike for 64 tokens, the others for" in report.to_table()


def test_too_short_a_text_decides_nothing(tiny_bundle: Path, tiny_folder: Path, text: str) -> None:
    limits = Thresholds(max_ppl_increase=100.0)
    result = evaluate(
        Bundle.open(tiny_bundle), tiny_folder, text, variants=["fp32"], max_tokens=200, window=64,
        thresholds=limits,
    )  # fmt: skip
    assert result.variants[0].intervals == {}
    assert result.exit_code == 2
    assert "undecided fp32: max_ppl_increase is" in result.to_table()
    assert "too short" in result.to_table()
    again = EvalReport.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again.exit_code == 2


def test_flipped_passages_are_named(
    tiny_bundle: Path, tiny_folder: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original knows every last word, the variant all but the one of line 3."""
    from gpt2edge.evals.original import Original
    from gpt2edge.runtime import Model

    words = {"it binds a": "name", "it finds a": "module", "it is an": "import"}
    passages = tmp_path / "lambada.jsonl"
    passages.write_text("".join(f'{{"text": "{a} {b}"}}\n' for a, b in words.items()))
    tokenizer = Tokenizer.from_folder(tiny_bundle)
    answers = [tokenizer.encode(a) + tokenizer.encode(f" {b}") for a, b in words.items()]

    def knowing(known: list[list[int]], ids: np.ndarray, last: int = 0) -> np.ndarray:
        out = np.zeros((*ids.shape, 400), np.float32)
        for row, fed in enumerate(ids):
            for answer in known:
                if fed[1 - len(answer) :].tolist() == answer[:-1]:
                    out[row, range(1 - len(answer), 0), answer[1:]] = 9.0
        return out[:, -last:]

    monkeypatch.setattr(Original, "__call__", lambda _, ids, *__, **o: knowing(answers, ids, **o))
    monkeypatch.setattr(Model, "logits", lambda _, ids, *__, **o: knowing(answers[:2], ids, **o))
    result = evaluate(
        Bundle.open(tiny_bundle), tiny_folder, text, variants=["int8"], max_tokens=40,
        window=32, lambada=passages, thresholds=Thresholds(max_lambada_drop=1.0),
    )  # fmt: skip
    assert result.original.lambada.outcomes == "111"
    assert result.variants[0].scored.lambada.outcomes == "110"
    assert result.variants[0].lambada.lost == (2,)
    assert result.lambada["flipped"] == {"2": {"line": 3, "word": "import"}}
    assert "LAMBADA int8: lost 1: line 3 (import); gained none" in result.to_table()
    (verdict,) = result.variants[0].verdicts
    assert verdict.measured == pytest.approx(1 / 3)
    assert verdict.interval.low < 1 / 3 < verdict.interval.high
    assert result.exit_code == 0


def test_the_report_as_json_and_markdown(report: EvalReport) -> None:
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["text"]["source"] == "topics"
    assert len(data["text"]["sha256"]) == 64
    assert data["files"]["onnx/model.onnx"]
    assert data["provider"] == "cpu"
    again = EvalReport.from_dict(data)
    assert again.to_dict() == data
    assert again.to_table() == report.to_table()
    assert again.exit_code == report.exit_code
    assert {"gpt2edge", "onnxruntime", "torch"} <= data["versions"].keys()
    assert [row["name"] for row in data["variants"]] == VARIANTS
    lines = report.to_markdown().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 1 + len(VARIANTS)
    assert len({line.count("|") for line in table}) == 1


def test_the_picture(report: EvalReport, tmp_path: Path) -> None:
    from matplotlib.image import imread

    draw_drift(report, tmp_path / "drift.png")
    pixels = imread(tmp_path / "drift.png")
    assert pixels.shape[0] > 300
    assert pixels.std() > 0.05


def test_a_variant_that_is_broken_never_passes(
    tiny_bundle: Path,
    tiny_folder: Path,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from gpt2edge.runtime import Model

    logits = Model.logits

    def broken(self: Model, *given: np.ndarray, **options: int) -> np.ndarray:
        out = logits(self, *given, **options)
        out[..., 3] = np.nan
        return out

    monkeypatch.setattr(Model, "logits", broken)
    for thresholds in (Thresholds(max_ppl_increase=1e9), Thresholds(min_top1_agreement=0), None):
        result = evaluate(
            Bundle.open(tiny_bundle), tiny_folder, text, variants=["int8"], max_tokens=100,
            thresholds=thresholds, window=50, generate=2,
        )  # fmt: skip
        assert result.exit_code == 1
        assert not result.variants[0].sound
        assert "FAIL int8: its logits are not finite numbers" in result.to_table()
        data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert EvalReport.from_dict(data).to_dict() == data
    draw_drift(result, tmp_path / "drift.png")


def test_max_tokens_and_lambada(
    tiny_bundle: Path, tiny_folder: Path, text: str, tmp_path: Path
) -> None:
    passages = tmp_path / "lambada.jsonl"
    passages.write_text('{"text": "The import statement binds a name"}\n' * 3)
    result = evaluate(
        Bundle.open(tiny_bundle), tiny_folder, text, variants=["fp32", "fp32"], max_tokens=50,
        window=32, lambada=passages, limit=2, thresholds=Thresholds(max_lambada_drop=0.0),
    )  # fmt: skip
    assert [variant.name for variant in result.variants] == ["fp32"]
    assert result.text["tokens"] == 50
    assert result.original.perplexity.tokens == 49
    digest = hashlib.sha256(passages.read_bytes()).hexdigest()
    assert result.lambada == {
        "source": str(passages), "sha256": digest, "passages": 2, "cut": 0, "flipped": {}
    }  # fmt: skip
    ours, theirs = result.variants[0].scored.lambada, result.original.lambada
    assert ours.accuracy == theirs.accuracy
    assert ours.target_perplexity == pytest.approx(theirs.target_perplexity, rel=1e-5)
    assert result.exit_code == 2  # two passages, both the same, prove nothing
    assert "undecided fp32: max_lambada_drop is 0% (-" in result.to_table()


def test_what_cannot_be_compared(
    tiny_bundle: Path, tiny_folder: Path, text: str, tmp_path: Path
) -> None:
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(EvalError, match="at least 2"):
        evaluate(bundle, tiny_folder, "a"[:0])
    with pytest.raises(EvalError, match="50 tokens, fewer than the window of 256: give a longer"):
        evaluate(bundle, tiny_folder, text, max_tokens=50)
    with pytest.raises(EvalError, match="too few to take prompts"):
        evaluate(bundle, tiny_folder, text, max_tokens=20, window=8, generate=2)
    with pytest.raises(EvalError, match="context window"):
        evaluate(bundle, tiny_folder, text, window=257)
    with pytest.raises(Gpt2EdgeError, match="int2"):
        evaluate(bundle, tiny_folder, text, variants=["int2"])
    with pytest.raises(ConfigError, match="limit is of LAMBADA passages"):
        evaluate(bundle, tiny_folder, text, limit=3)
    with pytest.raises(EvalError, match="max_lambada_drop"):
        evaluate(bundle, tiny_folder, text, thresholds=Thresholds(max_lambada_drop=0.1))
    other = tmp_path / "other"
    config = bundle.config.__class__(vocab_size=400, n_positions=16, n_embd=16, n_layer=1, n_head=1)
    save_checkpoint(initialize(GPT2(config), seed=0), other)
    with pytest.raises(EvalError, match=r"config\.json differ"):
        evaluate(bundle, other, text)


def test_a_bad_passage_is_found_before_anything_is_measured(
    tiny_bundle: Path,
    tiny_folder: Path,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gpt2edge.runtime import Model

    monkeypatch.setattr(Model, "logits", None)  # whoever calls it fails
    passages = tmp_path / "lambada.jsonl"
    passages.write_text('{"text": "one two"}\n{"text": "one"}\n')
    with pytest.raises(EvalError, match=r"lambada\.jsonl:2: "):
        evaluate(Bundle.open(tiny_bundle), tiny_folder, text, variants=["int8"], lambada=passages)


def test_the_number_of_torch_threads_is_put_back(tiny_bundle: Path, tiny_folder: Path) -> None:
    before = torch.get_num_threads()
    evaluate(
        Bundle.open(tiny_bundle), tiny_folder, "import it", variants=["int8"], threads=before + 1,
        window=2,
    )  # fmt: skip
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "no report"),
        ({"format_version": 1}, "format version 1"),
        ({"original": None}, "damaged"),
        ({"thresholds": {"max_moon": 1}}, "damaged"),
        ({"surprise": 1}, "damaged"),
        ({"variants": [{}]}, "damaged"),
    ],
)
def test_what_is_no_report(report: EvalReport, change: dict[str, object], words: str) -> None:
    with pytest.raises(EvalError, match=words):
        EvalReport.from_dict({**report.to_dict(), **change})
    with pytest.raises(EvalError, match="no report"):
        EvalReport.from_dict([])


def test_another_vocabulary_is_refused(
    tiny_bundle: Path, tiny_folder: Path, text: str, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_folder, tmp_path / "other"))
    ids = json.loads((other / "vocab.json").read_text())
    ids["a"], ids["e"] = ids["e"], ids["a"]
    (other / "vocab.json").write_text(json.dumps(ids))
    with pytest.raises(EvalError, match="tokenize the text differently"):
        evaluate(Bundle.open(tiny_bundle), other, text)
