# SPDX-License-Identifier: Apache-2.0
"""Arguments of `evaluate`, checked before any work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from via_ext.evaluation.methods import Method, Subject
from via_ext.evaluation.tasks import TaskPrompt
from via_ext.models.families import check_route, check_supported
from via_ext.prompts import read_prompts
from via_ext.route import SlimRoute


def check_int(name: str, value: object, low: int) -> None:
    """Raises TypeError or ValueError if `value` is no int of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"evaluate: {name} must be an int, got {value!r}")
    if value < low:
        raise ValueError(f"evaluate: {name} must be at least {low}, got {value}")


def check_two_tier(route: SlimRoute | None) -> None:
    """Checks that a route is the calibration of two tiers, if there is one.

    Raises:
        TypeError: it is no route.
        ValueError: it skips sublayers, so that it would decode with three tiers, or it has no
            calibration.
    """
    rule = "be a calibration of two tiers (via-ext calibrate --two-tier)"
    if route is None:
        return
    if not isinstance(route, SlimRoute):
        raise TypeError(f"evaluate: two_tier must {rule}, got {type(route).__name__}")
    if not route.is_full:
        raise ValueError(f"evaluate: two_tier must {rule}, got a route that skips sublayers")
    if route.calibration is None:
        raise ValueError(f"evaluate: two_tier must {rule}, got a route without a calibration")


def check_subject(subject: Subject, methods: Sequence[str | Method] = ()) -> None:
    """Checks the models and that all routes are of the full model.

    Args:
        subject: models and routes.
        methods: may have routes of their own.

    Raises:
        TypeError: a wrong type.
        ValueError: a model that cannot be decoded, a route of another model, or two tiers that
            are none.
    """
    target = subject.target
    with _renamed("Decoder: target", "evaluate: target"):
        check_supported(target)
    if not isinstance(subject.drafter, torch.nn.Module):
        got = type(subject.drafter).__name__
        raise TypeError(f"evaluate: drafter must be a model, got {got}")
    route = subject.route
    if route is not None and not isinstance(route, SlimRoute):
        raise TypeError(f"evaluate: route must be a SlimRoute or None, got {type(route).__name__}")
    check_two_tier(subject.two_tier)
    routes = {"route": route, "two_tier": subject.two_tier}
    routes |= {f"the route of {m.key}": m.route for m in methods if isinstance(m, Method)}
    for name, own in routes.items():
        if own is not None:
            with _renamed("Decoder: route", f"evaluate: {name}"):
                check_route(own, target)


def check_tasks(tasks: Sequence[TaskPrompt], config: Any, max_new_tokens: int) -> None:
    """Checks the prompts.

    Args:
        tasks: the prompts.
        config: the full model's.
        max_new_tokens: must fit the context behind every prompt.

    Raises:
        TypeError: a wrong type.
        ValueError: no prompts, ids of a wrong shape or outside the vocabulary, or no room.
    """
    if isinstance(tasks, str) or not isinstance(tasks, Sequence):
        got = type(tasks).__name__
        raise TypeError(f"evaluate: tasks must be a list of TaskPrompt, got {got}")
    if not tasks:
        raise ValueError("evaluate: tasks must hold at least one prompt, got none")
    for index, task in enumerate(tasks):
        if not isinstance(task, TaskPrompt):
            got = type(task).__name__
            raise TypeError(f"evaluate: tasks[{index}] must be a TaskPrompt, got {got}")
        with _renamed("generate: input_ids[0]", f"evaluate: tasks[{index}].input_ids"):
            read_prompts([task.input_ids], None, config, max_new_tokens)


@contextmanager
def _renamed(theirs: str, ours: str) -> Iterator[None]:
    """Errors about `theirs` become errors about `ours`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace(theirs, ours, 1)) from None
