"""Each fault of a claimed distillation is found by its own check, and a right one has none."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lab.exercises.faults import LAWS, FaultReport, find_faults
from distill_lab.knowledge import LiveTeacher
from distill_lab.losses import distillation_loss, soft_cross_entropy

LESSON = Path(__file__).parents[1] / "solutions" / "06_student_training.py"
SIZE, SLEEPS, STAYS, HEARS, DIRECTION, TEMPERATURE, SQUARED, REDUCTION, FINITE = LAWS
Batch = dict[str, Tensor]

# The lesson's script, line by line: what stands there, and what mends it.
REPAIRS: dict[str, list[tuple[str, str]]] = {
    SIZE: [
        ("    student = type(teacher)(teacher.config).to(teacher.device)\n", ""),
        ("    student.bert.load_state_dict(teacher.bert.state_dict())\n", ""),
    ],
    SLEEPS: [("teacher.train()", "teacher.eval()")],
    STAYS: [("[*student.parameters(), *teacher.parameters()]", "student.parameters()")],
    HEARS: [("student_logits.detach()", "student_logits")],
    DIRECTION: [("F.kl_div(p_teacher.log(), p_student,", "F.kl_div(p_student.log(), p_teacher,")],
    TEMPERATURE: [
        (
            '    temperature = getattr(teacher.config, "distillation_temperature", 1.0)\n',
            "",
        )
    ],
    SQUARED: [("loss = alpha * soft", "loss = alpha * temperature**2 * soft")],
    REDUCTION: [('reduction="none").mean()', 'reduction="batchmean")')],
    FINITE: [
        ("p_teacher = F.softmax(", "p_teacher = F.log_softmax("),
        ("p_student = F.softmax(", "p_student = F.log_softmax("),
        (".log(), p_", ", p_"),
        ("reduction=", "log_target=True, reduction="),
    ],
}


def script() -> str:
    """The function of the lesson that claims to distil."""
    cells = LESSON.read_text(encoding="utf-8").split("# %%")
    [cell] = [cell for cell in cells if "\ndef claimed_distillation(" in cell]
    return cell[cell.index("def claimed_distillation(") :]


def mended(text: str, laws: Sequence[str] = tuple(LAWS)) -> str:
    """The text with the faults of these laws mended."""
    for law in LAWS:
        for wrong, right in REPAIRS[law] if law in laws else ():
            assert text.count(wrong) == 1, f"the script should have once: {wrong}"
            text = text.replace(wrong, right)
    return text


def made(text: str) -> Callable[..., Any]:
    scope: dict[str, Any] = {"torch": torch, "F": F, "nn": nn, "Tensor": Tensor}
    exec("from __future__ import annotations\n" + text, scope)
    claim: Callable[..., Any] = scope["claimed_distillation"]
    return claim


def only(law: str) -> Callable[..., Any]:
    """The lesson's script with all faults mended but this one."""
    return made(mended(script(), [other for other in LAWS if other != law]))


def right(
    teacher: Any, student: Any, batches: list[Batch], *, learning_rate: float, **settings: float
) -> tuple[nn.Module, list[float]]:
    """Distil with the library's loss, settings by name."""
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate)
    losses = []
    for batch in batches:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            targets = teacher.eval()(**inputs).logits
        loss = distillation_loss(student(**inputs).logits, targets, batch["labels"], **settings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return student.eval(), losses


def statuses(report: FaultReport) -> dict[str, str]:
    return {finding.law: finding.status for finding in report.findings}


# --- right ones ---------------------------------------------------------------------------------


def test_a_right_distillation_has_no_fault() -> None:
    report = find_faults(right)
    assert set(statuses(report).values()) == {"passed"}, report


def test_one_in_another_style_has_none_either() -> None:
    def distil(
        teacher: Any, student: Any, batches: list[Batch], **settings: Any
    ) -> tuple[nn.Module, list[Tensor]]:
        """The library's frozen teacher asked beforehand, steps by hand, losses as tensors."""
        live, rate = LiveTeacher(teacher), settings.pop("learning_rate")
        targets = [live({**batch, "id": []})["teacher_logits"] for batch in batches]
        losses = []
        for batch, target in zip(batches, targets, strict=True):
            logits = student(batch["input_ids"], batch["attention_mask"]).logits
            loss = distillation_loss(logits, target, batch["labels"], **settings)
            weights = list(student.parameters())
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients, strict=True):
                    if gradient is not None:
                        weight -= rate * gradient
            losses.append(loss.detach())
        return student, losses

    report = find_faults(distil)
    assert set(statuses(report).values()) == {"passed"}, report


def test_cross_entropy_with_soft_targets_is_right_too() -> None:
    def distil(
        teacher: Any, student: Any, batches: list[Batch], **settings: Any
    ) -> tuple[nn.Module, list[float]]:
        t, alpha = settings["temperature"], settings["alpha"]
        optimizer = torch.optim.SGD(student.parameters(), lr=settings["learning_rate"])
        losses = []
        for batch in batches:
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            with torch.no_grad():
                z_t = teacher.eval()(**inputs).logits
            z_s = student.train()(**inputs).logits
            hard = F.cross_entropy(z_s, batch["labels"])
            loss = alpha * t**2 * soft_cross_entropy(z_s, z_t, t) + (1 - alpha) * hard
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return student, losses

    report = find_faults(distil)
    assert set(statuses(report).values()) == {"passed"}, report


# --- single faults ------------------------------------------------------------------------------


def test_hard_labels_alone_leave_nothing_to_say_of_the_soft_term() -> None:
    def labels_only(
        teacher: Any, student: Any, batches: list[Batch], *, learning_rate: float, **_: float
    ) -> tuple[nn.Module, list[float]]:
        optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate)
        losses = []
        for batch in batches:
            loss = student(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return student, losses

    report = find_faults(labels_only)
    assert report.faults == [HEARS]
    untold = [law for law, status in statuses(report).items() if status == "untried"]
    assert untold == [DIRECTION, TEMPERATURE, SQUARED, REDUCTION]


@pytest.mark.parametrize(
    ("softened", "named"), [("teacher", "Only the teacher's"), ("student", "Only the student's")]
)
def test_a_temperature_on_one_side_is_named(softened: str, named: str) -> None:
    def distil(
        teacher: Any, student: Any, batches: list[Batch], *, temperature: float, **_: float
    ) -> tuple[nn.Module, list[float]]:
        student.eval()
        losses = []
        for batch in batches:
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            log_t = (teacher(**inputs).logits / temperature ** (softened == "teacher")).log_softmax(
                -1
            )
            log_s = (student(**inputs).logits / temperature ** (softened == "student")).log_softmax(
                -1
            )
            kl = F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
            losses.append((temperature**2 * kl).item())
        return student, losses

    [finding] = [f for f in find_faults(distil).findings if f.law == TEMPERATURE]
    assert finding.status == "failed"
    assert named in finding.remark


def test_t_squared_twice_and_a_plain_sum_are_named() -> None:
    def distil(
        teacher: Any, student: Any, batches: list[Batch], *, temperature: float, **_: float
    ) -> tuple[nn.Module, list[float]]:
        losses = []
        for batch in batches:
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            z_s, z_t = (model(**inputs).logits / temperature for model in (student, teacher))
            kl = F.kl_div(z_s.log_softmax(-1), z_t.softmax(-1), reduction="sum")
            losses.append((temperature**4 * kl).item())
        return student, losses

    remarks = {finding.law: finding.remark for finding in find_faults(distil).findings}
    assert "power 4" in remarks[SQUARED]
    assert "not averaged over examples" in remarks[REDUCTION]


# --- the lesson's script ------------------------------------------------------------------------


def test_the_lessons_script_has_every_fault() -> None:
    report = find_faults(made(script()))
    hidden = [law for law, status in statuses(report).items() if status == "untried"]
    assert hidden == [SQUARED], report
    assert report.faults == [law for law in LAWS if law != SQUARED]


def test_the_lessons_script_mended_has_none() -> None:
    report = find_faults(made(mended(script())))
    assert set(statuses(report).values()) == {"passed"}, report


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_a_single_fault_fails_its_own_check_and_no_other(law: str) -> None:
    report = find_faults(only(law))
    assert report.faults == [law], report
    [finding] = [finding for finding in report.findings if finding.law == law]
    assert finding.remark.endswith(".")
    untold = [law for law, status in statuses(report).items() if status == "untried"]
    assert untold == ([SQUARED] if law == TEMPERATURE else [])


# --- how it shows -------------------------------------------------------------------------------


def test_the_table_says_the_same_as_html_and_as_text() -> None:
    report = find_faults(only(REDUCTION))
    text, page = repr(report), report._repr_html_()
    assert text.startswith("8 of 9 laws hold\n")
    for finding in report.findings:
        assert finding.law in text
        assert finding.law in page
    assert "batchmean" in text and "batchmean" in page
    assert page.count("aria-label='fails'") == 1


@pytest.mark.parametrize(
    "claim",
    [
        None,
        lambda: None,
        lambda *args, **kwargs: None,
        lambda teacher, student, batches, **_: (student, []),
        lambda teacher, student, batches, **_: (student, [float("nan")] * len(batches)),
        lambda teacher, student, batches, **_: (student, ["no number"] * len(batches)),
        lambda *args, **kwargs: 1 / 0,
        lambda *args, **kwargs: exec("raise SystemExit"),
    ],
)
def test_it_never_raises(claim: Any, capsys: pytest.CaptureFixture[str]) -> None:
    report = find_faults(claim)
    assert "passed" not in {statuses(report)[law] for law in (HEARS, DIRECTION, SQUARED)}
    assert capsys.readouterr().err == ""


def test_it_leaves_the_random_numbers_alone_and_is_quick() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    start = time.perf_counter()
    find_faults(right)
    assert time.perf_counter() - start < 10
    assert torch.equal(torch.rand(3), expected)
