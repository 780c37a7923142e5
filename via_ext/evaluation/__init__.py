# SPDX-License-Identifier: Apache-2.0
"""Evaluation: ways to decode side by side on the same prompts, with speed, cost and agreement."""

from via_ext.evaluation.ablation import ABLATIONS, ablation_methods
from via_ext.evaluation.compare import Evaluation, evaluate
from via_ext.evaluation.library import built_in_tasks
from via_ext.evaluation.methods import METHODS, Method
from via_ext.evaluation.tasks import TaskPrompt, TaskText, encode_tasks, read_jsonl

__all__ = [
    "ABLATIONS",
    "METHODS",
    "Evaluation",
    "Method",
    "TaskPrompt",
    "TaskText",
    "ablation_methods",
    "built_in_tasks",
    "encode_tasks",
    "evaluate",
    "read_jsonl",
]
