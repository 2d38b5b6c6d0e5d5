"""Our tasks against lm-evaluation-harness's own definitions of them, on the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")

import lm_eval
import numpy as np
from lm_eval.tasks import TaskManager

from gpt2edge import Bundle
from gpt2edge.evals.harness import Gpt2EdgeLM
from gpt2edge.evals.tasks import parse_source, run_tasks

WORDS = "object type value name scope class module import list tuple string number".split()
# Ours, theirs, where they define it, the split they ask for, and their names of our metrics.
TASKS = {
    "hellaswag": ("hellaswag/hellaswag.yaml", "validation",
                  {"accuracy": "acc", "accuracy_norm": "acc_norm"}),
    "piqa": ("piqa/piqa.yaml", "validation", {"accuracy": "acc", "accuracy_norm": "acc_norm"}),
    "winogrande": ("winogrande/default.yaml", "validation", {"accuracy": "acc"}),
    "arc": ("arc/arc_easy.yaml", "validation", {"accuracy": "acc", "accuracy_norm": "acc_norm"}),
    "lambada": ("lambada/lambada_openai.yaml", "test",
                {"accuracy": "acc", "perplexity": "perplexity"}),
    "crows_pairs": ("crows_pairs/crows_pairs_english.yaml", "test",
                    {"stereotype": "pct_stereotype", "likelihood_difference": "likelihood_diff"}),
}  # fmt: skip


def rows(name: str) -> list[dict[str, object]]:
    rng = np.random.default_rng(5)

    def some(count: int) -> str:
        return " ".join(map(str, rng.choice(WORDS, count)))

    def row(i: int) -> dict[str, object]:
        match name:
            case "hellaswag":
                endings = [f"{some(n)} [step]  {some(1)}" for n in (3, 9, 5, 1)]
                return {"activity_label": some(1), "ctx_a": f"{some(5)} [title] {some(2)}",
                        "ctx_b": some(2), "endings": endings, "label": str(i % 4)}  # fmt: skip
            case "piqa":
                return {"goal": some(6), "sol1": f"{some(2)} ", "sol2": some(5), "label": i % 2}
            case "winogrande":
                options = {"option1": WORDS[i % 12], "option2": WORDS[i % 7 + 3]}
                sentence = f"The {some(2)} _ is {some(4)}."
                return {"sentence": sentence, **options, "answer": str(1 + i % 2)}
            case "arc":
                choices = {"text": [some(2), some(3), some(1)], "label": ["A", "B", "C"]}
                return {"question": some(5), "choices": choices, "answerKey": "ABC"[i % 3]}
            case "lambada":
                return {"text": some(20)}
            case _:
                return {"sent_more": some(8), "sent_less": some(8), "bias_type": "a"}

    return [row(i) for i in range(16)]


@pytest.fixture(scope="module")
def theirs(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Callable[[str], Path], dict[str, dict[str, float]]]:
    """Where the rows of each task lie, and what the harness finds on them."""
    folder = tmp_path_factory.mktemp("harness")
    defined = Path(lm_eval.__file__).parent / "tasks"
    for name, (yaml, split, _) in TASKS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows(name)))
        (folder / f"{name}.yaml").write_text(
            f"include: {defined / yaml}\ntask: local_{name}\n"
            "dataset_path: json\ndataset_name: null\ntraining_split: null\n"
            + "".join(f"{s}_split: {s if s == split else 'null'}\n" for s in ("validation", "test"))
            + f"dataset_kwargs:\n  data_files:\n    {split}: {data}\n"
        )
    found = lm_eval.simple_evaluate(
        model=Gpt2EdgeLM(tiny_bundle, "fp32", threads=1),
        tasks=[f"local_{name}" for name in TASKS],
        task_manager=TaskManager(include_path=str(folder)),
        bootstrap_iters=0,
    )
    assert found is not None
    results = {name: found["results"][f"local_{name}"] for name in TASKS}
    return lambda name: folder / f"{name}.jsonl", results


@pytest.mark.parametrize("name", TASKS)
def test_the_numbers_are_the_harness_s(
    tiny_bundle: Path, tiny_folder: Path, theirs, name: str
) -> None:
    where, results = theirs
    report = run_tasks(
        Bundle.open(tiny_bundle), tiny_folder, [parse_source(f"{name}={where(name)}")],
        variants=["fp32"], progress=False,
    )  # fmt: skip
    (task,) = report.tasks
    ours = {c.metric: c for c in task.variants[0].comparisons if not c.group}
    for metric, their_name in TASKS[name][2].items():
        expected = results[name][f"{their_name},none"]
        assert ours[metric].variant == pytest.approx(expected, rel=1e-4), metric
        assert ours[metric].original == pytest.approx(expected, rel=1e-4), metric
