# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show of the device engine's parts: recorded passes equal eager ones."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest
import torch

from tests.conftest import devices
from tests.models import VOCAB_SIZE, random_model
from via_ext import ops
from via_ext.drafters.device import DeviceDrafter
from via_ext.engines.graphs import DecisionWord, GraphRunner
from via_ext.engines.torch import feed
from via_ext.models.attention import tree_arena
from via_ext.models.families import check_supported
from via_ext.models.passes import LayerPass
from via_ext.models.tree_pass import TreePass
from via_ext.models.view import KeptLayer
from via_ext.tree import Tree

pytestmark = pytest.mark.skipif(
    "cuda" not in devices(), reason="needs a GPU and a build with CUDA kernels"
)
FULL = [KeptLayer(index) for index in range(4)]
LENGTHS = (17, 5, 11)
PARENTS = [-1, 0, 1, 1, 2]
DEPTHS = [0, 1, 2, 2, 3]
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
SAMPLED = {"temperature": 0.9, "top_k": 12, "top_p": 0.95, "min_p": 0.0}
SLEEP_CYCLES = 200_000_000  # about 0.1 s: longer than the host needs for what follows


@pytest.fixture(autouse=True)
def _inference():
    # TF32 would hide a wrong result among its own errors.
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.inference_mode():
        yield
    torch.backends.cuda.matmul.allow_tf32 = before


class StaticPass:
    """A tree pass over static tensors, on one device."""

    def __init__(self, model, device):
        self.model = model.to(device)
        self.part = TreePass(self.model, FULL, capture_after=2)
        self.arena = tree_arena(self.model, 3, 48)
        self.ids = torch.zeros(3, len(PARENTS), dtype=torch.int64, device=device)
        self.starts = torch.tensor(LENGTHS, dtype=torch.int32, device=device)
        self.counts = torch.tensor([5, 3, 0], dtype=torch.int32, device=device)
        self.parents = torch.tensor(PARENTS, dtype=torch.int32, device=device)
        self.depths = torch.tensor(DEPTHS, device=device)
        self.logits = torch.zeros(3, len(PARENTS), VOCAB_SIZE, device=device)
        self.hidden = torch.zeros(3, len(PARENTS), model.config.hidden_size, device=device)

    def prefill(self, prompts):
        feed(LayerPass(self.model, FULL), self.arena, [0, 1, 2], prompts)

    def body(self):
        logits = self.part(
            self.arena,
            token_ids=self.ids,
            context_lens=self.starts,
            depths=self.depths,
            parents=self.parents,
            num_tokens=self.counts,
        )
        self.logits.copy_(logits)
        self.hidden.copy_(self.part.hidden)
        # A body may change its own inputs: every run must do so once.
        self.starts += self.counts


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_a_recorded_pass_equals_the_cpu(family):
    """Prefill on the device, then a run that records and runs that replay."""
    prompts = [torch.randint(VOCAB_SIZE, (n,)).tolist() for n in LENGTHS]
    gpu, cpu = (StaticPass(random_model(family), device) for device in ("cuda", "cpu"))
    runner = GraphRunner("cuda")
    for static in (gpu, cpu):
        static.prefill(prompts)
    for _ in range(3):
        ids = torch.randint(VOCAB_SIZE, (3, len(PARENTS)))
        for static in (gpu, cpu):
            static.ids.copy_(ids)
        runner.run("pass", gpu.body)
        cpu.body()
        for row, count in enumerate(cpu.counts.tolist()):
            for found, wanted in ((gpu.logits, cpu.logits), (gpu.hidden, cpu.hidden)):
                torch.testing.assert_close(found[row, :count].cpu(), wanted[row, :count], **CLOSE)
        assert gpu.starts.tolist() == cpu.starts.tolist()
        for found, wanted in zip(gpu.arena.tensors, cpu.arena.tensors, strict=True):
            torch.testing.assert_close(found.cpu(), wanted, **CLOSE)
    assert (runner.captures, runner.replays, runner.direct) == (1, 2, 1)


@pytest.mark.parametrize("tree", [Tree.chain(4), Tree.from_widths([3, 2])], ids=["chain", "tree"])
def test_a_recorded_proposal_equals_an_eager_one(tree):
    model = random_model("llama").cuda()
    prompts = torch.randint(VOCAB_SIZE, (3, max(LENGTHS)), device="cuda")
    eager, recorded = (
        DeviceDrafter(model, tree, 3, 100, filters=SAMPLED, graphs=GraphRunner("cuda", enabled=on))
        for on in (False, True)
    )
    for drafter in (eager, recorded):
        drafter.prefill(prompts, torch.tensor(LENGTHS, device="cuda"))
    seed = torch.arange(3, device="cuda")
    for step in range(6):
        position = torch.full((3,), step, device="cuda")
        wanted, wanted_probs = eager.propose(seed, position)
        found, probs = recorded.propose(seed, position)
        assert torch.equal(found, wanted)
        if probs is not None:
            torch.testing.assert_close(probs, wanted_probs, **CLOSE)
        tokens = torch.cat([wanted[:, :2], torch.randint(VOCAB_SIZE, (3, 1), device="cuda")], 1)
        counts = torch.tensor([3, 1, 2], device="cuda")
        for drafter in (eager, recorded):
            drafter.commit(tokens, counts)
            if step == 3:
                drafter.rollback(drafter.lengths - 2)


def test_no_synchronisation():
    """Torch raises for anything of its own that would wait for the device."""
    static = StaticPass(random_model("llama"), "cuda")
    static.prefill([[1] * n for n in LENGTHS])
    drafter = DeviceDrafter(static.model, Tree.chain(3), 3, 64, filters=SAMPLED)
    keys = torch.zeros(3, dtype=torch.int64, device="cuda")
    drafter.prefill(keys[:, None], keys + 1)
    static.body()  # libraries set themselves up
    drafter.draft(keys, keys)
    torch.cuda.set_sync_debug_mode("error")
    try:
        static.body()
        drafter.draft(keys, keys)
        drafter.commit(drafter.token_ids, keys + 2)
        drafter.rollback(keys + 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_runs_follow_the_current_stream():
    """What was queued before a run is read, by the run that records and by those that replay."""
    source, target = (torch.zeros((), dtype=torch.int64, device="cuda") for _ in range(2))
    results = torch.zeros(4, dtype=torch.int64, device="cuda")
    runner, stream = GraphRunner("cuda"), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for number in range(4):
            torch.cuda._sleep(SLEEP_CYCLES // 10)
            source.fill_(number + 1)
            runner.run("copy", lambda: target.copy_(source))
            results[number].copy_(target)
    assert torch.cuda.current_stream() != stream
    stream.synchronize()
    assert results.tolist() == [1, 2, 3, 4] and (runner.captures, runner.replays) == (1, 3)


UNRECORDABLE = """
import torch
from via_ext.engines.graphs import GraphRunner

total = torch.zeros((), device="cuda")

def body():
    total.add_(1)
    total.item()

stream = torch.cuda.current_stream()
try:
    GraphRunner("cuda").run("bad", body)
except RuntimeError as error:
    assert "GraphRunner: key 'bad' could not be recorded" in str(error)
else:
    raise AssertionError("recorded")
assert torch.cuda.current_stream() == stream and total.item() == 1
runner = GraphRunner("cuda", fallback=True)
for number in (2, 3):
    runner.run("bad", body)
    assert total.item() == number
runner.run("good", lambda: total.add_(1))
runner.run("good", lambda: total.add_(100))
assert total.item() == 5 and list(runner.failed) == ["bad"]
"""


def test_what_cannot_be_recorded():
    """In a process of its own: torch may keep traces of a recording that failed."""
    run = [sys.executable, "-c", UNRECORDABLE]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_graphs_outlive_the_engine():
    runner = GraphRunner("cuda")
    static = StaticPass(random_model("llama"), "cuda")
    static.prefill([[1] * n for n in LENGTHS])
    runner.run("pass", static.body)
    starts, logits = static.starts, static.logits
    del static
    gc.collect()
    noise = [torch.full((64, 1024), float("nan"), device="cuda") for _ in range(32)]
    runner.run("pass", lambda: None)
    assert starts.tolist() == [n + 2 * c for n, c in zip(LENGTHS, (5, 3, 0), strict=True)]
    assert logits.isfinite().all()
    runner.close()
    del noise


def test_decision_word_waits_for_its_copy_only():
    source = torch.zeros(2, dtype=torch.int32, device="cuda")
    word = DecisionWord(source)
    torch.cuda._sleep(SLEEP_CYCLES)
    source += 5
    word.send()
    source += 1
    late = torch.cuda.Event()
    torch.cuda._sleep(10 * SLEEP_CYCLES)
    late.record()
    assert word.wait().tolist() == [5, 5] and not late.query()
    word.send()
    assert word.wait().tolist() == [6, 6]


def test_a_model_on_two_devices_is_refused():
    model = random_model("llama").cuda()
    check_supported(model)
    model.model.layers[2].cpu()
    with pytest.raises(ValueError, match=r"must be on one device, got model\.layers\.2"):
        check_supported(model)


def test_verify_reads_a_recorded_pass():
    """Pass and verify in one recording: the step that an engine makes of them."""
    static = StaticPass(random_model("llama"), "cuda")
    static.prefill([[1] * n for n in LENGTHS])
    result = ops.verify(static.ids[:, 1:], static.logits, rule="greedy")

    def body():
        static.body()
        ops.verify(static.ids[:, 1:], static.logits, rule="greedy", out=result)

    runner = GraphRunner("cuda")
    for _ in range(3):
        static.ids.random_(0, VOCAB_SIZE)
        runner.run("step", body)
        wanted = ops.verify(static.ids[:, 1:], static.logits, rule="greedy")
        assert torch.equal(result.next_token, wanted.next_token)
        assert torch.equal(result.num_accepted, wanted.num_accepted)
