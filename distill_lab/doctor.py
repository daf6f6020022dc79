"""What is installed, what will be used, and how to mend what is missing."""

from __future__ import annotations

import platform
import shutil
from importlib import metadata
from pathlib import Path

from rich.table import Table

from distill_lab.errors import UserError
from distill_lab.tasks import Check, describe_data

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "scikit-learn", "matplotlib")
NOTEBOOK_PACKAGES = ("jupyterlab", "ipywidgets", "nbval")
DISK_NEEDED = 500 * 2**20  # what the default run leaves, with room


def checks() -> list[Check]:
    """Check the installation; each line says whether all is well, and how to mend it if not."""
    return [
        Check("Python", True, platform.python_version(), ""),
        *(_package(name) for name in PACKAGES),
        *(_package(name, needed=False) for name in NOTEBOOK_PACKAGES),
        *_compute(),
        _teacher(),
        *describe_data(),
        _disk(),
    ]


def _package(name: str, *, needed: bool = True) -> Check:
    try:
        return Check(name, True, metadata.version(name), "")
    except metadata.PackageNotFoundError:
        detail = "not installed" if needed else "not installed (for the notebooks and their tests)"
        return Check(name, not needed, detail, f"pip install {name}")


def _compute() -> list[Check]:
    try:
        import torch

        from distill_lab.devices import device_name, dtype_name, pick_device, pick_dtype
    except ImportError as error:
        return [Check("device", False, f"torch cannot be imported: {error}", "reinstall torch")]
    device = pick_device()
    dtype = dtype_name(pick_dtype(device))
    return [
        Check("device", True, f"{device_name(device)}, {torch.get_num_threads()} threads", ""),
        Check("dtype", True, f"{dtype} (measured: the faster of float32 and bfloat16)", ""),
    ]


def _teacher() -> Check:
    try:
        from distill_lab.models import MINILM_SHA256, minilm_path

        minilm_path()
    except ImportError as error:
        return Check("minilm weights", False, f"not looked at: {error}", "mend the above first")
    except UserError as error:
        detail, _, fix = str(error).partition("; ")
        return Check("minilm weights", False, detail, fix)
    return Check("minilm weights", True, f"in place, sha256 begins {MINILM_SHA256[:12]}", "")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    return Check(
        "disk",
        free >= DISK_NEEDED,
        f"{free / 2**30:,.1f} GiB free here",
        "" if free >= DISK_NEEDED else "free some: the default run needs 0.5 GiB",
    )


def table(found: list[Check]) -> Table:
    """Lay the checks out for the terminal."""
    result = Table("", "What", "Found", "To mend it")
    for check in found:
        mark = "[green]✓[/green]" if check.ok and not check.fix else "[yellow]○[/yellow]"
        result.add_row(mark if check.ok else "[red]✗[/red]", check.name, check.detail, check.fix)
    return result
