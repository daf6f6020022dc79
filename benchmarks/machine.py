"""What the figures were measured on: the machine, without its name, and the versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "distill-lab",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "numpy",
    "onnxruntime",
    "textbrewer",
    "nbgrader",
)


def machine() -> dict[str, Any]:
    """Describe the machine: processor, cores, torch's threads, memory in GiB, and device."""
    import torch

    from distill_lab.devices import device_name, pick_device

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory / 2**30),
        "device": device_name(pick_device()),
    }


def processor() -> str:
    """Name the processor's model, as Linux does; its architecture elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Give Python's version and those of the packages that are compared and that compute."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a peer whose rows are not run here
            continue
    return found
