"""Laws of the report card: it says what the numbers say, and shows them safely."""

from __future__ import annotations

import copy
import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from distill_lab.errors import UserError
from distill_lab.plots import FIGURES, NBSP, STUDENTS
from distill_lab.report import (
    headline,
    load_report,
    render_html,
    render_terminal,
    validate_report,
    write_report,
)
from tests.page import Page

SAMPLE_FILE = Path(__file__).parent / "sample_report.json"
SAMPLE = json.loads(SAMPLE_FILE.read_text(encoding="utf-8"))


@pytest.fixture
def report() -> dict[str, Any]:
    return copy.deepcopy(SAMPLE)


def one_seed(report: dict[str, Any]) -> dict[str, Any]:
    for key in STUDENTS:
        student = report["students"][key]
        student.update(seeds=[0], interval="articles")
        for metric in ("accuracy", "macro_f1"):
            student[metric]["values"] = student[metric]["values"][:1]
    return report


def with_exports(report: dict[str, Any]) -> dict[str, Any]:
    """Add what ``distill-lab export --int8`` adds; the numbers are invented."""
    onnx = {
        "bytes": 17_564_770,
        "throughput": 6612.3,
        "latency_ms": {"p50": 0.21, "p95": 0.27},
        "accuracy": 0.7911,
        "max_abs_difference": 2.1e-6,
        "agreement": 1.0,
        "teacher_throughput": 198.7,
        "speedup": 33.3,
        "compression": 5.2,
    }
    int8 = onnx | {"bytes": 4_430_992, "accuracy": 0.7907, "max_abs_difference": 0.117}
    report["exports"] = {"onnx": onnx, "onnx_int8": int8 | {"speedup": 47.9, "compression": 20.5}}
    return report


def terminal(report: dict[str, Any], width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(render_terminal(report))
    return capture.get()


# -- checking --------------------------------------------------------------------------------------


def test_the_sample_is_a_complete_report_and_says_it_is_invented(report: dict[str, Any]) -> None:
    validate_report(report)
    assert "invented" in report["task"]["name"]
    distilled = report["students"]["distilled"]
    kept = distilled["macro_f1"]["mean"] / report["teacher"]["macro_f1"]
    assert report["retention"]["macro_f1"] == pytest.approx(kept, abs=1e-3)


@pytest.mark.parametrize(
    "path",
    ["schema", "settings", "task.test", "teacher.latency_ms.p95", "gain_with_transfer.low"]
    + [f"students.{key}.accuracy.values" for key in STUDENTS],
)
def test_a_missing_key_is_named(path: str, report: dict[str, Any]) -> None:
    *parents, last = path.split(".")
    inner = report
    for key in parents:
        inner = inner[key]
    del inner[last]
    with pytest.raises(UserError) as error:
        validate_report(report)
    assert f"lacks {path}:" in str(error.value) and "\n" not in str(error.value)


def test_all_missing_keys_are_named_at_once() -> None:
    with pytest.raises(UserError) as error:
        validate_report({"schema": 1, "students": None})
    for path in ("task.name", "students.distilled.ece", "seconds.total", "class_similarity.matrix"):
        assert path in str(error.value)


def test_a_number_that_is_not_finite_is_named(report: dict[str, Any]) -> None:
    report["students"]["distilled"]["accuracy"]["values"][1] = float("nan")
    with pytest.raises(UserError, match=r"students\.distilled\.accuracy\.values\[1\]"):
        validate_report(report)


def test_another_schema_is_refused(report: dict[str, Any]) -> None:
    report["schema"] = 2
    with pytest.raises(UserError, match="schema 2"):
        validate_report(report)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{}", b"[]", b"null", b"{}"])
def test_a_broken_file_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        load_report(tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no report at"):
        load_report(tmp_path / "nowhere.json")


# -- writing ---------------------------------------------------------------------------------------


def test_a_written_report_is_read_back_equal(report: dict[str, Any], tmp_path: Path) -> None:
    report["task"]["classes"][0] = "économie 经济"
    page = write_report(report, tmp_path / "run")
    assert load_report(tmp_path / "run") == load_report(tmp_path / "run/report.json") == report
    written = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*.*")}
    assert written == {"report.json", "report.html"} | {f"figures/{name}.png" for name in FIGURES}
    assert page.read_text(encoding="utf-8").count("data:image/png") == len(FIGURES)


def test_an_incomplete_report_writes_nothing(report: dict[str, Any], tmp_path: Path) -> None:
    del report["speedup"]
    with pytest.raises(UserError):
        write_report(report, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- what is said ----------------------------------------------------------------------------------


def test_headline_says_what_is_kept(report: dict[str, Any]) -> None:
    report["retention"]["macro_f1"] = 0.9921
    report["compression"]["parameters"] = 5.31
    said = headline(report)
    assert f"keeps 99.2{NBSP}% of its teacher's macro-F1" in said
    assert "5.3 times fewer parameters" in said


def test_headline_says_when_the_student_is_above_its_teacher(report: dict[str, Any]) -> None:
    report["retention"]["macro_f1"] = 1.004
    report["students"]["distilled"]["macro_f1"].update(mean=0.823, low=0.821, high=0.825)
    assert "scores above its teacher" in headline(report)
    assert "All of its 95 % interval lies above" in headline(report)
    report["students"]["distilled"]["macro_f1"]["low"] = 0.815
    assert "does not show that the student is better" in headline(report)


def test_headline_says_when_distillation_lost(report: dict[str, Any]) -> None:
    report["gain_with_transfer"] = {"mean": -1.24, "low": -2.0, "high": -0.3}
    said = headline(report)
    assert "1.2 points of accuracy below" in said and "distillation lost" in said
    assert "lost" in terminal(report) and "here distillation lost" in Page(html(report)).text


def test_headline_names_a_better_student(report: dict[str, Any]) -> None:
    assert "not the best" not in headline(report)
    report["students"]["label_smoothing"]["macro_f1"]["mean"] = 0.9
    assert "“Label smoothing” has macro-F1 0.900" in headline(report)


def test_headline_does_not_call_a_larger_student_smaller(report: dict[str, Any]) -> None:
    report["compression"]["parameters"] = 0.5
    assert "2.0 times as many parameters" in headline(report) and "fewer" not in headline(report)


@given(st.floats(-5, 5), st.floats(0, 5), st.floats(0, 5))
def test_a_gain_is_claimed_exactly_when_its_interval_excludes_zero(
    mean: float, below: float, above: float
) -> None:
    gain = {"mean": mean, "low": mean - below, "high": mean + above}
    said = headline({**SAMPLE, "gain_with_transfer": gain})
    assert ("points of accuracy above" in said) == (gain["low"] > 0)
    assert ("points of accuracy below" in said) == (gain["high"] < 0)
    assert ("includes 0" in said) == (gain["low"] <= 0 <= gain["high"])
    if gain["low"] > 0:  # no rounding may make an interval seem to touch 0
        assert not re.search(r"interval 0 to|\+0\.0 to", said)


def test_the_kind_of_interval_is_said(report: dict[str, Any]) -> None:
    for show in (lambda r: Page(html(r)).text, terminal):
        assert "over 5 seeds" in " ".join(show(report).split())
    report = one_seed(report)
    for show in (lambda r: Page(html(r)).text, terminal):
        said = " ".join(show(report).split())
        assert "bootstrap" in said and "421 articles" in said and "over 5 seeds" not in said


def test_one_seed_is_a_stated_caution(report: dict[str, Any]) -> None:
    assert "One seed." not in Page(html(report)).text
    assert "One seed." in Page(html(one_seed(report))).text


def test_unequal_steps_are_a_stated_caution(report: dict[str, Any]) -> None:
    assert "Unequal numbers of training steps" not in Page(html(report)).text
    report["students"]["distilled"]["steps"] = 9999
    assert "Unequal numbers of training steps" in Page(html(report)).text


def test_a_loser_is_marked_and_the_best_is_bold(report: dict[str, Any]) -> None:
    assert "below hard labels" not in html(report)
    report["students"]["label_smoothing"]["accuracy"].update(mean=0.512, low=0.5, high=0.6)
    page = html(report)
    assert page.count("below hard labels") == 1
    best = 100 * report["students"]["distilled"]["accuracy"]["mean"]
    assert f"<strong>{best:.1f}</strong>" in page and "<strong>51.2</strong>" not in page


def test_every_model_and_score_is_in_the_table(report: dict[str, Any]) -> None:
    page, shown = Page(html(report)).text, terminal(report)
    for key, look in STUDENTS.items():
        for text in (look.label, f"{100 * report['students'][key]['accuracy']['mean']:.1f}"):
            assert text in page and all(part in shown for part in text.split(", "))


def test_a_fully_labelled_task_has_one_distilled_student(report: dict[str, Any]) -> None:
    assert "one and the same" not in Page(html(report)).text + terminal(report)
    report["task"]["transfer"] = report["task"]["train"]
    page, shown = Page(html(report)).text, " ".join(terminal(report).split())
    assert "one and the same" in page and "one and the same" in shown
    assert "trained in three ways, 15 training runs" in page
    assert "By the teacher's answers and the transfer set" not in page


def test_exports_stand_beside_teacher_and_student(report: dict[str, Any]) -> None:
    plain = html(report), terminal(report)
    assert not any("ONNX" in text for text in plain)
    both = Page(html(with_exports(report))).text, terminal(report)
    for shown in both:
        for text in ("ONNX, float32", "ONNX, int8", "Distilled, seed 0", "79.1", "17.6", "4.4"):
            assert text in shown
        for text in ("6,612", "33.3", "47.9", "20.5", "2e-06", "0.1", "0.21"):
            assert text in shown
    assert both[1].startswith(plain[1].rstrip())
    del report["exports"]["onnx_int8"]
    assert not any(
        "int8" in text for text in (html(report).split("</caption>")[-1], terminal(report))
    )


def test_a_broken_export_is_named(report: dict[str, Any]) -> None:
    with_exports(report)
    del report["exports"]["onnx_int8"]["speedup"]
    with pytest.raises(UserError, match=r"lacks exports\.onnx_int8\.speedup:"):
        validate_report(report)
    report["exports"] = {}
    with pytest.raises(UserError, match=r"lacks exports\.onnx\.bytes,"):
        validate_report(report)


def test_a_teacher_used_as_it_came_is_not_said_to_have_learned(report: dict[str, Any]) -> None:
    assert "labelled examples. Time" in Page(html(report)).text.replace(NBSP, " ")
    report["settings"]["teacher_epochs"] = 0.0
    page = Page(html(report)).text
    assert "used as it came" in page and "learned from" not in page.split("Extract")[0]


def test_the_page_says_how_epochs_were_chosen_and_in_what_was_computed(
    report: dict[str, Any],
) -> None:
    report["environment"]["dtype"] = "bfloat16"
    report["settings"]["objective"] = "soft+relations=1"
    page = Page(html(report)).text
    assert "the epoch with the best macro-F1 on them was kept" in page
    assert "float32; training and extraction in bfloat16" in page
    assert "“soft+relations=1” reads" in page


# -- the page --------------------------------------------------------------------------------------


def html(report: dict[str, Any]) -> str:
    """Render a page without its figures, which take most of the time."""
    return render_html(report, {})


def test_the_page_is_self_contained(report: dict[str, Any]) -> None:
    text = render_html(report)
    page = Page(text)
    assert not page.all("script") and not page.all("link") and "http" not in page.text
    assert "@import" not in text and "url(" not in text
    sources = [value for _, a in page.elements for name, value in a.items() if name == "src"]
    assert len(sources) == len(FIGURES)
    assert all(str(source).startswith("data:image/png;base64,") for source in sources)
    assert not any(name.startswith("on") for _, a in page.elements for name in a)


def test_the_page_is_accessible(report: dict[str, Any]) -> None:
    page = Page(render_html(report))
    assert page.all("html")[0]["lang"] == "en"
    assert all(len(image["alt"] or "") > 80 for image in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) == 2
    assert all(heading.get("scope") for heading in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(deeper - level <= 1 for level, deeper in pairwise(levels))


@settings(max_examples=25)
@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_what_a_user_wrote_never_becomes_markup(name: str, label: str) -> None:
    evil = f"<script>alert(1)</script>'\"&{name}"
    report = copy.deepcopy(SAMPLE)
    plain = [tag for tag, _ in Page(html(report)).elements]
    report["task"].update(name=evil, classes=[evil, label], notes=[evil, evil])
    report["teacher"]["name"] = evil
    report["settings"] = dict.fromkeys(report["settings"], evil)
    report["environment"] = {key: [evil] for key in report["environment"]}
    assert [tag for tag, _ in Page(html(report)).elements] == plain


def test_text_alternatives_are_escaped(report: dict[str, Any]) -> None:
    labels = ['"><script>', "'&"]
    report["class_similarity"] = {"labels": labels, "matrix": [[0.9, 0.1], [0.2, 0.8]]}
    page = Page(render_html(report, {"class_similarity": b"png"}))
    assert not page.all("script")
    assert '"><script>' in str(page.all("img")[0]["alt"])


def test_many_classes_and_no_optional_keys_render(report: dict[str, Any]) -> None:
    report["task"]["classes"] = [f"class {i}" for i in range(50)]
    for key in ("notes", "test_groups", "labelled"):
        report["task"].pop(key)
    report["settings"] = {}
    page = Page(html(one_seed(report)))
    assert "and 38 more" in page.text and "None" not in page.text


# -- the terminal ----------------------------------------------------------------------------------


def test_the_terminal_table_fits_in_80_columns(report: dict[str, Any]) -> None:
    report["students"]["distilled"]["throughput"] = 123456.7  # a fast machine
    with_exports(report)
    for width in (80, 120):
        shown = terminal(report, width)
        assert max(len(line.rstrip()) for line in shown.splitlines()) <= width
        assert "…" not in shown
        assert "123,457" in shown


def test_names_in_the_terminal_are_no_markup(report: dict[str, Any]) -> None:
    report["task"]["name"] = "[red]task[/nothing]"
    assert "[red]task[/nothing]" in terminal(report)
