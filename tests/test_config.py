# SPDX-License-Identifier: Apache-2.0
"""`ViaConfig`: defaults of the contract, and one line for every way to get a field wrong."""

import dataclasses
import math

import pytest

from via_ext.config import ViaConfig
from via_ext.tree import Tree

DEFAULTS = {
    "mode": "via",
    "num_draft_tokens": 5,
    "tree": None,
    "accept_threshold": 0.7,
    "escalate_threshold": 0.5,
    "draft_threshold": None,
    "max_backlog": 32,
    "audit_threshold": None,
    "agreement": None,
    "auto_tier": False,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "seed": None,
    "max_new_tokens": 128,
    "min_new_tokens": 0,
    "eos_token_id": None,
    "stop_strings": (),
}


def test_defaults_are_the_contract():
    assert dataclasses.asdict(ViaConfig()) == DEFAULTS


def test_frozen_and_hashable():
    config = ViaConfig(tree=Tree.chain(3), eos_token_id=[1, 2], stop_strings=["\n\n"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.mode = "exact"
    assert hash(config) == hash(dataclasses.replace(config))
    assert (config.eos_token_id, config.stop_strings) == ((1, 2), ("\n\n",))
    assert ViaConfig(stop_strings="ab").stop_strings == ("ab",)


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "exact", "temperature": 1},
        {"accept_threshold": 2.0, "escalate_threshold": 2.0},
        {"accept_threshold": 0, "escalate_threshold": 0},
        {"num_draft_tokens": 0},
        {"num_draft_tokens": 95},
        {"max_backlog": 1, "num_draft_tokens": 126},
        {"num_draft_tokens": 500, "tree": Tree.from_widths([4, 2, 1])},
        {"top_p": 1e-9, "min_p": 1.0, "top_k": 10**9},
        {"draft_threshold": 0.9, "audit_threshold": 1.0},
        {"draft_threshold": 0.9, "temperature": 0.7},
        {"draft_threshold": 0.9, "mode": "exact"},
        {"seed": 2**63 - 1, "eos_token_id": ()},
        {"min_new_tokens": 4, "max_new_tokens": 4},
    ],
)
def test_good_values(fields):
    ViaConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"mode": "fast"}, ValueError, "mode must be one of ('exact', 'via'), got 'fast'"),
        ({"mode": 1}, TypeError, "mode must be a str, got 1"),
        ({"num_draft_tokens": -1}, ValueError, "num_draft_tokens must be at least 0, got -1"),
        ({"num_draft_tokens": 2.0}, TypeError, "num_draft_tokens must be an int, got 2.0"),
        ({"num_draft_tokens": True}, TypeError, "num_draft_tokens must be an int, got True"),
        ({"num_draft_tokens": 96}, ValueError, "1 + max_backlog + nodes <= 128"),
        ({"tree": Tree.chain(96)}, ValueError, "tree must satisfy"),
        ({"tree": [4, 2]}, TypeError, "tree must be a Tree or None, got [4, 2]"),
        ({"accept_threshold": -0.1}, ValueError, "accept_threshold must be finite"),
        ({"accept_threshold": math.nan}, ValueError, "accept_threshold must be finite"),
        ({"accept_threshold": "0.7"}, TypeError, "accept_threshold must be a number"),
        ({"escalate_threshold": -0.1}, ValueError, "escalate_threshold must be finite"),
        ({"escalate_threshold": 0.8}, ValueError, "at most accept_threshold = 0.7, got 0.8"),
        ({"draft_threshold": 1.1}, ValueError, "draft_threshold must be in [0, 1], got 1.1"),
        (
            {"mode": "exact", "temperature": 1.0, "draft_threshold": 0.9},
            ValueError,
            "draft_threshold must be None in exact sampling",
        ),
        ({"max_backlog": 0}, ValueError, "max_backlog must be at least 1, got 0"),
        ({"audit_threshold": -1}, ValueError, "audit_threshold must be in [0, 1]"),
        ({"mode": "exact", "audit_threshold": 0.5}, ValueError, "audit_threshold must be None"),
        ({"temperature": -1}, ValueError, "temperature must be finite and at least 0, got -1"),
        ({"temperature": math.nan}, ValueError, "temperature must be finite"),
        ({"temperature": math.inf}, ValueError, "temperature must be finite"),
        ({"temperature": None}, TypeError, "temperature must be a number, got None"),
        ({"top_k": -1}, ValueError, "top_k must be at least 0"),
        ({"top_p": 0.0}, ValueError, "top_p must be in (0, 1], got 0.0"),
        ({"top_p": 1.5}, ValueError, "top_p must be in (0, 1], got 1.5"),
        ({"top_p": math.nan}, ValueError, "top_p must be in (0, 1], got nan"),
        ({"min_p": 1.5}, ValueError, "min_p must be in [0, 1]"),
        ({"seed": -1}, ValueError, "seed must be in [0, 2**63)"),
        ({"seed": 2**63}, ValueError, "seed must be in [0, 2**63)"),
        ({"seed": 0.5}, TypeError, "seed must be an int"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens must be at least 1"),
        ({"min_new_tokens": -1}, ValueError, "min_new_tokens must be at least 0"),
        ({"min_new_tokens": 129}, ValueError, "at most max_new_tokens = 128, got 129"),
        ({"eos_token_id": -1}, ValueError, "eos_token_id must be at least 0"),
        ({"eos_token_id": "</s>"}, TypeError, "eos_token_id must be an int"),
        ({"stop_strings": ("a", "")}, ValueError, "stop_strings must hold no empty string"),
        ({"stop_strings": (1,)}, TypeError, "stop_strings must be a tuple of str"),
    ],
)
def test_bad_values_name_field_rule_and_value(fields, error, words):
    with pytest.raises(error) as caught:
        ViaConfig(**fields)
    assert str(caught.value).startswith("ViaConfig: ")
    assert words in str(caught.value)


def test_derived():
    assert ViaConfig().num_nodes == 5
    assert ViaConfig(tree=Tree.from_widths([2, 2])).num_nodes == 6
    assert not ViaConfig().is_sampling
    assert ViaConfig(temperature=0.5).is_sampling
