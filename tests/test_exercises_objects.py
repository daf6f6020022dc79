"""Objects given as plain data: built anew for each call, looked at after it, never shared."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_lab.exercises.contracts import AnswerRaised, Broken
from distill_lab.exercises.local import LocalAnswer
from distill_lab.exercises.objects import (
    Classifier,
    ScriptedCall,
    ScriptedClock,
    Sgd,
    build_inputs,
    draw_batch,
    draw_classifier,
)
from distill_lab.exercises.registry import Exercise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def answer(function: Callable[..., Any], parameters: str = "student") -> LocalAnswer:
    """A function as an answer to an exercise without contracts."""
    exercise = Exercise("job", "A job", 1, 1, function, parameters, "anything", ())
    return LocalAnswer(exercise, function)


CLASSIFIER = draw_classifier(generator(), layers=2)


# --- classifiers and batches ---------------------------------------------------------------------


def test_a_seed_draws_one_classifier() -> None:
    same, other = draw_classifier(generator(), layers=2), draw_classifier(generator(1), layers=2)
    assert all(torch.equal(w, CLASSIFIER.weights[n]) for n, w in same.weights.items())
    assert not torch.equal(other.weights["classifier.bias"], CLASSIFIER.weights["classifier.bias"])


def test_drawing_and_building_leave_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    draw_classifier(generator()).build()
    assert torch.equal(torch.rand(1), expected)


def test_a_built_classifier_has_weights_of_its_own() -> None:
    one, two = CLASSIFIER.build(), CLASSIFIER.build()
    with torch.no_grad():
        one.classifier.bias.add_(1)
    for weights in (two.state_dict(), CLASSIFIER.weights):
        torch.testing.assert_close(weights["classifier.bias"] + 1, one.classifier.bias.detach())


def test_its_logits_differ_from_text_to_text_and_not_with_padding() -> None:
    batch = draw_batch(generator(), (4, 2, 3))
    padded = {name: torch.nn.functional.pad(x, (0, 3)) for name, x in batch.items()}
    model = CLASSIFIER.build()
    logits = model(**batch).logits
    torch.testing.assert_close(model(**padded).logits, logits, rtol=1e-5, atol=1e-6)
    assert torch.cdist(logits, logits).fill_diagonal_(1).min() > 0.01


@pytest.mark.parametrize("training", [(), ("bert.encoder",), ("bert.pooler", "classifier"), ("",)])
def test_the_named_modules_are_awake_and_no_others(training: tuple[str, ...]) -> None:
    classifier = Classifier(CLASSIFIER.config, CLASSIFIER.weights, training)
    model = classifier.build()
    for name, module in model.named_modules():
        above = [part for part in training if not part or f"{name}.".startswith(f"{part}.")]
        assert module.training == bool(above), name
    assert float(classifier.state(model)["training"]) == bool(training)


def test_dropout_falls_only_in_training_mode() -> None:
    batch = draw_batch(generator(), (3,))
    for training, same in (((), True), (("bert.encoder",), False)):
        model = draw_classifier(generator(), dropout=0.5, training=training).build()
        assert torch.equal(model(**batch).logits, model(**batch).logits) == same


def test_the_mask_is_1_where_a_text_has_a_token() -> None:
    batch = draw_batch(generator(), (3, 1), padding=2)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert torch.equal(batch["input_ids"] > 0, batch["attention_mask"].bool())


# --- optimizers and clocks -----------------------------------------------------------------------


def test_sgd_steps_over_the_classifier_that_was_built_before_it() -> None:
    def step(student: Any, optimizer: Any) -> None:
        student.classifier.bias.sum().backward()
        optimizer.step()

    inputs = {"student": CLASSIFIER, "optimizer": Sgd(0.25)}
    _, state = answer(step, "student, optimizer").after("student", **inputs)
    torch.testing.assert_close(
        state["classifier.bias"], CLASSIFIER.weights["classifier.bias"] - 0.25
    )


def test_sgd_of_another_input() -> None:
    built = build_inputs({"teacher": CLASSIFIER, "optimizer": Sgd(0.25, of="teacher")})
    first = built["optimizer"].param_groups[0]["params"][0]
    assert first is next(built["teacher"].parameters())


def test_only_the_call_moves_the_clock() -> None:
    def measure(call: Any, clock: Any) -> list[float]:
        times = [clock()]
        for _ in range(4):
            call()
            times += [clock(), clock()]
        return [b - a for a, b in pairwise(times)]

    inputs = {"call": ScriptedCall(torch.tensor([1.0, 2.0, 5.0])), "clock": ScriptedClock()}
    steps, state = answer(measure, "call, clock").after("call", **inputs)
    assert steps == [1, 0, 2, 0, 5, 0, 5, 0]
    assert float(state["calls"]) == 4


# --- asking an answer ----------------------------------------------------------------------------


def test_every_call_gets_objects_and_containers_of_its_own() -> None:
    def spoil(student: Any, batches: Any) -> int:
        found = len(batches[0])
        with torch.no_grad():
            student.classifier.bias.zero_()
        batches[0]["input_ids"].zero_()
        batches[0].pop("attention_mask")
        return found

    batches = [draw_batch(generator(), (2,))]
    spoiler = answer(spoil, "student, batches")
    assert [spoiler(student=CLASSIFIER, batches=batches) for _ in range(2)] == [2, 2]
    assert batches[0]["attention_mask"].tolist() == [[1, 1]] and batches[0]["input_ids"].all()
    assert CLASSIFIER.weights["classifier.bias"].any()


def test_after_gives_value_and_state_of_the_same_call() -> None:
    def learn(student: Any, teacher: Any) -> Tensor:
        student.load_state_dict(teacher.state_dict())
        student.train()
        return student.classifier.bias

    inputs = {"student": CLASSIFIER, "teacher": draw_classifier(generator(1), layers=2)}
    value, state = answer(learn, "student, teacher").after("student", **inputs)
    assert torch.equal(value, state["classifier.bias"]) and not value.requires_grad
    assert torch.equal(value, inputs["teacher"].weights["classifier.bias"])
    assert float(state["training"]) == 1


@pytest.mark.parametrize(
    "share",
    [
        lambda student, teacher: setattr(student, "classifier", teacher.classifier),
        lambda student, teacher: setattr(student.classifier, "bias", teacher.classifier.bias),
        lambda student, teacher: setattr(
            student.classifier.bias, "data", teacher.classifier.bias.data
        ),
    ],
)
def test_models_that_share_memory_are_refused(share: Callable[..., Any]) -> None:
    inputs = {"student": CLASSIFIER, "teacher": CLASSIFIER}
    with pytest.raises(Broken, match="share memory"):
        answer(share, "student, teacher").after("student", **inputs)


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: {"a": [x]}, lambda x: (1.0, {"b": x}), lambda x: {"c": (x,)}]
)
def test_attached_looks_into_containers(wrap: Callable[[Tensor], Any]) -> None:
    def bias(student: Any) -> Any:
        return wrap(student.classifier.bias * 2)

    assert answer(bias).attached(student=CLASSIFIER)
    assert not answer(torch.no_grad()(bias)).attached(student=CLASSIFIER)
    assert not answer(lambda student: wrap(torch.ones(1))).attached(student=CLASSIFIER)


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (lambda student, batches, optimizer: None, []),
        (lambda student, batches, optimizer: student.train(), ["student"]),
        (lambda student, batches, optimizer: student.classifier.bias.data.add_(1), ["student"]),
        (lambda student, batches, optimizer: batches.clear(), ["batches"]),
        (lambda student, batches, optimizer: batches[0].pop("id"), ["batches"]),
        (lambda student, batches, optimizer: batches[0]["input_ids"].add_(1), ["batches"]),
        (lambda student, batches, optimizer: batches[0]["id"].reverse(), ["batches"]),
        (lambda student, batches, optimizer: optimizer.zero_grad(), []),
    ],
)
def test_changed_names_what_changed(spoil: Callable[..., Any], names: list[str]) -> None:
    batches = [{"id": ["a", "b"], **draw_batch(generator(), (2, 1))}]
    inputs = {"student": CLASSIFIER, "batches": batches, "optimizer": Sgd(0.1)}
    assert answer(spoil, "student, batches, optimizer").changed(**inputs) == names


def test_dropout_falls_alike_at_every_call() -> None:
    batch = draw_batch(generator(), (3, 2))
    awake = draw_classifier(generator(), dropout=0.5, training=("",))
    ask = answer(lambda student, batch: student(**batch).logits, "student, batch")
    one, two = (ask(student=awake, batch=batch) for _ in range(2))
    assert torch.equal(one, two)


def test_an_error_inside_is_not_blamed_on_the_first_line() -> None:
    def job(student: Any) -> None:
        student(nonsense=1, input_ids=1, inputs=None, ids=draw_batch(1))  # type: ignore[arg-type, call-arg]

    @torch.no_grad()
    def other(batch: Any) -> None: ...

    for function, blamed in ((job, False), (other, True), (lambda batch: None, True)):
        with pytest.raises(AnswerRaised) as raised:
            answer(function)(student=CLASSIFIER)
        assert raised.value.kind == "TypeError"
        assert ("keep the stub's first line" in raised.value.detail) == blamed


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        (draw_classifier(generator()), "1 layer × 8, 3 classes, in evaluation mode"),
        (draw_classifier(generator(), layers=2, training=("",)), "2 layers × 8"),
        (draw_classifier(generator(), training=("bert.encoder",)), "training mode (bert.encoder)"),
        (Sgd(0.5), "torch.optim.SGD(student.parameters(), lr=0.5)"),
        (ScriptedCall(torch.tensor([0.001, 0.002])), "1, 2 ms"),
    ],
)
def test_what_is_shown_is_short(thing: Any, says: str) -> None:
    assert says in repr(thing) and len(repr(thing)) < 100
