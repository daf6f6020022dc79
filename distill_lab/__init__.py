"""Knowledge distillation for Transformers, to learn, to teach and to use.

    from distill_lab import load_task, load_teacher, build_student, fine_tune, extract, distill

The losses are in ``distill_lab.losses``. Names are imported when first used, so that
``import distill_lab`` is quick and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill_lab.errors import UserError as UserError
    from distill_lab.evaluation import compare as compare
    from distill_lab.evaluation import evaluate as evaluate
    from distill_lab.knowledge import KnowledgeStore as KnowledgeStore
    from distill_lab.knowledge import LiveTeacher as LiveTeacher
    from distill_lab.knowledge import extract as extract
    from distill_lab.models import build_student as build_student
    from distill_lab.models import load_teacher as load_teacher
    from distill_lab.models import load_tokenizer as load_tokenizer
    from distill_lab.tasks import Task as Task
    from distill_lab.tasks import load_task as load_task
    from distill_lab.training import Objective as Objective
    from distill_lab.training import Schedule as Schedule
    from distill_lab.training import distill as distill
    from distill_lab.training import fine_tune as fine_tune

__version__ = "0.1.0"

_HOME = {
    "UserError": "errors",
    "compare": "evaluation",
    "evaluate": "evaluation",
    "KnowledgeStore": "knowledge",
    "LiveTeacher": "knowledge",
    "extract": "knowledge",
    "build_student": "models",
    "load_teacher": "models",
    "load_tokenizer": "models",
    "Task": "tasks",
    "load_task": "tasks",
    "Objective": "training",
    "Schedule": "training",
    "distill": "training",
    "fine_tune": "training",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'distill_lab' has no attribute {name!r}")
    value = getattr(import_module(f"distill_lab.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
