"""lm-evaluation-harness with a bundle: the numbers that transformers gives, and our own tasks'."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")

import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from gpt2edge.errors import BundleError, ConfigError, EvalError
from gpt2edge.evals.harness import Gpt2EdgeLM, main

PAIRS = [
    ("The import statement", " is used"),
    ("The import statement", " binds a name in the"),
    ("The import statement ", "finds"),
    ("", "An object"),
    ("x " * 300, "and y"),  # longer than the window
]


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Gpt2EdgeLM:
    return Gpt2EdgeLM(tiny_bundle, "fp32", threads=1)


@pytest.fixture(scope="module")
def theirs(tiny_folder: Path) -> Any:
    loaded = AutoModelForCausalLM.from_pretrained(tiny_folder).eval()
    return loaded, AutoTokenizer.from_pretrained(tiny_folder)


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=item, idx=i)
        for i, item in enumerate(arguments)
    ]


def log_probs(loaded: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits = loaded(torch.tensor([ids[-257:-1]])).logits[0]
    return logits.log_softmax(-1)


def test_log_likelihoods_are_those_of_transformers(model: Gpt2EdgeLM, theirs: Any) -> None:
    loaded, words = theirs
    found = model.loglikelihood(instances("loglikelihood", PAIRS), disable_tqdm=True)
    for (context, text), (nats, greedy) in zip(PAIRS, found, strict=True):
        bare = context.rstrip()
        whole = words.encode(context + text) if bare else [words.eos_token_id, *words.encode(text)]
        length = len(whole) - (len(words.encode(bare)) if bare else 1)
        rows = log_probs(loaded, whole)[-length:]
        target = torch.tensor(whole[-length:])
        assert nats == pytest.approx(float(rows.gather(1, target[:, None]).sum()), rel=1e-4)
        assert greedy == bool((rows.argmax(-1) == target).all())


def test_whole_texts_are_scored_token_by_token(model: Gpt2EdgeLM, theirs: Any) -> None:
    loaded, words = theirs
    text = "A class definition is an executable statement."
    (found,) = model.loglikelihood_rolling(
        instances("loglikelihood_rolling", [(text,)]), disable_tqdm=True
    )
    ids = [words.eos_token_id, *words.encode(text)]
    rows = log_probs(loaded, ids)
    expected = float(rows.gather(1, torch.tensor(ids[1:])[:, None]).sum())
    assert found == pytest.approx(expected, rel=1e-4)
    (long,) = model.loglikelihood_rolling(
        instances("loglikelihood_rolling", [(text * 30,)]), disable_tqdm=True
    )
    assert long < 10 * found


def test_texts_are_generated_until_a_stop(model: Gpt2EdgeLM, theirs: Any) -> None:
    loaded, words = theirs
    prompt = "The import statement"
    asked = {"until": ["\n\n\n\n"], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0}
    (found,) = model.generate_until(
        instances("generate_until", [(prompt, asked)]), disable_tqdm=True
    )
    ids = words(prompt, return_tensors="pt")
    made = loaded.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0]
    assert found == words.decode(made[ids["input_ids"].shape[1] :])
    stop = found[3:5]
    (short,) = model.generate_until(
        instances("generate_until", [(prompt, {"until": stop, "max_gen_toks": 12})]),
        disable_tqdm=True,
    )
    assert short == found[: found.index(stop)]


def test_a_task_of_the_harness_s_own_runs_from_a_local_file(
    model: Gpt2EdgeLM, tmp_path: Path
) -> None:
    rows = [
        {"goal": f"do {i} things", "sol1": f"begin with {i}", "sol2": "wait", "label": i % 2}
        for i in range(6)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "local_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(data)}},
        "output_type": "multiple_choice",
        "validation_split": "validation",
        "doc_to_text": "Question: {{goal}}\nAnswer:",
        "doc_to_target": "label",
        "doc_to_choice": "{{[sol1, sol2]}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    results = simple_evaluate(
        model=model, tasks=[task], task_manager=TaskManager(), bootstrap_iters=0, log_samples=True
    )
    assert results is not None
    samples = results["samples"]["local_choice"]
    right = []
    for sample in samples:
        scores = [answer[0][0] for answer in sample["resps"]]
        row = rows[sample["doc_id"]]
        right.append(scores.index(max(scores)) == row["label"])
    assert results["results"]["local_choice"]["acc,none"] == pytest.approx(sum(right) / len(right))


def test_the_command_knows_the_model(tiny_bundle: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "The import statement binds names"}\n')
    (tmp_path / "words.yaml").write_text(
        "task: local_words\ndataset_path: json\n"
        f"dataset_kwargs:\n  data_files:\n    test: {data}\n"
        "output_type: loglikelihood_rolling\ntest_split: test\n"
        'doc_to_text: ""\ndoc_to_target: "{{text}}"\n'
        "metric_list:\n  - metric: bits_per_byte\n"
    )
    done = subprocess.run(
        [
            sys.executable, "-m", "gpt2edge", "lm-eval", "run", "--model", "gpt2edge",
            "--model_args", f"bundle={tiny_bundle},precision=int4,threads=1",
            "--tasks", "local_words", "--include_path", str(tmp_path),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "bits_per_byte" in done.stdout


def test_bad_arguments_are_named(tiny_bundle: Path, model: Gpt2EdgeLM) -> None:
    with pytest.raises(BundleError):
        Gpt2EdgeLM(tiny_bundle / "absent")
    with pytest.raises(ConfigError, match="'num_beams' is not known"):
        model.generate_until(instances("generate_until", [("a", {"num_beams": 4})]))
    with pytest.raises(EvalError, match="exceeds the window"):
        model.loglikelihood(instances("loglikelihood", [("a", " b c" * 300)]))


def test_what_the_harness_does_not_know_is_no_bug(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)  # which `main` sets
    with pytest.raises(ConfigError, match="--model_args foo: not known; there are bundle"):
        Gpt2EdgeLM(tiny_bundle, foo=1)
    with pytest.raises(EvalError, match=r"lm-eval: .*no_such_task"):
        main(["run", "--model", "gpt2edge", "--model_args", f"bundle={tiny_bundle}",
              "--tasks", "no_such_task"])  # fmt: skip
