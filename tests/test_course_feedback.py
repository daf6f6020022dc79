"""Laws of the feedback page: it tells a student what was found, safely, to whoever reads it.

``tests/golden/feedback.html`` is the page of ``RESULT``; it changes on purpose or not at all.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_lab.course.feedback import STATUSES, feedback_html
from distill_lab.course.results import ContractResult, ExerciseResult, Status, SubmissionResult
from distill_lab.exercises.contracts import Contract
from distill_lab.exercises.registry import Exercise, Lesson, lessons
from tests import page as page_reader

GOLDEN = Path(__file__).parent / "golden" / "feedback.html"
HOSTILE = (
    "</title></style><script>alert(1)</script>\"'><img src=x onerror=alert(1)> &amp; `<b>` "
    "\u202etxet\u202c \u2066\u0007\x1b[31m\udc80 " + "W" * 400
)
UNSEEN = "\u202e\u202c\u2066\u0007\x1b\udc80"


def nothing(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("a page calls no function")


def contract(id: str, law: str, points: float, *hints: str) -> Contract:
    return Contract(id, law, points, nothing, hints)


def exercise(id: str, title: str, *contracts: Contract, **more: Any) -> Exercise:
    may_call = more.pop("may_call", "plain Python")
    return Exercise(id, title, 5, 1, nothing, "x", may_call, contracts, **more)


HALVE = exercise(
    "halve",
    "Half of a number",
    contract("half", "It is x / 2", 1, "What times 2 is x?", "`return x / 2`", "Run the cell."),
    contract("sign", "Half of −x is minus half of x", 0.5, "Is `abs` in it?"),
    contract("inputs_unchanged", "The input is the same after the call as before", 0, "Copy it."),
)
MEAN = exercise(
    "mean",
    "The mean & no other",
    contract("definition", "Σ x / N for N < 10", 2, "Sum first.", "Then divide."),
    contract("order", "In whatever order", 0.5, "Nothing may be sorted."),
    may_call="sums, and the library's `halve`",
    library=("distill_lab.losses.entropy",),
    not_allowed=("torch.mean", "numpy.mean"),
)
LESSON = Lesson("03_losses", "Halves & means", 20, 1, (HALVE, MEAN))


def judged(
    rules: Exercise, status: Status, reason: str = "", failed: str = "", why: str = ""
) -> ExerciseResult:
    """Make a result in which the contracts named hold or fail; where nothing failed, all as one."""
    whole = {"passed": "passed", "partly": "passed"}.get(status, "untried")
    contracts = tuple(
        ContractResult(c.id, c.law, c.points, "failed", why, c.hints)
        if c.id in failed.split()
        else ContractResult(c.id, c.law, c.points, whole)  # type: ignore[arg-type]
        for c in rules.contracts
    )
    points = sum(c.points for c in contracts if c.status == "passed")
    return ExerciseResult(rules.id, points, rules.points, status, reason, contracts)


RESULT = SubmissionResult(
    "ada",
    LESSON.name,
    "ab" * 32,
    (
        judged(HALVE, "partly", "it gives 0 for −1.", "sign", "it gives 0 for −1."),
        judged(MEAN, "failed", "its cell does not run: NameError: name 'x' is not defined"),
    ),
    ("There are several answers to mean; the last one counts.",),
)


class Page(page_reader.Page):
    """A page of feedback, which has neither pictures nor links to anything."""

    void = frozenset({"meta", "br"})


def page(result: SubmissionResult = RESULT, lesson: Lesson = LESSON) -> Page:
    return Page(feedback_html(result, lesson))


def with_status(status: Status, reason: str = "") -> SubmissionResult:
    return replace(RESULT, exercises=(judged(HALVE, status, reason), judged(MEAN, "passed")))


# -- what it says ----------------------------------------------------------------------------------


def test_the_page_is_the_golden_one() -> None:
    assert feedback_html(RESULT, LESSON) == GOLDEN.read_text(encoding="utf-8")


def test_it_says_whose_which_lesson_and_how_many_points() -> None:
    shown = page()
    assert shown.title == "Feedback for ada: Halves & means"
    for words in ("Halves & means", "Handed in by ada", "1 of 4 points"):
        assert words in shown.text


def test_it_says_what_was_mended() -> None:
    assert "There are several answers to mean; the last one counts." in page().text
    assert "Mended" not in page(replace(RESULT, repairs=())).text


@pytest.mark.parametrize("status", get_args(Status))
def test_every_status_is_explained_in_a_sentence(status: Status) -> None:
    mark, name, sentence = STATUSES[status]
    shown = page(with_status(status, "so it is."))
    assert f"{mark} {name}" in shown.text
    assert sentence in shown.text
    assert sentence.count(". ") == 0 and sentence.endswith(".")
    assert "Why: so it is." in shown.text


def test_every_law_stands_with_its_result_and_its_points() -> None:
    text = page().text
    for row in (
        "✓ holds It is x / 2 1 of 1",
        "✗ fails Half of −x is minus half of x 0 of 0.5",
        "✓ holds The input is the same after the call as before none to get",
        "○ not tried Σ x / N for N < 10 0 of 2",
    ):
        assert row.replace(" ", "") in text.replace(" ", "")  # cells have none between them


def test_a_failed_law_gives_its_reason_once_and_a_hint_the_others_on_demand() -> None:
    why = "it is twice as much."
    result = replace(
        RESULT, exercises=(judged(HALVE, "failed", why, "half", why), judged(MEAN, "passed"))
    )
    shown = page(result)
    assert shown.text.count(why) == 1
    assert "Hint 1 of 3: What times 2 is x?" in shown.text
    assert "What times 2 is x?" not in shown.details
    assert "return x / 2" in shown.details and "Run the cell." in shown.details
    assert all("open" not in attributes for attributes in shown.all("details"))
    assert len(shown.all("details")) == 2


def test_hints_are_only_those_of_laws_that_fail() -> None:
    text = page().text
    assert "Is abs in it?" in text
    assert "What times 2 is x?" not in text and "Sum first." not in text


def test_a_law_without_points_that_fails_is_told_though_all_points_are_reached() -> None:
    lost = judged(HALVE, "passed", "", "inputs_unchanged", "it changes x.")
    shown = page(replace(RESULT, exercises=(lost, judged(MEAN, "passed"))))
    assert "✗ Fails: The input is the same" in shown.text
    assert "it changes x." in shown.text and "1.5 of 1.5" in shown.text


def test_what_may_be_called_is_said_where_an_exercise_is_not_passed() -> None:
    text = page().text
    for words in ("sums, and the library's halve", "distill_lab.losses.entropy", "numpy.mean"):
        assert words in text
    passed = page(replace(RESULT, exercises=(judged(HALVE, "passed"), judged(MEAN, "passed"))))
    assert "may call" not in passed.text and "numpy.mean" not in passed.text


def test_it_does_not_tell_where_the_answers_are() -> None:
    for lesson in lessons():
        results = tuple(
            judged(x, "failed", "", x.contracts[0].id, "it is wrong.") for x in lesson.exercises
        )
        result = replace(RESULT, lesson=lesson.name, exercises=results)
        text = page(result, lesson).text
        assert "solutions/" not in text and "worked answer" not in text


def test_equal_results_give_equal_pages() -> None:
    again = SubmissionResult.from_json(RESULT.as_json())
    assert feedback_html(again, LESSON) == feedback_html(RESULT, LESSON)


# -- strangers' texts ------------------------------------------------------------------------------


def hostile(text: str) -> SubmissionResult:
    failed = judged(HALVE, "stopped", text + "!", "half", text)
    return replace(
        RESULT,
        student=text,
        repairs=(text, text),
        exercises=(failed, judged(MEAN, "missing", text)),
    )


def test_a_strangers_text_stays_text() -> None:
    tame, wild = page(hostile("x")), page(hostile(HOSTILE))
    assert [tag for tag, _ in wild.elements if tag != "code"] == [
        tag for tag, _ in tame.elements if tag != "code"
    ]
    assert wild.text.count("<script>alert(1)</script>") == 6
    assert not any(mark in feedback_html(hostile(HOSTILE), LESSON) for mark in UNSEEN)
    assert wild.css == tame.css


@given(st.text(st.characters(exclude_categories=()), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_text_gives_a_whole_page_that_can_be_written(text: str) -> None:
    written = feedback_html(hostile(text), LESSON).encode("utf-8")
    tags = [tag for tag, _ in Page(written.decode("utf-8")).elements if tag != "code"]
    assert tags == [tag for tag, _ in page(hostile("x")).elements if tag != "code"]


def test_a_strangers_text_stays_in_its_box() -> None:
    shown = page(hostile("x"))
    assert len(shown.all("bdi")) == 6
    said = [attributes for _, attributes in shown.elements if attributes.get("class") == "said"]
    assert len(said) == 6
    assert re.search(r"\.said \{[^}]*overflow: hidden", shown.css)
    assert re.search(r"body \{[^}]*overflow-wrap: anywhere", shown.css)


def test_joiners_that_names_need_are_kept() -> None:
    assert "نرگس\u200cآرا" in feedback_html(hostile("نرگس\u200cآرا"), LESSON)


# -- alone, and for everybody ----------------------------------------------------------------------


def test_it_needs_nothing_and_forbids_everything_but_its_own_style() -> None:
    shown = page()
    policy = next(m["content"] for m in shown.all("meta") if "http-equiv" in m) or ""
    digest = base64.b64encode(hashlib.sha256(shown.css.encode()).digest()).decode()
    assert policy.split("; ")[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]
    allowed = {"class", "id", "href", "lang", "charset", "name", "content", "http-equiv", "scope"}
    for tag, attributes in shown.elements:
        assert tag not in {"script", "link", "img", "iframe", "object", "form", "base"}
        assert set(attributes) <= allowed | {"aria-hidden"}
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in shown.css and "@import" not in shown.css


def test_links_lead_to_their_exercises() -> None:
    shown = page()
    links = [attributes["href"] for attributes in shown.all("a")]
    assert links == ["#halve", "#mean"]
    assert [f"#{section['id']}" for section in shown.all("section") if "id" in section] == links


def test_it_has_language_landmarks_and_headings_in_order() -> None:
    shown = page()
    assert shown.all("html") == [{"lang": "en"}]
    tags = [tag for tag, _ in shown.elements]
    assert [tags.count(x) for x in ("title", "header", "main", "footer", "h1")] == [1] * 5
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in pairwise(levels))


def test_tables_name_their_columns_and_rows() -> None:
    shown = page()
    assert all(head.get("scope") in ("col", "row") for head in shown.all("th"))
    tags = [tag for tag, _ in shown.elements]
    assert tags.count("tbody") == tags.count("thead") == tags.count("table") == 3


def test_a_mark_never_stands_without_its_word() -> None:
    html = feedback_html(RESULT, LESSON)
    marks = re.findall(r'<span aria-hidden="true"[^>]*>[^<]*</span>(?:&nbsp;| )(\w+)', html)
    assert len(marks) == html.count("aria-hidden")
    assert set(marks) == {"holds", "fails", "not", "partly", "no", "Fails"}


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of ``#rgb`` or ``#rrggbb``."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_known_where_it_is_known() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777", "#fff") == pytest.approx(4.478, abs=1e-3)


def test_every_ink_has_contrast_on_every_ground_in_light_dark_and_print() -> None:
    css = page().css
    palettes = [
        dict(re.findall(r"--(\w+): (#\w+)", x)) for x in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    assert len(palettes) == 3
    assert set(map(frozenset, palettes)) == {frozenset(palettes[0])}
    inks = set(re.findall(r"[ {]color: var\(--(\w+)\)", css))
    grounds = set(re.findall(r"background: var\(--(\w+)\)", css))
    assert {"ink", "quiet", "good", "bad", "accent"} == inks
    assert {"page", "card"} == grounds
    for palette in palettes:
        for ink, ground in product(inks, grounds):
            assert contrast(palette[ink], palette[ground]) >= 4.5, (ink, ground)
    rules = re.sub(r":root \{.*?\}", "", css, flags=re.DOTALL)
    assert not re.search(r"#[0-9a-f]{3,6}\b|rgb|hsl", rules)  # no colour beside these


def test_dark_and_print_are_cared_for() -> None:
    css = page().css
    assert "prefers-color-scheme: dark" in css and "@media print" in css
    assert re.search(r"details::details-content \{ content-visibility: visible", css)
