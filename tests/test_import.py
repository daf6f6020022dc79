"""Laws of importing: quick, and without torch until it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

import distill_lab

HEAVY = ("torch", "transformers", "datasets", "matplotlib", "pandas", "sklearn", "pyarrow")
SURFACE = [
    "load_task",
    "load_teacher",
    "build_student",
    "fine_tune",
    "extract",
    "KnowledgeStore",
    "distill",
    "evaluate",
    "compare",
]


def loaded_after(code: str) -> str:
    script = f"import sys\n{code}\nprint(*(set({HEAVY}) & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import distill_lab; dir(distill_lab)",
        "from distill_lab import UserError",
        "import distill_lab.cli",
        "import distill_lab.doctor",
        "from typer.testing import CliRunner\nfrom distill_lab.cli import app\n"
        "assert CliRunner().invoke(app, ['run', '--help']).exit_code == 0",
    ],
)
def test_importing_and_help_load_no_heavy_package(code: str) -> None:
    assert loaded_after(code) == ""


@pytest.mark.parametrize("name", [*SURFACE, "UserError", "Task", "Schedule", "Objective"])
def test_the_surface_is_importable(name: str) -> None:
    assert callable(getattr(distill_lab, name)) and name in dir(distill_lab)


def test_all_public_names_resolve() -> None:
    assert all(getattr(distill_lab, name) is not None for name in distill_lab.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        distill_lab.nothing  # noqa: B018
