# SPDX-License-Identifier: Apache-2.0
"""`TierSwitch`: leaves the slim pass out while a run's own figures say that it loses time.

Both ways of decoding are judged by one number, seconds per confirmed token, equation (37) of
docs/design.md, here with measured sums. Only finished steps are looked at, never a fresh draft: the
choice is made without the tokens, the number or the coins of the children it applies to, so exact
sampling stays exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

#: Steps after which a sample counts half: long enough to average over drafts of 0 to 5 accepted
#: tokens, short enough to forget the text before the last one.
HALF_LIFE = 64
#: Steps of a trial of the other way, and blocks of it at least.
TRIAL_STEPS = 8
MIN_BLOCKS = 3
#: Share of the time that trials may cost, by the estimates of the moment.
TRIAL_SHARE = 0.03
MIN_INTERVAL, MAX_INTERVAL = 32, 512
#: Hysteresis: the other way must be better by this share, and by so many standard errors.
MARGIN, ERRORS = 0.03, 2.0
#: A way that got worse by this share, and by a standard error, has its rival tried at once.
DRIFT = 0.15
#: A block's seconds count at most this often those of the blocks before it: one pause of the
#: machine must not decide, while a lasting change still grows through.
SPIKE = 4.0
#: Steps after which a block ends even if no token of it became safe.
BLOCK_STEPS = 16


class TierChange(NamedTuple):
    """The switch turned the slim tier off or on.

    Attributes:
        step: steps of the run before it.
        slim: True if the slim tier is on from here.
        with_slim: seconds per token with the slim tier, as estimated then.
        without: seconds per token without.
    """

    step: int
    slim: bool
    with_slim: float
    without: float

    def to_dict(self) -> dict[str, int | float | bool]:
        """Every field by name; all values can be written as JSON."""
        return self._asdict()


class RunningCost:
    """Seconds per token of one way of decoding: a ratio of sums that forget.

    Attributes:
        blocks: blocks added so far, whatever their weight is now.
    """

    def __init__(self) -> None:
        """Starts without samples."""
        self.blocks = 0
        self._at = 0
        # Of the weights w, their squares, and w times steps, s, t, s s, s t, t t.
        self._sums = [0.0] * 8

    def add(self, seconds: float, tokens: int, steps: int, at: int) -> None:
        """Adds a block.

        Args:
            seconds: of the block.
            tokens: confirmed in it, over all rows of the batch.
            steps: decoding steps of it.
            at: step number, counted over both ways: what older samples are aged by.
        """
        before = self._sums
        if self.blocks:
            seconds = min(seconds, SPIKE * steps * before[3] / before[2])
        fade = 0.5 ** ((at - self._at) / HALF_LIFE)
        new = (1.0, 1.0, steps, seconds, tokens, seconds**2, seconds * tokens, tokens**2)
        fades = (fade, fade * fade, *[fade] * 6)
        self._sums = [f * old + x for f, old, x in zip(fades, before, new, strict=True)]
        self._at = at
        self.blocks += 1

    @property
    def mean(self) -> float:
        """Seconds per token, inf before the first token."""
        return self._sums[3] / self._sums[4] if self._sums[4] else math.inf

    @property
    def error(self) -> float:
        """Standard error of the mean, inf for fewer than two blocks or no token."""
        weights, squares, _, _, tokens, ss, st, tt = self._sums
        if self.blocks < 2 or not tokens:
            return math.inf
        mean, count = self.mean, weights**2 / squares
        if count <= 1.0:
            return math.inf
        spread = max(0.0, ss - 2.0 * mean * st + mean**2 * tt) / weights
        return math.sqrt(spread / (count - 1.0)) * weights / tokens


@dataclass
class _Block:
    """Steps whose cost and tokens belong together: up to one that made tokens safe."""

    seconds: float = 0.0
    tokens: int = 0
    steps: int = 0


class TierSwitch:
    """Decides before each step of a batch whether the slim pass may run.

    It starts with the slim tier, tries both ways, then stays with the better one and tries the
    other now and then, so that a change is noticed. A way is left only after a fresh trial of the
    other and by a margin. The same timings give the same decisions. Estimates last as long as the
    object: further runs of a decoder start with what the earlier ones found.

    A step that began with a backlog is charged to the slim tier, whether or not it ran a slim pass:
    it pays for tokens that the slim verifier decided.

    Attributes:
        changes: of this run, in order.
    """

    def __init__(self) -> None:
        """Starts with the slim tier and no figures."""
        self.changes: list[TierChange] = []
        self._costs = {True: RunningCost(), False: RunningCost()}
        # The first block of each way pays for what is made once (memory, kernels): not counted.
        self._cold = {True: True, False: True}
        self._side = True  # the way it stays with
        self._trial = False  # now on the other one
        self._at = 0
        self._reference = math.inf
        self._interval = TRIAL_STEPS
        # Not of a run: a trial that a short run cut off goes on in the next one.
        self._phase_steps = self._phase_blocks = 0
        self.start_run()

    def start_run(self) -> None:
        """A new run: no log, no backlog, step 0. Estimates, way and trial stay."""
        self.changes = []
        self._step = 0
        self._escalated = self._slim_steps = 0
        self._backlog = False
        self._block = _Block()

    @property
    def with_slim(self) -> float:
        """Estimated seconds per token with the slim tier, inf before there are any."""
        return self._costs[True].mean

    @property
    def without(self) -> float:
        """Estimated seconds per token without the slim tier, inf before there are any."""
        return self._costs[False].mean

    @property
    def escalation_rate(self) -> float:
        """Rows that ran both passes per step with the slim tier in this run, 0 without any."""
        return self._escalated / self._slim_steps if self._slim_steps else 0.0

    def use_slim(self) -> bool:
        """True if the slim pass may run in the next step; changes nothing."""
        return self._side != self._trial and not self._draining

    def record(self, seconds: float, tokens: int, *, escalated: int = 0, backlog: int = 0) -> None:
        """Tells what a step cost and gave; call it once per step, after it.

        Args:
            seconds: of the whole step, all rows.
            tokens: that became safe from a rollback in this step, over all rows.
            escalated: rows that ran a slim and a full pass.
            backlog: tokens of all unfinished rows, after the step, that the full model has not
                read.
        """
        slim = self.use_slim() or self._backlog
        self._step += 1
        self._at += 1
        self._backlog = backlog > 0
        block = self._block
        # The first step holds the drafter's prefill: it is charged what the second one costs.
        block.seconds += seconds * (block.steps + 1 if self._step == 2 else self._step > 1)
        block.tokens += tokens
        block.steps += 1
        if slim:
            self._slim_steps += 1
            self._escalated += escalated
        if tokens > 0 or not slim or block.steps >= BLOCK_STEPS:
            self._end_block(slim)
        if slim == (self._side != self._trial):
            self._phase_steps += 1
        if self._phase_over():
            self._next_phase()

    @property
    def _draining(self) -> bool:
        """A trial of the slim tier is over but for its backlog."""
        return self._trial and not self._side and self._backlog and self._trial_done

    @property
    def _trial_done(self) -> bool:
        return self._phase_steps >= TRIAL_STEPS and self._phase_blocks >= MIN_BLOCKS - 1

    def _end_block(self, slim: bool) -> None:
        block, self._block = self._block, _Block()
        if self._cold[slim] or not block.seconds:  # of the first step alone nothing is known
            self._cold[slim] = False
            return
        self._costs[slim].add(block.seconds, block.tokens, block.steps, self._at)
        if slim == (self._side != self._trial):
            self._phase_blocks += 1

    def _phase_over(self) -> bool:
        if self._trial:
            return self._phase_steps >= TRIAL_STEPS and self._phase_blocks >= MIN_BLOCKS
        if self._phase_blocks < MIN_BLOCKS:
            return False
        return self._phase_steps >= self._interval or self._drifted()

    def _drifted(self) -> bool:
        cost = self._costs[self._side]
        worse = cost.mean - self._reference
        return worse > DRIFT * self._reference and worse > cost.error

    def _next_phase(self) -> None:
        if self._trial:
            self._judge()
        self._trial = not self._trial
        self._phase_steps = self._phase_blocks = 0

    def _judge(self) -> None:
        """After a trial: changes sides, or stays and sets the time of the next trial."""
        stay, rival = self._costs[self._side], self._costs[not self._side]
        gain = stay.mean - rival.mean
        if gain > MARGIN * stay.mean and gain > ERRORS * math.hypot(stay.error, rival.error):
            self._side = not self._side
            stay, rival = rival, stay
            change = TierChange(self._step, self._side, self.with_slim, self.without)
            self.changes.append(change)
        self._reference = stay.mean
        loss = max(0.0, rival.mean / stay.mean - 1.0) if stay.mean else 0.0
        wanted = TRIAL_STEPS * loss / TRIAL_SHARE if math.isfinite(loss) else MAX_INTERVAL
        self._interval = round(min(MAX_INTERVAL, max(MIN_INTERVAL, wanted)))
