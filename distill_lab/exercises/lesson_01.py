"""The exercises of lesson 01: what is left of the teacher, and how much smaller the student is."""

from __future__ import annotations

import torch

from distill_lab.exercises.contracts import Answer, Contract, expect, require
from distill_lab.exercises.registry import Exercise, Lesson


def retention(student_score: float, teacher_score: float) -> float:
    """Give the student's score as a fraction of the teacher's.

    Args:
        student_score: Accuracy, macro-F1 or another score of which more is better.
        teacher_score: The same score of the teacher, on the same examples, in the same unit.

    Returns:
        A fraction: 1 for a student as good as its teacher, more for a better one.

    Raises:
        ValueError: The teacher's score is 0 or less, so that there is nothing to retain.
    """
    if teacher_score <= 0:
        raise ValueError(f"teacher_score is {teacher_score}: expected a score above 0.")
    return student_score / teacher_score


def compression(teacher_parameters: int, student_parameters: int) -> float:
    """Give how many times fewer parameters the student has than its teacher.

    Args:
        teacher_parameters: Numbers that the teacher has learnt.
        student_parameters: The same of the student.

    Returns:
        5 for a student of a fifth of the teacher's size; below 1 for a larger student.

    Raises:
        ValueError: The student has no parameters.
    """
    if student_parameters <= 0:
        raise ValueError(f"student_parameters is {student_parameters}: expected 1 or more.")
    return teacher_parameters / student_parameters


# --- retention ---------------------------------------------------------------------------------


def _a_fraction(answer: Answer, generator: torch.Generator) -> None:
    score = _between(0.5, 0.9, generator)
    # Of two decimals, so that an answer which rounds is told so by the law about that.
    drawn = round(round(_between(0.1, 0.9, generator), 2) * score, 5), score
    for student, teacher in ((0.6, 0.8), (0.0, 0.5), drawn):
        expect(
            answer,
            student / teacher,
            "retention is the student's score divided by the teacher's.",
            unlike={
                "this is the teacher's score divided by the student's: upside down. Of a student "
                "half as good as its teacher, one half is left, not two.": (
                    teacher / student if student else float("inf")
                ),
                "this is a percentage. Retention is a fraction here: 0.75, not 75.": (
                    100 * student / teacher
                ),
                "this is the difference of the two scores. Points lost say little until one knows "
                "of how many: divide.": teacher - student,
                "this is the difference of the two scores (student − teacher). Points lost say "
                "little until one knows of how many: divide.": student - teacher,
                "this is the share that was lost. Retention is the share that is left.": (
                    1 - student / teacher
                ),
            },
            student_score=student,
            teacher_score=teacher,
        )


def _exact(answer: Answer, generator: torch.Generator) -> None:
    for student, teacher in ((0.9123, 0.9457), (_between(0.5, 0.9, generator), 0.9371)):
        expect(
            answer,
            student / teacher,
            "the quotient is not exact. Students are often told apart by half a percentage point.",
            unlike={
                f"it is rounded to {digits} decimals. Round when you print: students are often "
                "told apart by half a percentage point.": round(student / teacher, digits)
                for digits in range(5)
            },
            student_score=student,
            teacher_score=teacher,
        )


def _better_student(answer: Answer, generator: torch.Generator) -> None:
    for student, teacher in ((0.9, 0.8), (0.8, 0.8), (0.9, _between(0.2, 0.5, generator))):
        expect(
            answer,
            student / teacher,
            "a student may be as good as its teacher (retention 1) or better (above 1).",
            unlike={
                "it was cut off at 1. A student can beat its teacher, and a report that hides it "
                "is wrong.": min(1.0, student / teacher),
                "the larger score was divided into the smaller one. It is always the teacher's "
                "that stands below.": teacher / student,
            },
            student_score=student,
            teacher_score=teacher,
        )
    expect(
        answer,
        0.75,
        "60 % of 80 % is as much as 0.6 of 0.8: a quotient has no unit, so percentages may go in.",
        unlike={
            "this takes the scores for percentages. 60 ÷ 80 is a fraction already.": 0.0075,
            "the scores were cut off at 1 before they were divided.": 1.0,
        },
        student_score=60.0,
        teacher_score=80.0,
    )


def _teacher_above_zero(answer: Answer, generator: torch.Generator) -> None:
    _refuses(answer, "teacher_score", 0.0, student_score=0.5, teacher_score=0.0)
    _refuses(answer, "teacher_score", -0.2, student_score=0.5, teacher_score=-0.2)


RETENTION = Exercise(
    id="retention",
    title="How much of the teacher is left",
    minutes=5,
    difficulty=1,
    reference=retention,
    parameters="student_score, teacher_score",
    may_call="plain Python",
    contracts=(
        Contract(
            "a_fraction",
            "It is the student's score as a fraction of the teacher's",
            0.5,
            _a_fraction,
            (
                "Of a teacher that scores 0.8, a student that scores 0.6 has kept three quarters. "
                "What did you compute to say so?",
                "A function gives its value with `return`.",
                "`return student_score / teacher_score`",
            ),
        ),
        Contract(
            "exact",
            "It is not rounded",
            0.5,
            _exact,
            (
                "Rounding is for printing. What is rounded cannot be compared any more.",
                "Return the quotient itself, without `round`, `int` or `//`.",
            ),
        ),
        Contract(
            "better_student",
            "A student better than its teacher has a retention above 1; percentages do no harm",
            0.5,
            _better_student,
            (
                "Try retention(0.9, 0.8) by hand. Is anything wrong with a value above 1?",
                "No `min`, no `max`, no factor 100: the quotient as it comes.",
            ),
        ),
        Contract(
            "teacher_above_zero",
            "A teacher that scores 0 or less raises ValueError",
            0.5,
            _teacher_above_zero,
            (
                "Of nothing, nothing can be retained: say so before you divide.",
                "`if teacher_score <= 0:` comes first, and under it a `raise`.",
                '`raise ValueError(f"teacher_score is {teacher_score}: expected above 0.")`',
            ),
        ),
    ),
)


# --- compression -------------------------------------------------------------------------------


def _times_fewer(answer: Answer, generator: torch.Generator) -> None:
    drawn = 1000 * int(_between(2, 10, generator))
    times = int(_between(3, 40, generator))
    for teacher, student in ((1000, 250), (times * drawn, drawn)):
        expect(
            answer,
            teacher / student,
            "a student of 250 parameters has 4 times fewer than a teacher of 1000.",
            unlike={
                "this is the student's share of the teacher's parameters: upside down. "
                "“4 times fewer” is 4, not 0.25.": student / teacher,
                "this is a percentage. Compression is a factor: 4, not 400.": (
                    100 * teacher / student
                ),
                "this is the share of parameters that was saved. Compression is the factor "
                "between the two: 4, not 0.75.": 1 - student / teacher,
                "this is the number of parameters that was saved. Compression is the factor "
                "between the two: divide.": teacher - student,
                "this is how many times more the teacher has *on top* of the student's. A student "
                "of equal size has compression 1, not 0.": teacher / student - 1,
            },
            teacher_parameters=teacher,
            student_parameters=student,
        )


def _not_whole(answer: Answer, generator: torch.Generator) -> None:
    for teacher, student in ((7, 2), (22_715_141, 4_386_565)):
        expect(
            answer,
            teacher / student,
            "the factor is not exact.",
            unlike={
                "only whole times are counted. `//` rounds down; `/` gives 3.5 for 7 and 2.": (
                    teacher // student
                ),
                "the factor is rounded to a whole number. Round when you print.": (
                    round(teacher / student)
                ),
                "the factor is rounded to one decimal. Round when you print.": (
                    round(teacher / student, 1)
                ),
            },
            teacher_parameters=teacher,
            student_parameters=student,
        )


def _larger_student(answer: Answer, generator: torch.Generator) -> None:
    for teacher, student in ((500, 500), (500, 1000), (3, int(_between(7, 99, generator)))):
        expect(
            answer,
            teacher / student,
            "equal sizes have compression 1; a student that is larger than its teacher has less.",
            unlike={
                "it was cut off at 1. A student may be larger than its teacher: then nothing was "
                "compressed, and the number says so by being below 1.": (
                    max(1.0, teacher / student)
                ),
                "the larger number was divided by the smaller one. It is always the teacher's that "
                "is divided.": student / teacher,
            },
            teacher_parameters=teacher,
            student_parameters=student,
        )


def _student_above_zero(answer: Answer, generator: torch.Generator) -> None:
    _refuses(answer, "student_parameters", 0, teacher_parameters=10, student_parameters=0)
    _refuses(answer, "student_parameters", -5, teacher_parameters=10, student_parameters=-5)


COMPRESSION = Exercise(
    id="compression",
    title="How many times smaller the student is",
    minutes=5,
    difficulty=1,
    reference=compression,
    parameters="teacher_parameters, student_parameters",
    may_call="plain Python",
    contracts=(
        Contract(
            "times_fewer",
            "It is how many times fewer parameters the student has",
            0.5,
            _times_fewer,
            (
                "A teacher of 1000 parameters, a student of 250: how many students weigh as much "
                "as one teacher?",
                "Which of the two numbers stands above the line?",
                "`return teacher_parameters / student_parameters`",
            ),
        ),
        Contract(
            "not_whole",
            "It need not be a whole number: 7 against 2 is 3.5",
            0.5,
            _not_whole,
            (
                "Does your function give 3.5 for 7 and 2?",
                "`/` divides, `//` divides and rounds down.",
            ),
        ),
        Contract(
            "larger_student",
            "Equal sizes give 1, a student larger than its teacher less than 1",
            0.5,
            _larger_student,
            (
                "Try compression(500, 1000) by hand.",
                "No `max`, no `abs`, no sorting: the quotient as it comes.",
            ),
        ),
        Contract(
            "student_above_zero",
            "A student without parameters raises ValueError",
            0.5,
            _student_above_zero,
            (
                "A model without parameters is a slip somewhere: say so before you divide.",
                "`if student_parameters <= 0:` comes first, and under it a `raise`.",
                '`raise ValueError(f"student_parameters is {student_parameters}: expected 1 or '
                'more.")`',
            ),
        ),
    ),
)


def _between(low: float, high: float, generator: torch.Generator) -> float:
    """Draw a number, rounded to three decimals so that it reads well."""
    return round(low + (high - low) * torch.rand((), generator=generator).item(), 3)


def _refuses(answer: Answer, name: str, value: float, **inputs: float) -> None:
    kind = answer.raised(**inputs)
    if kind == "ZeroDivisionError":
        reason = (
            f"ZeroDivisionError comes from the division and does not say what was wrong. Look "
            f"before you divide, and raise ValueError with a sentence about {name}."
        )
    elif kind is None and value < 0:
        reason = f"{name} may not be below 0 either: it gives a number where it should refuse."
    elif kind is None:
        reason = f"it gives a number for {name} = 0 where it should refuse: raise ValueError."
    else:
        reason = f"it raises {kind}; for a value that makes no sense, Python has ValueError."
    require(kind == "ValueError", reason, inputs=inputs)


LESSON = Lesson(
    name="01_pipeline",
    title="The pipeline: from a large teacher to a small student",
    minutes=60,
    difficulty=1,
    exercises=(RETENTION, COMPRESSION),
)
