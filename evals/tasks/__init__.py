"""Zero-shot tasks, asked of the original and of each variant, item by item."""

from .compare import Comparison
from .registry import Source, parse_source, tasks
from .report import TaskResult, TasksReport, VariantAnswers
from .requests import Choice, Contrast, Generate, LastWord
from .run import run_tasks
from .task import Task

__all__ = [
    "Choice",
    "Comparison",
    "Contrast",
    "Generate",
    "LastWord",
    "Source",
    "Task",
    "TaskResult",
    "TasksReport",
    "VariantAnswers",
    "parse_source",
    "run_tasks",
    "tasks",
]
