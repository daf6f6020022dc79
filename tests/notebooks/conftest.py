"""One line a notebook in pytest's summary."""

from __future__ import annotations

from _pytest.terminal import TerminalReporter


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Say of each notebook that was run how it was run, what became of it, and in what time."""
    lines = [
        f"{properties['notebook']} ({properties['mode']}) {outcome}, {properties['seconds']:.0f} s"
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call" and "notebook" in (properties := dict(report.user_properties))
    ]
    if lines:
        terminalreporter.section("notebooks")
        for line in sorted(lines):
            terminalreporter.line(line)
