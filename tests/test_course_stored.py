"""What the lessons have in store is made from a finished run of the default task alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill_lab.course.stored import SENTENCES, store_run
from distill_lab.errors import UserError


def test_a_run_of_another_task_is_refused_and_nothing_is_written(
    finished_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="bbc-topics"):
        store_run(finished_run, tmp_path / "data", name="other")
    assert not (tmp_path / "data").exists()


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no report"):
        store_run(tmp_path, tmp_path / "data", name="none")


def test_every_topic_has_sentences_of_ours() -> None:
    topics = {topic for _, topic in SENTENCES}
    assert topics == {"business", "entertainment", "politics", "sports", "tech"}
