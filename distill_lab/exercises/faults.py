"""Find the faults of a script that claims to distil, by what it does; its text is never read.

A claim is a function that takes a teacher, a student and batches, trains, and gives the trained
student and the loss of each step::

    def claim(teacher, student, batches, *, temperature=2.0, alpha=0.5, learning_rate=1e-3):
        ...
        return student, losses

``find_faults(claim)`` lets it train small classifiers and compares what happens with what
distillation does: α · T² · KL(teacher ‖ student) at T + (1 − α) · cross-entropy with the labels,
from a teacher that sleeps and stays as it is (Hinton, Vinyals, Dean 2015, section 2). It looks for
the faults of lesson 06 and for no others. Nothing is graded.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lab.exercises.checking import Status
from distill_lab.exercises.display import GLYPHS, html_glyph
from distill_lab.exercises.local import one_line, quiet
from distill_lab.exercises.objects import Classifier, draw_batch, draw_classifier
from distill_lab.models import count_parameters

Claim = Callable[..., Any]
Batch = dict[str, Tensor]
CLASSES, ROWS = 5, 3
TEMPERATURES = (1.5, 3.0)  # two, so that the power of T in the loss can be read off
SEEN = 1e-6  # a change that is no rounding; a step of these trainings moves weights by 1e-3
SAME_FORM = 1e-3  # how far, relatively, a loss may be from a form that it has


@dataclass(frozen=True)
class Finding:
    """What became of one check.

    Attributes:
        law: What distillation does, in one line.
        status: ``failed`` where the claim does otherwise; ``untried`` where it cannot be told.
        remark: What is wrong and how to mend it, or why it cannot be told; empty where all is well.
    """

    law: str
    status: Status
    remark: str = ""


@dataclass(frozen=True)
class FaultReport:
    """What ``find_faults`` shows: a line for each law."""

    findings: tuple[Finding, ...]

    @property
    def faults(self) -> list[str]:
        """The laws that are broken, in order."""
        return [finding.law for finding in self.findings if finding.status == "failed"]

    @property
    def headline(self) -> str:
        """How many of the laws hold, in a line."""
        hold, untold = (sum(f.status == s for f in self.findings) for s in ("passed", "untried"))
        tail = f"; {untold} cannot be told yet" if untold else ""
        return f"{hold} of {len(self.findings)} laws hold{tail}"

    def __repr__(self) -> str:
        lines = [self.headline]
        for finding in self.findings:
            lines.append(f"  {GLYPHS[finding.status]} {finding.law}")
            lines += [f"      {finding.remark}"] if finding.remark else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cell = "style='text-align:left;vertical-align:top;padding:2px 12px 2px 0'"
        rows = "".join(
            f"<tr><td {cell}>{html_glyph(f.status)}</td>"
            f"<td {cell}>{html.escape(f.law)}</td><td {cell}>{html.escape(f.remark)}</td></tr>"
            for f in self.findings
        )
        return f"<p><b>{self.headline}</b></p><table><tbody>{rows}</tbody></table>"


def find_faults(claim: Claim) -> FaultReport:
    """Try a claimed distillation on small models; the last line of a cell shows the table.

    Args:
        claim: ``claim(teacher, student, batches, *, temperature, alpha, learning_rate)`` gives the
            trained student and a list with the loss of each batch. Teacher and student are
            transformers classifiers; a batch has ``input_ids`` and ``attention_mask``
            [batch, tokens] and ``labels`` [batch].

    Returns:
        A line for each law. It never raises: where the claim does, the line says so.
    """
    bench, threads = _Bench(claim), torch.get_num_threads()
    torch.set_num_threads(1)  # for models this small more threads only wait for each other
    try:
        return FaultReport(tuple(_looked_at(law, look, bench) for law, look in LAWS.items()))
    finally:
        torch.set_num_threads(threads)


def _looked_at(law: str, look: Callable[[_Bench], str], bench: _Bench) -> Finding:
    try:
        remark = look(bench)
    except _Untold as reason:
        return Finding(law, "untried", str(reason))
    except Exception as error:
        # What came back could not be worked with.
        return Finding(law, "untried", f"What it gives cannot be used: {_said(error)}.")
    return Finding(law, "failed" if remark else "passed", remark)


class _Untold(Exception):
    """The claim does not get far enough for a check to tell."""


# --- the laws: each gives what is wrong, or an empty text ---------------------------------------


def _student_is_smaller(bench: _Bench) -> str:
    run = bench.run()
    ours, theirs = count_parameters(run.student), count_parameters(run.teacher)
    if ours < theirs:
        return ""
    return (
        f"What comes back has {ours:,} parameters, and the teacher {theirs:,}: nothing was made "
        "smaller. Train the student that is given; make none from the teacher's configuration."
    )


def _teacher_sleeps(bench: _Bench) -> str:
    batch = bench.batches[0]
    answers = bench.run(teacher=_teacher(dropout=0.5), batches=[batch] * 4).teacher_logits
    apart = max(((a - answers[0]).abs().max().item() for a in answers), default=0.0)
    if apart < SEEN:
        return ""
    return (
        "Asked again about the same batch, with the same weights, it answers with logits that "
        f"differ by {apart:.2g}: dropout is at work. Call teacher.eval() and keep it so."
    )


def _teacher_stays(bench: _Bench) -> str:
    run = bench.run(learning_rate=0.01, alpha=0.5)
    moved = _largest_change(_teacher().weights, run.teacher.state_dict())
    if moved < SEEN:
        return ""
    return (
        f"Its weights move by up to {moved:.2g}: the loss also falls when the teacher comes to the "
        "student. Give the optimizer the student's parameters alone, and ask the teacher under "
        "torch.no_grad()."
    )


def _student_hears(bench: _Bench) -> str:
    # Only the head differs, so that a student made from the teacher's body starts alike.
    one, head = _teacher(), "classifier.weight"
    other = replace(one, weights={**one.weights, head: one.weights[head].flip(0)})
    first, second = (bench.run(teacher=t, learning_rate=0.01).student for t in (one, other))
    if _largest_change(first.state_dict(), second.state_dict()) > SEEN:
        return ""
    return (
        "At alpha = 1, two teachers that say different things make the same student: no gradient "
        "of the soft term reaches it, and it can learn from hard labels alone. Leave the student's "
        "logits in the graph (no .detach(), .item() or no_grad on its side)."
    )


def _teacher_weighs(bench: _Bench) -> str:
    form = bench.soft_term
    if form.direction == "forward":
        return ""
    if form.direction == "reverse":
        return (
            "At alpha = 1 the loss goes with KL(student ‖ teacher): the student's probabilities "
            "weigh the sum. F.kl_div takes the student's log-probabilities first, then the "
            "teacher's."
        )
    return (
        "At alpha = 1 the loss goes neither with KL(teacher ‖ student) nor with its reverse. It "
        "should be T² · KL(teacher ‖ student), and nothing else."
    )


def _temperature_is_used(bench: _Bench) -> str:
    form = bench.known_soft_term
    if form.teacher_softened and form.student_softened:
        return ""
    if form.teacher_softened or form.student_softened:
        side, other = ("teacher", "student") if form.teacher_softened else ("student", "teacher")
        return f"Only the {side}'s logits are divided by T; divide the {other}'s by the same T."
    return (
        f"The loss at temperature={TEMPERATURES[0]:g} and at {TEMPERATURES[1]:g} compares the same "
        "probabilities: the argument is ignored, and T is 1. Divide the logits of both sides by "
        "the temperature that is given."
    )


def _has_t_squared(bench: _Bench) -> str:
    form = bench.known_soft_term
    if not (form.teacher_softened or form.student_softened):
        raise _Untold("It cannot be told while the temperature has no effect.")
    if abs(form.power - 2) < 0.05:
        return ""
    return (
        f"The factor in front of the soft term goes like T to the power {form.power:.0f}, and "
        "should like T². Multiply the KL by temperature ** 2, once."
    )


def _sums_over_classes(bench: _Bench) -> str:
    factor = bench.known_soft_term.factor
    if abs(factor - 1) < 0.01:
        return ""
    if abs(factor * CLASSES - 1) < 0.01:
        return (
            f"With {CLASSES} classes the soft term is {CLASSES} times too small: it is averaged "
            'over classes too. Use reduction="batchmean", or .sum(-1).mean().'
        )
    if abs(factor / ROWS - 1) < 0.01:
        return (
            f"With {ROWS} examples in a batch the soft term is {ROWS} times too large: it is not "
            'averaged over examples. Use reduction="batchmean", or .sum(-1).mean().'
        )
    return f"The soft term is {factor:.3g} times what it should be: sum classes, average examples."


def _stays_finite(bench: _Bench) -> str:
    extremes = {
        "teacher": bench.run(teacher=_scaled(_teacher(), 1e4), temperature=1.0),
        "student": bench.run(student=_scaled(_student(), 1e4), temperature=1.0),
    }
    for name, run in extremes.items():
        numbers = [torch.tensor(run.losses), *run.student.state_dict().values()]
        if not all(bool(x.isfinite().all()) for x in numbers if x.is_floating_point()):
            return (
                f"With logits of some thousands on the {name}'s side, loss or weights are infinite "
                "or NaN: a probability became 0 before its logarithm was taken. Use "
                "F.log_softmax, not softmax and then log."
            )
    return ""


LAWS: Mapping[str, Callable[[_Bench], str]] = {
    "The student is smaller than its teacher": _student_is_smaller,
    "The teacher sleeps: same batch, same logits": _teacher_sleeps,
    "The teacher stays as it is": _teacher_stays,
    "The student hears the teacher": _student_hears,
    "The soft term is KL(teacher ‖ student), not the reverse": _teacher_weighs,
    "The temperature softens both sides": _temperature_is_used,
    "The soft term has its T²": _has_t_squared,
    "It is a sum over classes and a mean over examples": _sums_over_classes,
    "It is finite for extreme logits": _stays_finite,
}


# --- letting it train ---------------------------------------------------------------------------


class _Run(NamedTuple):
    """One call of a claim: what it gave, and what was seen of the teacher."""

    student: nn.Module
    losses: list[float]
    teacher: nn.Module
    teacher_logits: list[Tensor]  # each time it was asked, [batch, classes]


class _Bench:
    """Lets a claim train on small models, and reads off what its soft term is."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim

    @cached_property
    def batches(self) -> list[Batch]:
        """Eight batches of ROWS short texts, all labelled."""
        generator = torch.Generator().manual_seed(2)
        labels = torch.randint(CLASSES, (8, ROWS), generator=generator)
        return [draw_batch(generator, (6, 4, 3)) | {"labels": row} for row in labels]

    def run(
        self,
        *,
        teacher: Classifier | None = None,
        student: Classifier | None = None,
        batches: Sequence[Batch] | None = None,
        temperature: float = 2.0,
        alpha: float = 1.0,
        learning_rate: float = 0.0,
    ) -> _Run:
        """Call the claim once, quietly, with models of its own; at rate 0 the weights stay.

        Raises:
            _Untold: It raised, or did not give a model and as many losses as there are batches.
        """
        batches = self.batches if batches is None else batches
        asked, pupil = (teacher or _teacher()).build(), (student or _student()).build()
        answers: list[Tensor] = []
        hook = asked.register_forward_hook(
            lambda module, inputs, output: answers.append(output.logits.detach().clone())
        )
        given = [{name: value.clone() for name, value in batch.items()} for batch in batches]
        try:
            with quiet():
                value = self.claim(
                    asked,
                    pupil,
                    given,
                    temperature=temperature,
                    alpha=alpha,
                    learning_rate=learning_rate,
                )
        except (Exception, SystemExit) as error:
            raise _Untold(f"It raised {type(error).__name__}: {_said(error)}.") from None
        finally:
            hook.remove()
        if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], nn.Module)):
            raise _Untold(
                "It should give the trained student and the list of its losses: return student, "
                "losses."
            )
        trained, losses = value
        losses = [float(loss) for loss in losses]
        if len(losses) != len(batches):
            raise _Untold(f"It gave {len(losses)} losses for {len(batches)} batches; one each.")
        return _Run(trained, losses, asked, answers)

    @cached_property
    def soft_term(self) -> _SoftTerm:
        """Read off what the loss is at alpha = 1.

        Raises:
            _Untold: There is no soft term.
        """
        runs = {t: self.run(temperature=t) for t in TEMPERATURES}
        losses = {t: torch.tensor(run.losses).double() for t, run in runs.items()}
        ours = self._logits(runs[TEMPERATURES[0]].student)
        theirs = self._logits(_teacher().build())
        labels = torch.cat([batch["labels"] for batch in self.batches])
        hard = F.cross_entropy(ours, labels, reduction="none").view(-1, ROWS).mean(1)
        if all(_apart(values, hard) < SAME_FORM for values in losses.values()):
            raise _Untold("At alpha = 1 the loss is that of the labels: there is no soft term yet.")
        if all(bool((values.abs() < SEEN).all()) for values in losses.values()):
            raise _Untold("At alpha = 1 the loss is 0: there is no soft term yet.")
        forms = [
            _fitted(_form(ours, theirs, *choice), losses, *choice)
            for choice in product(("forward", "reverse"), (True, False), (True, False), (0, 1))
        ]
        best = min(forms, key=lambda form: form.misfit)
        return best if best.misfit < SAME_FORM else best._replace(direction="unknown")

    @property
    def known_soft_term(self) -> _SoftTerm:
        """The soft term where it has one of the forms that are known.

        Raises:
            _Untold: It has none of them.
        """
        if self.soft_term.direction == "unknown":
            raise _Untold("It cannot be told while the loss has no form that is known.")
        return self.soft_term

    @torch.no_grad()
    def _logits(self, model: nn.Module) -> Tensor:
        """Logits [all examples, classes] in float64 of a model that sleeps."""
        model.eval()
        inputs = [
            {name: batch[name] for name in ("input_ids", "attention_mask")}
            for batch in self.batches
        ]
        return torch.cat([model(**each).logits for each in inputs]).double()


# --- what its soft term is ----------------------------------------------------------------------


class _SoftTerm(NamedTuple):
    """The form that comes nearest to a loss: factor · Tᵖᵒʷᵉʳ · form(T)."""

    direction: str
    teacher_softened: bool
    student_softened: bool
    power: float
    factor: float
    misfit: float


def _form(
    ours: Tensor,
    theirs: Tensor,
    direction: str,
    teacher_softened: bool,
    student_softened: bool,
    entropy: int,
) -> Callable[[float], Tensor]:
    """Give a form as a function of T: KL, or cross-entropy (which has the same gradient)."""

    def at(t: float) -> Tensor:
        log_s = F.log_softmax(ours / (t if student_softened else 1.0), dim=-1)
        log_t = F.log_softmax(theirs / (t if teacher_softened else 1.0), dim=-1)
        log_p, log_q = (log_t, log_s) if direction == "forward" else (log_s, log_t)
        rows = (log_p.exp() * ((1 - entropy) * log_p - log_q)).sum(-1)
        return rows.view(-1, ROWS).mean(1)

    return at


def _fitted(
    form: Callable[[float], Tensor],
    losses: Mapping[float, Tensor],
    direction: str,
    teacher_softened: bool,
    student_softened: bool,
    entropy: int,
) -> _SoftTerm:
    """Fit factor and power of T to the losses [batches] at two temperatures."""
    scales = {t: float((v @ form(t)) / (form(t) @ form(t))) for t, v in losses.items()}
    misfit = max(_apart(v, scales[t] * form(t)) for t, v in losses.items())
    cold, hot = TEMPERATURES
    ratio = torch.tensor(scales[hot] / scales[cold]).abs()
    power = float(ratio.log() / torch.tensor(hot / cold).log())
    factor = scales[hot] / hot ** round(power) if torch.isfinite(ratio.log()) else float("nan")
    return _SoftTerm(direction, teacher_softened, student_softened, power, factor, misfit)


def _apart(one: Tensor, other: Tensor) -> float:
    """The distance of two vectors, relative to the first; infinite where it is not a number."""
    distance = float((one - other).norm() / one.norm())
    return distance if distance == distance else float("inf")


# --- small parts --------------------------------------------------------------------------------


def _scaled(spec: Classifier, times: float) -> Classifier:
    """Give a classifier whose logits are larger."""
    head = {
        name: times * value if name.startswith("classifier") else value
        for name, value in spec.weights.items()
    }
    return replace(spec, weights=head)


def _largest_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """The largest change of any weight; infinite where the shapes differ."""
    if any(after[name].shape != value.shape for name, value in before.items()):
        return float("inf")
    changes = [(after[name] - value).abs().max().item() for name, value in before.items()]
    return max(changes)


def _said(error: BaseException) -> str:
    return one_line(error, 200).rstrip(".")


@cache
def _teacher(dropout: float = 0.0) -> Classifier:
    """Draw the teacher, the same weights whatever its dropout."""
    generator = torch.Generator().manual_seed(0)
    spec = draw_classifier(generator, layers=2, width=16, classes=CLASSES, dropout=dropout)
    return _scaled(spec, 4.0)


@cache
def _student() -> Classifier:
    """Draw the student, half as wide and half as deep."""
    generator = torch.Generator().manual_seed(1)
    return _scaled(draw_classifier(generator, layers=1, width=8, classes=CLASSES), 4.0)
