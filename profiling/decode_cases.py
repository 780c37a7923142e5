# SPDX-License-Identifier: Apache-2.0
"""Our ways to decode, as methods of bench_decode.py, and how methods are timed in turn."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import decode_overhead
import torch
from bench_cuda import first_line
from decode_baselines import ASSISTED, EAGER, Done, Peer, make_peers
from decode_models import Subject

from via_ext.config import ViaConfig
from via_ext.demo_methods import METHODS, make_decoder, methods_for
from via_ext.demo_table import agreed_tokens

PLAIN = METHODS["greedy"].name
# Passes of a run whose verdicts are the target's own agree with it, but for argmax ties.
EXACT_AGREEMENT = 0.99
Row = dict[str, Any]


class Ours:
    """One of the demo's methods, by `Decoder.generate`.

    Attributes:
        name: of the row.
        ours: True.
        setup_s: 0.
    """

    ours = True
    setup_s = 0.0

    def __init__(self, key: str, subject: Subject, config: ViaConfig) -> None:
        """`key`: of `METHODS`; the configuration gives the rest."""
        method = METHODS[key]
        self.name, self.exact = method.name, method.mode == "exact"
        self._decoder = make_decoder(subject, method, config)

    def run(self, prompt: torch.Tensor) -> torch.Tensor:
        """Generates; waits for the device."""
        result = self._decoder.generate(prompt[None])
        return result.sequences[0, : int(result.lengths[0])]

    def first(self, prompt: torch.Tensor) -> Done:
        """A run with its statistics."""
        before = self._decoder.step_seconds, self._decoder.forward_seconds
        sequence = self.run(prompt)
        stats = self._decoder.stats
        counts = {
            name: getattr(stats, name)
            for name in ("steps", "slim_passes", "full_passes", "examined", "accepted")
        }
        for name in ("accept", "regenerate", "escalate"):
            counts[name] = getattr(stats, f"{name}_rate") * stats.examined
        counts["step_seconds"] = self._decoder.step_seconds - before[0]
        counts["forward_seconds"] = self._decoder.forward_seconds - before[1]
        return Done(sequence, counts)

    def overhead(self, prompt: torch.Tensor) -> dict[str, float]:
        """Columns of decode_overhead, on CUDA; the CPU's engine counts as it runs."""
        if self._decoder._device is None:
            done = self.first(prompt)
            outside = done.counts["step_seconds"] - done.counts["forward_seconds"]
            return {"outside_us": outside / done.counts["steps"] * 1e6}
        return decode_overhead.measure(self._decoder, prompt)


Method = Ours | Peer


class Timed:
    """A method with what is known of it so far.

    Attributes:
        seconds: per repeat, of all prompts.
        note: why there is nothing, or "".
    """

    def __init__(self, method: Method | None, name: str, note: str = "") -> None:
        """Nothing is known yet."""
        self.method, self.name, self.note = method, name, note
        self.seconds: list[float] = []
        self.counts: dict[str, float] = {}
        self.extra: Row = {}
        self.wrong = False
        self.cost = 0.0

    def fail(self, note: str, *, wrong: bool = False) -> None:
        """Takes no further part. `wrong`: it is ours, and had to run."""
        self.note, self.wrong, self.method = note, wrong, None
        self.seconds.clear()

    def again(self) -> Timed:
        """The same, not timed yet."""
        twin = copy.copy(self)
        twin.seconds = []
        return twin


def make_methods(subject: Subject, config: ViaConfig) -> list[Timed]:
    """Ours and transformers', in the order in which they first run: what compiles comes last."""
    found: list[Timed] = []
    for key, method in methods_for(subject).items():
        try:
            found.append(Timed(Ours(key, subject, config), method.name))
        except Exception as error:
            found.append(Timed(None, method.name))
            found[-1].fail(first_line(error), wrong=True)
    for peer in make_peers(subject, config.max_new_tokens, config.num_draft_tokens):
        found.append(Timed(None, *peer) if isinstance(peer, tuple) else Timed(peer, peer.name))
    return found


def rehearse(item: Timed, subject: Subject, left: Callable[[], float]) -> None:
    """First run over all prompts: records graphs, compiles, counts passes, checks the tokens."""
    method = item.method
    if method is None:
        return
    if method.setup_s > left():
        item.fail(f"out of time: needs about {method.setup_s:.0f} s, {left():.0f} s left")
        return
    agreed = tokens = 0
    try:
        for prompt in subject.prompts:
            if tokens and left() < 0:
                item.fail("out of time in its first run over the prompts")
                return
            done = method.first(prompt)
            for name, value in done.counts.items():
                item.counts[name] = item.counts.get(name, 0.0) + value
            new = len(done.sequence) - len(prompt)
            ids = done.sequence.to(subject.target.device)
            agreed, tokens = agreed + agreed_tokens(subject.target, ids, new), tokens + new
        # The first run of all was slower than those to come.
        begin = time.perf_counter()
        method.run(subject.prompts[-1])
        item.cost = (time.perf_counter() - begin) * len(subject.prompts)
        item.extra = method.overhead(subject.prompts[-1]) if isinstance(method, Ours) else {}
    except Exception as error:
        item.fail(first_line(error), wrong=method.ours)
        return
    item.counts |= {"tokens": tokens, "agreement": agreed / tokens}
    if isinstance(method, Ours) and method.exact and agreed < EXACT_AGREEMENT * tokens:
        item.fail(f"wrong tokens: {tokens - agreed} of {tokens} not the target's", wrong=True)


def time_in_turn(
    items: Sequence[Timed], subject: Subject, repeats: int, left: Callable[[], float]
) -> None:
    """Every repeat runs all prompts by all methods, methods in turn, while the time allows it."""
    running = [item for item in items if item.method is not None]
    for _ in range(repeats):
        if sum(item.cost for item in running) > left():
            break
        sums = [0.0] * len(running)
        for prompt in subject.prompts:
            for index, item in enumerate(running):
                begin = time.perf_counter()
                item.method.run(prompt)
                sums[index] += time.perf_counter() - begin
        for item, seconds in zip(running, sums, strict=True):
            item.seconds.append(seconds)
    for item in running:
        if not item.seconds:
            item.fail("out of time before the first timed run")


def run_all(
    items: Sequence[Timed], subject: Subject, repeats: int, left: Callable[[], float]
) -> Iterator[Row]:
    """Every method's row, as soon as it is known.

    What compiles first runs when the others are done, so that a compiler that takes too long costs
    no other row; then it is timed in turn with those that the ratios are taken over.
    """
    quick = [item for item in items if item.method is None or not item.method.setup_s]
    for item in quick:
        rehearse(item, subject, left)
    time_in_turn(quick, subject, repeats, left)
    for item in quick:
        yield summarize(item, quick)
    for item in items:
        if item in quick:
            continue
        rehearse(item, subject, left)
        bases = [other.again() for other in quick if other.name in (PLAIN, EAGER, ASSISTED)]
        if item.method is not None:
            time_in_turn([item, *bases], subject, repeats, left)
        yield summarize(item, bases)


def percentile(values: Sequence[float], share: float) -> float:
    """Linear between the two nearest values."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def ratios(item: Timed, base: Timed | None) -> list[float]:
    """Speed over that of `base`, repeat by repeat."""
    if base is None or not base.seconds:
        return []
    pairs = zip(base.seconds, item.seconds, strict=True)
    return [theirs / own for theirs, own in pairs]


def summarize(item: Timed, items: Sequence[Timed]) -> Row:
    """The columns of one method; without times only its name and the reason."""
    row: Row = {"method": item.name, "repeats": len(item.seconds), "note": item.note}
    if not item.seconds:
        return row
    counts, named = item.counts, {other.name: other for other in items}
    tokens, steps = counts["tokens"], counts["steps"]
    for mark, share in (("", 0.5), ("_p20", 0.2), ("_p80", 0.8)):
        speeds = [tokens / seconds for seconds in item.seconds]
        row[f"tokens_per_second{mark}"] = percentile(speeds, share)
    for column, base in (("ratio", PLAIN), ("over_eager", EAGER), ("over_assisted", ASSISTED)):
        found = ratios(item, named.get(base))
        if found:
            row[column] = statistics.median(found)
        if found and column == "ratio":
            row |= {"ratio_min": min(found), "ratio_max": max(found)}
    row["ms_per_step"] = statistics.median(item.seconds) / steps * 1e3
    row |= {
        "tokens_per_step": tokens / steps,
        "full_per_step": counts["full_passes"] / steps,
        "full_per_token": counts["full_passes"] / tokens,
        "slim_per_token": counts.get("slim_passes", 0.0) / tokens,
        "agreement": counts["agreement"],
    }
    examined = counts.get("examined", 0.0)
    if examined:
        row["rejection"] = 1.0 - counts["accepted"] / examined
        if counts["slim_passes"]:
            row |= {name: counts[name] / examined for name in ("accept", "regenerate", "escalate")}
    if counts.get("forward_seconds"):
        row["overhead"] = 1.0 - counts["forward_seconds"] / counts["step_seconds"]
    return row | item.extra
