# SPDX-License-Identifier: Apache-2.0
"""The embedded pair: complete, small, unchanged, and clear about what is wrong when it is not."""

import hashlib
import json
import shutil
import stat
import subprocess
import sys

import pytest
import torch

from tests.models import greedy
from via_ext import demo
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.fingerprint import fingerprint
from via_ext.tree import Tree

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def pair():
    return demo.load()


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(demo.FOLDER, tmp_path / "demo")
    return tmp_path / "demo"


def test_what_is_loaded(pair):
    target, drafter, tokenizer, route = pair
    for model, layers in ((target, 12), (drafter, 1)):
        assert model.config.num_hidden_layers == layers
        assert not model.training
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 0
    assert tokenizer.eos_token == "<|end|>"
    assert route.num_layers == 12 and route.fingerprint == fingerprint(target)


def test_one_tokenizer_for_both(pair):
    assert len(list(demo.FOLDER.rglob("tokenizer.json"))) == 1
    assert pair.target.config.vocab_size == pair.drafter.config.vocab_size == 1024
    assert len(pair.tokenizer) == 1024


def test_same_weights_as_transformers_loads(pair):
    from transformers import AutoModelForCausalLM

    other = AutoModelForCausalLM.from_pretrained(demo.FOLDER / "target", dtype=torch.float32)
    ids = torch.arange(20)[None]
    assert torch.equal(other(ids).logits, pair.target(ids).logits)


def test_route_rules(pair):
    route = pair.route
    assert route.skip_ratio == 11 / 24 and route.shared_prefix == 4
    assert route.keep_attention[-1] and route.keep_mlp[-1]
    assert 0.5 < route.cost(pair.target.config) < 0.6


def test_two_tier_route_is_a_calibration_of_this_pair(pair):
    route = demo.two_tier_route()
    assert route.is_full and route.fingerprint == fingerprint(pair.target)
    assert route.calibration.facts["drafter"] == fingerprint(pair.drafter)
    asked = [setting.agreement for setting in route.calibration.settings]
    assert asked == [1.0, 0.99, 0.95, 0.9]


def test_the_pair_predicts_python(pair):
    """Held-out cross entropy far below chance: the weights are the trained ones."""
    losses = []
    with torch.inference_mode():
        for prompt in demo.prompts():
            ids = torch.tensor([pair.tokenizer.encode(prompt.text)])
            losses.append(float(pair.target(ids, labels=ids).loss))
    assert sum(losses) / len(losses) < 3.2  # chance is 6.9


def test_prompts_are_held_out_and_readable(pair):
    prompts = demo.prompts()
    assert 8 <= len(prompts) <= 12 and len({prompt.source for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        assert int(hashlib.sha256(prompt.source.encode()).hexdigest(), 16) % 100 < 3
        ids = pair.tokenizer.encode(prompt.text)
        assert 118 <= len(ids) <= 136
        assert pair.tokenizer.decode(ids) == prompt.text


def test_files():
    manifest = json.loads((demo.FOLDER / "manifest.json").read_text())
    files = [path for path in demo.FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    data = {path.relative_to(demo.FOLDER).as_posix() for path in files}
    named = {"manifest.json", "MODEL_CARD.md", "LICENSE-PYTHON.txt", "__init__.py"}
    assert set(manifest) == data - named
    assert sum(path.stat().st_size for path in files) <= 6_000_000
    assert all(path.stat().st_mode & stat.S_IROTH for path in files)
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in (demo.FOLDER / "LICENSE-PYTHON.txt").read_text()


NEW = 48


@pytest.fixture(scope="module")
def generated(pair):
    """Prompts of different lengths and what transformers' own greedy generate makes of them."""
    ids = [pair.tokenizer.encode(prompt.text) for prompt in demo.prompts()[:3]]
    ids[1], ids[2] = ids[1][:40], ids[2][:77]
    return [(torch.tensor(prompt), greedy(pair.target, prompt, NEW)) for prompt in ids]


@pytest.mark.parametrize("count", [1, 3], ids=["one", "ragged"])
@pytest.mark.parametrize("max_backlog", [None, 4, 32], ids=["two-tier", "slim-4", "slim-32"])
@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_greedy_exact_equals_generate(pair, generated, shape, max_backlog, count):
    tree = {"chain": Tree.chain(5), "tree": Tree.from_widths([3, 2, 1])}[shape]
    config = ViaConfig(mode="exact", tree=tree, max_new_tokens=NEW, max_backlog=max_backlog or 32)
    route = None if max_backlog is None else pair.route
    prompts, expected = zip(*generated[:count], strict=True)
    result = Decoder(pair.target, pair.drafter, route, config).generate(list(prompts))
    for row in range(count):
        assert result.sequences[row, : result.lengths[row]].tolist() == expected[row]
    assert result.status.tolist() == [0] * count
    # Drafts were taken and drafts were refused: equality is not that of plain decoding.
    assert 0 < result.stats.accepted < result.stats.examined
    assert (result.stats.slim_passes > 0) == (route is not None)


@pytest.mark.parametrize("name", ["target/model.safetensors", "tokenizer.json", "route.json"])
def test_truncated_file(copy, name):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=rf"{name} must have {len(data)} bytes, got"):
        demo.load(copy)


def test_changed_file(copy):
    path = copy / "drafter" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"drafter/model\.safetensors must have SHA-256"):
        demo.load(copy)


def test_missing_file(copy):
    (copy / "drafter" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"drafter/config\.json must exist") as caught:
        demo.load(copy)
    assert isinstance(caught.value, ValueError)


def test_without_transformers():
    """The extra is named, and nothing else is needed to get that far."""
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from via_ext import demo\n"
        "try: demo.load()\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert 'pip install "via_ext[hf]"' in done.stdout
