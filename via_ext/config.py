# SPDX-License-Identifier: Apache-2.0
"""`ViaConfig`: every choice a caller has, checked when the object is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from via_ext.tree import Tree

MODES = ("exact", "via")
# Root, backlog and nodes of one full pass fit two 64-bit ancestor words.
MAX_PASS_TOKENS = 128


def _reject(kind: type[Exception], field: str, rule: str, value: object) -> Exception:
    return kind(f"ViaConfig: {field} must {rule}, got {value!r}")


def _int(field: str, value: object, low: int, rule: str) -> None:
    # bool is an int in Python; num_draft_tokens=True is a mistake, not a 1.
    if isinstance(value, bool) or not isinstance(value, int):
        raise _reject(TypeError, field, "be an int", value)
    if value < low:
        raise _reject(ValueError, field, rule, value)


def _number(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _reject(TypeError, field, "be a number", value)
    return float(value)


def _unit(field: str, value: object, *, open_low: bool = False) -> None:
    number = _number(field, value)
    inside = 0.0 < number <= 1.0 if open_low else 0.0 <= number <= 1.0  # false for NaN
    if not inside:
        raise _reject(ValueError, field, f"be in {'(' if open_low else '['}0, 1]", value)


@dataclass(frozen=True)
class ViaConfig:
    """How to draft, verify, sample and stop. Immutable; bad values raise at once.

    Attributes:
        mode: "exact" (the full model's own tokens or distribution) or "via" (lossy three-way
            routing).
        num_draft_tokens: length of the drafted chain, >= 0; ignored when `tree` is set.
        tree: shape of a drafted tree, or None for a chain.
        accept_threshold: ratio from which the slim verifier accepts a node; >= 0, above 1 it
            never accepts.
        escalate_threshold: ratio under which a node goes to the full model; between 0 and
            `accept_threshold`, above 1 every node goes.
        draft_threshold: drafter probability in [0, 1] from which a node is accepted unseen;
            None = off. Refused in exact sampling, where it would bias the law.
        max_backlog: most tokens committed between two full passes, >= 1.
        audit_threshold: in mode "via", the least q(token) / max q in [0, 1] a token must keep
            when the full model audits the backlog; None = no audit. Refused in "exact".
        agreement: use the route's calibrated routing (`SlimRoute.calibration`) instead of the
            thresholds: in mode "via" the share in (0, 1) of tokens that shall be the full model's
            choice (greedy only); in mode "exact" 1.0: the same tokens, drafted and audited as the
            calibration says. None = the paper's thresholds, a fixed draft length.
        auto_tier: leave the slim pass out while the run's own figures say that it loses time. These
            are timings: in mode "via", and for drawn tokens, runs of one seed may then differ.
        temperature: 0 = greedy; finite.
        top_k: keep the k most likely ids, 0 = all.
        top_p: nucleus mass in (0, 1].
        min_p: least probability relative to the most likely id, in [0, 1].
        seed: key of every random stream, in [0, 2**63); None = drawn once, reported in the stats.
        max_new_tokens: most new tokens per request, >= 1.
        min_new_tokens: end of sequence is masked until this many tokens, <= `max_new_tokens`.
        eos_token_id: an id or several that end a request; None = the model's generation_config,
            () = none.
        stop_strings: texts that end a request (needs a tokenizer).

    Raises:
        TypeError: a field has the wrong type.
        ValueError: a field or a combination is outside its rule; the text names it.
    """

    mode: str = "via"
    num_draft_tokens: int = 5
    tree: Tree | None = None
    accept_threshold: float = 0.7
    escalate_threshold: float = 0.5
    draft_threshold: float | None = None
    max_backlog: int = 32
    audit_threshold: float | None = None
    agreement: float | None = None
    auto_tier: bool = False
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    max_new_tokens: int = 128
    min_new_tokens: int = 0
    eos_token_id: int | tuple[int, ...] | None = None
    stop_strings: tuple[str, ...] = ()

    @property
    def num_nodes(self) -> int:
        """Most nodes a step can draft."""
        return self.num_draft_tokens if self.tree is None else self.tree.num_nodes

    @property
    def is_sampling(self) -> bool:
        """True when tokens are drawn, false when greedy."""
        return self.temperature > 0

    def __post_init__(self) -> None:
        """Check every field, then the combinations."""
        if not isinstance(self.mode, str):
            raise _reject(TypeError, "mode", "be a str", self.mode)
        if self.mode not in MODES:
            raise _reject(ValueError, "mode", f"be one of {MODES}", self.mode)
        if self.tree is not None and not isinstance(self.tree, Tree):
            raise _reject(TypeError, "tree", "be a Tree or None", self.tree)
        _int("num_draft_tokens", self.num_draft_tokens, 0, "be at least 0")
        _int("max_backlog", self.max_backlog, 1, "be at least 1")
        self._check_thresholds()
        self._check_sampling()
        self._check_agreement()
        self._check_lengths()
        self._check_stops()
        total = 1 + self.max_backlog + self.num_nodes
        if total > MAX_PASS_TOKENS:
            field = "num_draft_tokens" if self.tree is None else "tree"
            rule = f"satisfy 1 + max_backlog + nodes <= {MAX_PASS_TOKENS}"
            shown = f"1 + {self.max_backlog} + {self.num_nodes} = {total}"
            raise ValueError(f"ViaConfig: {field} must {rule}, got {shown}")

    def _check_thresholds(self) -> None:
        for field in ("accept_threshold", "escalate_threshold"):
            value = getattr(self, field)
            number = _number(field, value)
            if not (math.isfinite(number) and number >= 0):
                raise _reject(ValueError, field, "be finite and at least 0", value)
        if self.escalate_threshold > self.accept_threshold:
            rule = f"be at most accept_threshold = {self.accept_threshold}"
            raise _reject(ValueError, "escalate_threshold", rule, self.escalate_threshold)
        exact = self.mode == "exact"
        if self.draft_threshold is not None:
            _unit("draft_threshold", self.draft_threshold)
            if exact and _number("temperature", self.temperature) > 0:
                rule = "be None in exact sampling (it would bias the distribution)"
                raise _reject(ValueError, "draft_threshold", rule, self.draft_threshold)
        if self.audit_threshold is not None:
            _unit("audit_threshold", self.audit_threshold)
            if exact:
                rule = "be None in mode 'exact' (everything is audited already)"
                raise _reject(ValueError, "audit_threshold", rule, self.audit_threshold)

    def _check_agreement(self) -> None:
        if not isinstance(self.auto_tier, bool):
            raise _reject(TypeError, "auto_tier", "be a bool", self.auto_tier)
        if self.agreement is None:
            return
        value = _number("agreement", self.agreement)
        if self.mode == "exact":
            if value != 1.0:
                raise _reject(ValueError, "agreement", "be 1.0 or None in 'exact'", self.agreement)
            return
        if not 0.0 < value < 1.0:
            raise _reject(ValueError, "agreement", "be in (0, 1)", self.agreement)
        if self.is_sampling:
            rule = "be None when sampling (it is calibrated against greedy choices)"
            raise _reject(ValueError, "agreement", rule, self.agreement)
        for field in ("draft_threshold", "audit_threshold"):
            if getattr(self, field) is not None:
                rule = "be None where agreement is set"
                raise _reject(ValueError, field, rule, getattr(self, field))

    def _check_sampling(self) -> None:
        temperature = _number("temperature", self.temperature)
        if not (math.isfinite(temperature) and temperature >= 0):
            raise _reject(ValueError, "temperature", "be finite and at least 0", self.temperature)
        _int("top_k", self.top_k, 0, "be at least 0")
        _unit("top_p", self.top_p, open_low=True)
        _unit("min_p", self.min_p)
        if self.seed is not None:
            _int("seed", self.seed, 0, "be in [0, 2**63)")
            if self.seed >= 2**63:
                raise _reject(ValueError, "seed", "be in [0, 2**63)", self.seed)

    def _check_lengths(self) -> None:
        _int("max_new_tokens", self.max_new_tokens, 1, "be at least 1")
        _int("min_new_tokens", self.min_new_tokens, 0, "be at least 0")
        if self.min_new_tokens > self.max_new_tokens:
            rule = f"be at most max_new_tokens = {self.max_new_tokens}"
            raise _reject(ValueError, "min_new_tokens", rule, self.min_new_tokens)

    def _check_stops(self) -> None:
        # Lists are welcome; the frozen object keeps tuples so that it stays hashable.
        eos: Any = self.eos_token_id
        if isinstance(eos, list):
            eos = tuple(eos)
            object.__setattr__(self, "eos_token_id", eos)
        if eos is not None:
            for token in eos if isinstance(eos, tuple) else (eos,):
                _int("eos_token_id", token, 0, "be at least 0")
        stops: Any = self.stop_strings
        if isinstance(stops, str):
            stops = (stops,)
        elif isinstance(stops, list):
            stops = tuple(stops)
        if not isinstance(stops, tuple) or not all(isinstance(text, str) for text in stops):
            raise _reject(TypeError, "stop_strings", "be a tuple of str", self.stop_strings)
        if "" in stops:
            raise _reject(ValueError, "stop_strings", "hold no empty string", self.stop_strings)
        object.__setattr__(self, "stop_strings", stops)
