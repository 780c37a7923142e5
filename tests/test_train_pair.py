# SPDX-License-Identifier: Apache-2.0
"""The training of the embedded pair: its network, text, optimiser, checkpoints and files."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch

from via_ext import demo
from via_ext.route import SlimRoute

pytest.importorskip("transformers")
TOOLS = Path(__file__).parents[1] / "tools" / "train_pair"
sys.path.insert(0, str(TOOLS))

import corpus  # noqa: E402
import export  # noqa: E402
import loop  # noqa: E402
import objective  # noqa: E402
from muon import Muon, orthogonal  # noqa: E402
from network import Network, Shape  # noqa: E402
from writing import write  # noqa: E402

SMALL = Shape(12, vocab_size=96, hidden_size=32, intermediate_size=48, num_attention_heads=2)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    small = Network(SMALL, compiled=False)
    for weight in small.layers.parameters():
        weight.data *= 2.0  # else the tied embedding repeats the last token for ever
    return small.requires_grad_(False)


@pytest.fixture(scope="module")
def model(network):
    """The same weights as transformers runs them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**network.shape.hf_config())
    config.dtype = torch.float32
    llama = LlamaForCausalLM(config)
    llama.load_state_dict(network.hf_state(), strict=False)
    llama.tie_weights()
    return llama.train(False)


def _ids(rows, length, seed=1):
    return torch.randint(96, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_network_is_llama(network, model):
    ids = _ids(2, 150)  # more than two blocks of attention, the last one short
    full, _ = objective.both(network, ids)
    torch.testing.assert_close(full.view(2, 150, -1), model(ids).logits, rtol=1e-4, atol=1e-4)


def test_slim_path_is_the_exported_route(network, model):
    from via_ext.models.assistant import slim_view

    route = SlimRoute(*export.trained_route())
    assert route.skip_ratio == 11 / 24 and route.shared_prefix == 4
    assert route.keep_attention[-1] and route.keep_mlp[-1]
    ids = _ids(2, 40)
    _, slim = objective.both(network, ids)
    expected = slim_view(model, route)(ids).logits
    torch.testing.assert_close(slim.view(2, 40, -1), expected, rtol=1e-4, atol=1e-4)


def test_own_text_is_greedy_generation(network, model):
    prompts = _ids(3, 9)
    text = write(network, prompts, 12, 0, torch.Generator())
    expected = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert len(set(expected[:, 9:].flatten().tolist())) > 6
    assert torch.equal(text, expected)
    sampled = write(network, prompts, 12, 1, torch.Generator().manual_seed(3))
    assert torch.equal(sampled[:2], text[:2]) and not torch.equal(sampled[2], text[2])


def test_a_joint_step_moves_only_what_it_should():
    """With `full` = 0 the full model learns nothing from the slim path's logits."""
    torch.manual_seed(1)
    small = Network(SMALL, compiled=False)
    ids, targets = _ids(1, 20), _ids(1, 20, 2).flatten()
    only_full = 2 * 8  # attention of layer 8 is in the full model alone

    def gradient(weights, distil):
        small.zero_grad()
        objective.joint(small, ids, targets, weights, distil).backward()
        return small.layers[only_full // 2].qkv.grad.clone()

    plain = gradient(objective.Weights(slim_text=0.0), False)
    held = gradient(objective.Weights(slim=2.0, full=0.0), True)
    torch.testing.assert_close(held, plain)
    assert not torch.allclose(gradient(objective.Weights(full=0.5), True), plain)


def test_random_routes_keep_first_and_last_layer():
    for step in range(50):
        keep = objective.random_route(loop.chance(0, step), 0.45)
        assert {0, 1, 22, 23} <= set(keep) and len(keep) == 13
    assert objective.random_route(loop.chance(0, 1), 0.45) != objective.random_route(
        loop.chance(0, 2), 0.45
    )


def test_orthogonal_updates():
    for shape in ((4, 32, 32), (2, 96, 32), (1, 16, 48)):
        matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        found = torch.linalg.svdvals(orthogonal(matrices))
        # Five steps bring all but the smallest singular values of a square matrix near 1.
        assert found.max() < 1.3 and found.quantile(0.1) > 0.6
    weight = torch.nn.Parameter(torch.randn(8, 8))
    before = weight.detach().clone()
    muon = Muon([weight])
    muon.step(0.1)
    assert torch.equal(weight, before)  # no gradient, no step, no decay


def test_split_is_by_path_alone():
    held_out = [corpus.is_held_out(f"folder/module{i}.py") for i in range(4000)]
    assert 0.02 < sum(held_out) / len(held_out) < 0.04
    assert all(corpus.is_held_out(prompt.source) for prompt in demo.prompts())


def test_corpus_leaves_out_tables_and_short_files(tmp_path):
    texts = {
        "good.py": "word  \n" * 80,
        "short.py": "word\n" * 20,
        "table.py": "0x12, 345, " * 60,
        "encodings/a.py": "word\n" * 100,
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "latin.py").write_bytes(b"caf\xe9 " * 100)
    found = corpus.sources(tmp_path)
    assert [source.path for source in found] == ["good.py"]
    assert found[0].text == "word\n" * 80


def test_batches_depend_on_seed_rank_and_step():
    tokens = torch.arange(5000, dtype=torch.int32).numpy().astype("uint16")

    def rows(*key, purpose=0):
        seed, rank, step = key
        return loop.Batches(tokens, seed, rank).rows(step, 4, 16, purpose)

    first = rows(0, 0, 0)
    assert torch.equal(first, rows(0, 0, 0)) and (first.diff(dim=1) == 1).all()
    for other in (rows(1, 0, 0), rows(0, 1, 0), rows(0, 0, 1), rows(0, 0, 0, purpose=1)):
        assert not torch.equal(first, other)


def _trainer(folder, seed=0):
    torch.manual_seed(seed)
    small = Network(SMALL, compiled=False)
    return loop.Trainer(small, folder, "small", 6, 0.5, seed)


def _run(trainer, until=None):
    """Trains to the end, or stops with an interruption after `until` steps."""

    def step_loss(step):
        if step == until:
            raise KeyboardInterrupt
        ids = _ids(2, 17, seed=step)
        weights = objective.Weights()
        return objective.joint(
            trainer.network, ids[:, :-1], ids[:, 1:].flatten(), weights, True
        ), 32

    trainer.run(step_loss, lambda: {"full": 1.0}, 2)


def test_an_interrupted_training_goes_on_where_it_was(tmp_path):
    whole, half = tmp_path / "whole", tmp_path / "half"
    expected = _trainer(whole)
    _run(expected)
    with pytest.raises(KeyboardInterrupt):
        _run(_trainer(half), until=5)
    resumed = _trainer(half)
    assert resumed.step == 4 and resumed.tokens == 4 * 32
    _run(resumed)
    for a, b in zip(expected.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(a, b)
    steps = [line.split(",")[0] for line in (half / "small.csv").read_text().splitlines()]
    assert steps == ["step", "2", "4", "6"]
    with pytest.raises(SystemExit, match="seed 0, not 1"):
        _trainer(half, seed=1)


def test_exported_files(tmp_path, network, model):
    (tmp_path / "target").mkdir()
    torch.save({"network": network.state_dict()}, tmp_path / "target.pt")
    (tmp_path / "MODEL_CARD.md").write_text("not data")
    # The exporter writes the pair's own sizes; here the small network's stand in for them.
    big = Network(Shape(1), compiled=False)
    torch.save({"network": big.state_dict()}, tmp_path / "drafter.pt")
    export.write_model(tmp_path / "drafter.pt", 1, tmp_path / "drafter")
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "drafter", dtype=torch.float32)
    ids = _ids(1, 12)
    with torch.no_grad():
        for weight in big.parameters():
            weight.copy_(weight.to(torch.bfloat16).float())
        expected = big.logits(big.run(big.embed(ids), [0, 1]))
        found = loaded(ids).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    (tmp_path / "target.pt").unlink()
    (tmp_path / "drafter.pt").unlink()
    export.write_manifest(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert set(manifest) == {"drafter/config.json", "drafter/model.safetensors"}
    weights = (tmp_path / "drafter" / "model.safetensors").read_bytes()
    assert manifest["drafter/model.safetensors"]["sha256"] == hashlib.sha256(weights).hexdigest()
