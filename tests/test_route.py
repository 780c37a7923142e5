# SPDX-License-Identifier: Apache-2.0
"""`SlimRoute`: constructors, arithmetic, file format, and the model fingerprint."""

import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.calibrations import calibrated
from via_ext.calibration import Setting
from via_ext.fingerprint import fingerprint
from via_ext.route import SlimRoute

CONFIG = SimpleNamespace(
    num_hidden_layers=4,
    hidden_size=8,
    intermediate_size=16,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=32,
)


@given(st.integers(4, 100), st.floats(0.0, 0.5))  # four layers leave half of them open
def test_evenly_keeps_prefix_and_last_layer(layers, ratio):
    route = SlimRoute.evenly(layers, ratio)
    assert abs(route.skip_ratio - ratio) <= 0.5 / (2 * layers) + 1e-9
    assert route.num_layers == layers
    assert route.shared_prefix >= layers // 4
    assert route.keep_attention[-1] and route.keep_mlp[-1]
    skipped = [layers - sum(route.keep_attention), layers - sum(route.keep_mlp)]
    assert skipped[1] - skipped[0] in (0, 1)


def test_evenly_by_hand():
    route = SlimRoute.evenly(12)
    assert route.skip_ratio == pytest.approx(11 / 24)
    assert route.shared_prefix == 3
    assert SlimRoute.evenly(12, first_skip=1).shared_prefix == 1
    assert SlimRoute.evenly(8, 0.25, first_skip=2).keep_attention.count(False) == 2
    assert SlimRoute.evenly(12, 0.0) == SlimRoute.full(12)


def test_prefix_and_full():
    route = SlimRoute.prefix(4, 1)
    assert route.keep_attention == route.keep_mlp == (True, False, False, False)
    assert route.skip_ratio == 0.75 and route.shared_prefix == 1 and not route.is_full
    full = SlimRoute.full(3)
    assert full.is_full and full.skip_ratio == 0.0 and full.shared_prefix == 3
    assert SlimRoute.prefix(3, 3) == full


def test_shared_prefix_counts_whole_layers():
    assert SlimRoute((True, True, True), (True, False, True)).shared_prefix == 1
    assert SlimRoute((False, True), (True, True)).shared_prefix == 0


def test_cost_by_hand():
    # attention 2 * 8 * 2 * (4 + 2) = 192, MLP 3 * 8 * 16 = 384, head 8 * 32 = 256
    route = SlimRoute((True, False, True, True), (True, True, False, True))
    assert route.cost(CONFIG) == pytest.approx((3 * 192 + 3 * 384 + 256) / (4 * 576 + 256))
    assert SlimRoute.full(4).cost(CONFIG) == 1.0
    # Skipping an MLP saves more than skipping an attention sublayer.
    keep = (True,) * 4
    less = (True, False, True, True)
    assert SlimRoute(keep, less).cost(CONFIG) < SlimRoute(less, keep).cost(CONFIG)


def test_cost_refuses():
    with pytest.raises(ValueError, match="have 3 layers like the route, got 4"):
        SlimRoute.full(3).cost(CONFIG)
    with pytest.raises(ValueError, match="must have num_hidden_layers"):
        SlimRoute.full(3).cost(SimpleNamespace())


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: SlimRoute((), ()), ValueError, "keep_attention must hold at least one layer"),
        (lambda: SlimRoute((True,), (True, True)), ValueError, "keep_mlp must have 1 entries"),
        (lambda: SlimRoute((True, 1), (True, True)), TypeError, "keep_attention[1] must be a bool"),
        (lambda: SlimRoute(True, (True,)), TypeError, "keep_attention must be a sequence of bool"),
        (lambda: SlimRoute((False,), (False,)), ValueError, "must keep a sublayer"),
        (lambda: SlimRoute((True,), (True,), 3), TypeError, "fingerprint must be a str or None"),
        (lambda: SlimRoute.full(0), ValueError, "num_layers must be at least 1, got 0"),
        (lambda: SlimRoute.prefix(4, 5), ValueError, "depth must be in [1, 4], got 5"),
        (lambda: SlimRoute.evenly(12, 1.0), ValueError, "skip_ratio must be in [0, 1), got 1.0"),
        (lambda: SlimRoute.evenly(12, float("nan")), ValueError, "skip_ratio must be in [0, 1)"),
        (lambda: SlimRoute.evenly(12, 0.9), ValueError, "at most 16 sublayers, got 0.9 (22 of 24"),
        (lambda: SlimRoute.evenly(12, first_skip=13), ValueError, "first_skip must be in [0, 12]"),
        (lambda: SlimRoute.evenly(12.0), TypeError, "num_layers must be an int, got 12.0"),
    ],
)
def test_bad_input(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value).startswith("SlimRoute: ") and words in str(caught.value)


class Model(torch.nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.config = CONFIG
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(20))


def test_save_and_load(tmp_path):
    path = tmp_path / "route.json"
    route = SlimRoute.evenly(12)
    route.save(path)
    assert SlimRoute.load(path) == route
    assert SlimRoute.load(path).fingerprint is None
    model = Model()
    route.save(path, model)
    loaded = SlimRoute.load(path)
    assert loaded == route and loaded.fingerprint == fingerprint(model)
    loaded.save(path)  # without a model the mark stays
    assert SlimRoute.load(path).fingerprint == fingerprint(model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 99}, "version must be 1, got 99"),
        ({"format": "other"}, "format must be 'via_ext.route'"),
        ({"keep_mlp": [True]}, "keep_mlp must have 12 entries"),
        ({"keep_mlp": "x"}, "keep_mlp must be a sequence"),
        ({"keep_mlp": None}, "keep_mlp must be a sequence"),
    ],
)
def test_load_refuses(tmp_path, change, words):
    path = tmp_path / "route.json"
    SlimRoute.evenly(12).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError) as caught:
        SlimRoute.load(path)
    assert words in str(caught.value) and "route.json" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ([3], "calibration must be an object, got [3]"),
        ({"settings": [3]}, "settings must hold objects, got 3"),
        ({"settings": 3}, "int"),
        ({"facts": 3}, "facts must be a dict, got 3"),
        ({"settings": [{}]}, "agreement"),
        ({"settings": [{"agreement": "x"}]}, "agreement must be a number, got 'x'"),
        ({"settings": [{"agreement": 0.9, "accept_error": "x"}]}, "accept_error must be a number"),
        ({"settings": [{"agreement": 0.9, "bonus_error": 1.5}]}, "bonus_error must be at most 1"),
        ({"settings": [{"agreement": 0.9, "interval": [0.1]}]}, "interval must hold 2 numbers"),
    ],
)
def test_load_refuses_a_damaged_calibration(tmp_path, change, words):
    path = tmp_path / "route.json"
    calibrated(SlimRoute.evenly(12), 0.9).save(path)
    assert SlimRoute.load(path).calibration.setting(0.9)
    data = json.loads(path.read_text())
    data["calibration"] = data["calibration"] | change if isinstance(change, dict) else change
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"route\.json must be a route") as caught:
        SlimRoute.load(path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"regenerate_error": float("nan")}, ValueError, "regenerate_error must be at most 1"),
        ({"accept_error": True}, TypeError, "accept_error must be a number, got True"),
        ({"draft_stop": "0"}, TypeError, "draft_stop must be a number, got '0'"),
        ({"full_matches": None}, TypeError, "full_matches must be a number, got None"),
        ({"cost": "x"}, TypeError, "cost must be a number, got 'x'"),
        ({"interval": 0.5}, TypeError, "interval must be a pair of numbers, got 0.5"),
        ({"interval": ("a", "b")}, TypeError, "interval must be a pair of numbers"),
    ],
)
def test_settings_are_checked(options, error, words):
    with pytest.raises(error, match=words):
        Setting(0.9, **options)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "via_ext.route", "version": 1}'])
def test_load_refuses_broken_files(tmp_path, text):
    path = tmp_path / "route.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"route\.json must be a route"):
        SlimRoute.load(path)
    with pytest.raises(FileNotFoundError):
        SlimRoute.load(tmp_path / "none.json")


def test_fingerprint():
    model = Model()
    mark = fingerprint(model)
    assert mark == fingerprint(Model()) and mark.startswith("sha256:")
    assert mark != fingerprint(Model(seed=1))
    model.config = SimpleNamespace(**(vars(CONFIG) | {"vocab_size": 33}))
    assert mark != fingerprint(model)
    assert mark == fingerprint(Model().to(torch.bfloat16))
    with pytest.raises(ValueError, match="must hold its weights, got meta tensors"):
        fingerprint(Model().to("meta"))
