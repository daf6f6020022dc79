"""Wrong answers to the exercises of lesson 01, and right ones in another style."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from tests.mutants.mutant import Mutant

# --- retention: wrong ---------------------------------------------------------------------------


def _needs_teacher(teacher_score):
    if teacher_score <= 0:
        raise ValueError("teacher_score must be above 0")


def upside_down(student_score, teacher_score):
    _needs_teacher(teacher_score)
    return teacher_score / max(student_score, 1e-9)


def per_cent(student_score, teacher_score):
    _needs_teacher(teacher_score)
    return 100 * student_score / teacher_score


def points_lost(student_score, teacher_score):
    _needs_teacher(teacher_score)
    return teacher_score - student_score


def share_lost(student_score, teacher_score):
    _needs_teacher(teacher_score)
    return 1 - student_score / teacher_score


def printed(student_score, teacher_score):
    _needs_teacher(teacher_score)
    print(student_score / teacher_score)


def as_text(student_score, teacher_score):
    _needs_teacher(teacher_score)
    return f"{student_score / teacher_score:.1%}"


def rounded(student_score, teacher_score):
    _needs_teacher(teacher_score)
    return round(student_score / teacher_score, 2)


def at_most_one(student_score, teacher_score):
    _needs_teacher(teacher_score)
    return min(1.0, student_score / teacher_score)


def smaller_by_larger(student_score, teacher_score):
    _needs_teacher(teacher_score)
    low, high = sorted((student_score, teacher_score))
    return low / high


def per_cent_guessed(student_score, teacher_score):
    _needs_teacher(teacher_score)
    ratio = student_score / teacher_score
    return ratio / 100 if max(student_score, teacher_score) > 1 else ratio


def unguarded(student_score, teacher_score):
    return student_score / teacher_score


def zero_for_no_teacher(student_score, teacher_score):
    return student_score / teacher_score if teacher_score > 0 else 0.0


def guarded_at_zero_only(student_score, teacher_score):
    if teacher_score == 0:
        raise ValueError("teacher_score is 0")
    return student_score / teacher_score


def asserts(student_score, teacher_score):
    assert teacher_score > 0, "teacher_score must be above 0"
    return student_score / teacher_score


# --- compression: wrong -------------------------------------------------------------------------


def _needs_student(student_parameters):
    if student_parameters <= 0:
        raise ValueError("student_parameters must be above 0")


def share_of_teacher(teacher_parameters, student_parameters):
    _needs_student(student_parameters)
    return student_parameters / teacher_parameters


def share_saved(teacher_parameters, student_parameters):
    _needs_student(student_parameters)
    return 1 - student_parameters / teacher_parameters


def parameters_saved(teacher_parameters, student_parameters):
    _needs_student(student_parameters)
    return teacher_parameters - student_parameters


def times_more_on_top(teacher_parameters, student_parameters):
    _needs_student(student_parameters)
    return (teacher_parameters - student_parameters) / student_parameters


def whole_times(teacher_parameters, student_parameters):
    _needs_student(student_parameters)
    return teacher_parameters // student_parameters


def one_decimal(teacher_parameters, student_parameters):
    _needs_student(student_parameters)
    return round(teacher_parameters / student_parameters, 1)


def at_least_one(teacher_parameters, student_parameters):
    _needs_student(student_parameters)
    return max(1.0, teacher_parameters / student_parameters)


def larger_by_smaller(teacher_parameters, student_parameters):
    _needs_student(student_parameters)
    low, high = sorted((student_parameters, teacher_parameters))
    return high / low


def unguarded_compression(teacher_parameters, student_parameters):
    return teacher_parameters / student_parameters


def infinite_compression(teacher_parameters, student_parameters):
    return teacher_parameters / student_parameters if student_parameters > 0 else math.inf


MUTANTS: list[Mutant] = [
    Mutant("retention", upside_down, "a_fraction", "upside down"),
    Mutant("retention", per_cent, "a_fraction", "this is a percentage"),
    Mutant("retention", points_lost, "a_fraction", "difference of the two scores"),
    Mutant("retention", share_lost, "a_fraction", "share that was lost"),
    Mutant("retention", printed, "a_fraction", "return statement missing"),
    Mutant("retention", as_text, "a_fraction", "gives a str"),
    Mutant("retention", rounded, "exact", "rounded to 2 decimals"),
    Mutant("retention", at_most_one, "better_student", "cut off at 1"),
    Mutant("retention", smaller_by_larger, "better_student", "larger score was divided"),
    Mutant("retention", per_cent_guessed, "better_student", "takes the scores for percentages"),
    Mutant("retention", unguarded, "teacher_above_zero", "ZeroDivisionError"),
    Mutant("retention", zero_for_no_teacher, "teacher_above_zero", "teacher_score = 0"),
    Mutant("retention", guarded_at_zero_only, "teacher_above_zero", "below 0 either"),
    Mutant("retention", asserts, "teacher_above_zero", "raises AssertionError"),
    Mutant("compression", share_of_teacher, "times_fewer", "upside down"),
    Mutant("compression", share_saved, "times_fewer", "share of parameters that was saved"),
    Mutant("compression", parameters_saved, "times_fewer", "number of parameters that was saved"),
    Mutant("compression", times_more_on_top, "times_fewer", "on top"),
    Mutant("compression", whole_times, "not_whole", "`//` rounds down"),
    Mutant("compression", one_decimal, "not_whole", "one decimal"),
    Mutant("compression", at_least_one, "larger_student", "cut off at 1"),
    Mutant("compression", larger_by_smaller, "larger_student", "larger number was divided"),
    Mutant("compression", unguarded_compression, "student_above_zero", "ZeroDivisionError"),
    Mutant("compression", infinite_compression, "student_above_zero", "student_parameters = 0"),
]


# --- right, in another style --------------------------------------------------------------------


def retention_as_a_product(student_score, teacher_score):
    if not teacher_score > 0:
        raise ValueError("teacher_score must be above 0")
    return student_score * teacher_score**-1


def retention_by_what_is_lost(student_score, teacher_score):
    if teacher_score <= 0:
        raise ValueError("teacher_score must be above 0")
    return 1 - (teacher_score - student_score) / teacher_score


def retention_with_numpy(student_score, teacher_score):
    if teacher_score <= 0:
        raise ValueError("teacher_score must be above 0")
    return np.divide(student_score, teacher_score)


def compression_by_fractions(teacher_parameters, student_parameters):
    if student_parameters < 1:
        raise ValueError("student_parameters must be 1 or more")
    return float(Fraction(teacher_parameters, student_parameters))


def compression_by_logarithms(teacher_parameters, student_parameters):
    if student_parameters <= 0:
        raise ValueError("student_parameters must be 1 or more")
    return math.exp(math.log(teacher_parameters) - math.log(student_parameters))


OTHER_STYLES: list[tuple[str, Callable[..., Any]]] = [
    ("retention", retention_as_a_product),
    ("retention", retention_by_what_is_lost),
    ("retention", retention_with_numpy),
    ("compression", compression_by_fractions),
    ("compression", compression_by_logarithms),
]
