"""In JupyterLab, in a real browser: moving a slider with the keyboard changes the numbers."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

from distill_lab import losses

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install 'distill-lab[test]'"
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CLASSES = ["tea", "coffee", "cocoa"]
EXAMPLE = {
    "text": "She put the kettle on.",
    "topic": "tea",
    "teacher": [3.0, 1.0, -2.0],
    "students": {"distilled": [2.0, 0.0, 0.0]},
}
NOTEBOOK = "slider.ipynb"
CELL = f"""\
from distill_lab.widgets import temperature_explorer

temperature_explorer([{EXAMPLE!r}], {CLASSES!r})
"""
SECONDS = 1000  # playwright counts in milliseconds


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address, with its token, of the notebook in a JupyterLab that runs while the tests do."""
    home = tmp_path_factory.mktemp("lab")
    folder = home / "notebooks"
    folder.mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata.kernelspec = {
        "name": "python3",
        "language": "python",
        "display_name": "Python 3 (ipykernel)",
    }
    nbformat.write(notebook, folder / NOTEBOOK)

    token, port = secrets.token_hex(16), _free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"),
        *("--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        # In a container the user is often root, whom the server refuses unless told.
        *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
    ]
    private = {
        name: str(home / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    environment = {
        **os.environ,
        **private,
        "JUPYTER_TOKEN": token,  # not in the command line, where every user could read it
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    log = home / "lab.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            _wait_for(f"{address}/api", server, log)
            yield f"{address}/lab/tree/{NOTEBOOK}?token={token}"
        finally:
            server.terminate()  # the server ends its kernels first
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@pytest.fixture(scope="module")
def page(lab: str) -> Iterator[Any]:
    """The notebook, open in a headless browser, all its cells run."""
    with playwright.sync_playwright() as play:
        installed = next(filter(None, map(shutil.which, BROWSERS)), play.chromium.executable_path)
        if not Path(installed).exists():
            pytest.skip("no browser: install Debian's chromium, or run playwright install chromium")
        browser = play.chromium.launch(
            executable_path=installed,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(120 * SECONDS)
        page.goto(lab)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.locator(".widget-slider .noUi-handle").wait_for()
        yield page
        browser.close()


def test_arrow_keys_move_the_temperature_and_the_numbers_follow(page: Any) -> None:
    readings = page.locator(".jp-OutputArea [aria-live]")
    assert _entropy(readings.inner_text()) == pytest.approx(_teacher_entropy(1.0), abs=1e-4)
    page.locator(".widget-slider .noUi-handle").focus()
    for key, temperature in (("ArrowRight", 10**0.1), ("ArrowLeft", 1.0)):
        for _ in range(5):  # each step is 0.02 in the logarithm to base 10
            page.keyboard.press(key)
        expected = f"{_teacher_entropy(temperature):.4f}"
        playwright.expect(readings).to_contain_text(f"entropy of the teacher (nats): {expected}")


def test_the_widget_is_shown_and_not_its_still_picture(page: Any) -> None:
    outputs = page.locator(".jp-OutputArea-output")
    assert outputs.locator("select").count() == 2  # sentence and student
    assert outputs.locator("img").count() == 0


def test_every_control_shows_its_name(page: Any) -> None:
    for name in ("sentence", "student", "temperature T"):
        assert page.get_by_text(name, exact=True).first.is_visible()


def _teacher_entropy(temperature: float) -> float:
    teacher = torch.tensor([EXAMPLE["teacher"]], dtype=torch.float64)
    return losses.entropy(teacher, temperature).item()


def _entropy(text: str) -> float:
    line = next(line for line in text.splitlines() if line.startswith("entropy of the teacher"))
    return float(line.rpartition(":")[2])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path, seconds: int = 90) -> None:
    """Wait until the server answers."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start: {log.read_text(errors='replace')[-2000:]}")
