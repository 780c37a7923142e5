# SPDX-License-Identifier: Apache-2.0
"""`SlimRoute`: which attention and MLP sublayers the slim verifier keeps, and its file format."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from via_ext.calibration import Calibration
from via_ext.fingerprint import fingerprint

FORMAT = "via_ext.route"
VERSION = 1


def _mask(name: str, values: object) -> tuple[bool, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"SlimRoute: {name} must be a sequence of bool, got {values!r}")
    items = tuple(values)
    for layer, item in enumerate(items):
        if not isinstance(item, bool):
            raise TypeError(f"SlimRoute: {name}[{layer}] must be a bool, got {item!r}")
    return items


def _layers(name: str, value: object, low: int, high: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"SlimRoute: {name} must be an int, got {value!r}")
    if value < low or (high is not None and value > high):
        rule = f"be at least {low}" if high is None else f"be in [{low}, {high}]"
        raise ValueError(f"SlimRoute: {name} must {rule}, got {value}")
    return value


@dataclass(frozen=True)
class SlimRoute:
    """The sublayers that a slim pass runs; the others are skipped (their output is zero).

    Attributes:
        keep_attention: one bool per layer.
        keep_mlp: one bool per layer, as many.
        fingerprint: of the model the route was made for, or None for any model. Not compared.
        calibration: what `calibrate` learned for this route, None before. Not compared.
        facts: how the route was found (objective, criterion, cost), for people. Not compared.

    Raises:
        TypeError: a mask is not a sequence of bool.
        ValueError: the masks are empty, differ in length, or keep nothing.
    """

    keep_attention: tuple[bool, ...]
    keep_mlp: tuple[bool, ...]
    fingerprint: str | None = field(default=None, compare=False)
    calibration: Calibration | None = field(default=None, compare=False)
    facts: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Check both masks."""
        attention = _mask("keep_attention", self.keep_attention)
        mlp = _mask("keep_mlp", self.keep_mlp)
        if not attention:
            raise ValueError("SlimRoute: keep_attention must hold at least one layer, got ()")
        if len(mlp) != len(attention):
            rule = f"have {len(attention)} entries like keep_attention"
            raise ValueError(f"SlimRoute: keep_mlp must {rule}, got {len(mlp)}")
        if not any(attention) and not any(mlp):
            raise ValueError(
                "SlimRoute: keep_attention must keep a sublayer, or keep_mlp, got none"
            )
        mark = self.fingerprint
        if mark is not None and not isinstance(mark, str):
            raise TypeError(f"SlimRoute: fingerprint must be a str or None, got {mark!r}")
        object.__setattr__(self, "keep_attention", attention)
        object.__setattr__(self, "keep_mlp", mlp)

    @classmethod
    def full(cls, num_layers: int) -> SlimRoute:
        """The route that skips nothing."""
        keep = (True,) * _layers("num_layers", num_layers, 1)
        return cls(keep, keep)

    @classmethod
    def prefix(cls, num_layers: int, depth: int) -> SlimRoute:
        """The first `depth` layers and nothing else (an early exit)."""
        count = _layers("num_layers", num_layers, 1)
        _layers("depth", depth, 1, count)
        keep = tuple(layer < depth for layer in range(count))
        return cls(keep, keep)

    @classmethod
    def evenly(
        cls, num_layers: int, skip_ratio: float = 0.45, first_skip: int | None = None
    ) -> SlimRoute:
        """A route without a search: skipped sublayers spread evenly, half of them attention.

        Args:
            num_layers: layers of the model.
            skip_ratio: share of the 2 * num_layers sublayers to skip, rounded.
            first_skip: the first layer that may lose a sublayer; those before it are the shared
                prefix. Default num_layers // 4 (0 under four layers). The last layer is kept.

        Raises:
            ValueError: there are fewer sublayers to skip than the ratio asks for.
        """
        count = _layers("num_layers", num_layers, 1)
        first = count // 4 if first_skip is None else _layers("first_skip", first_skip, 0, count)
        if isinstance(skip_ratio, bool) or not isinstance(skip_ratio, int | float):
            raise TypeError(f"SlimRoute: skip_ratio must be a number, got {skip_ratio!r}")
        if not 0.0 <= skip_ratio < 1.0:
            raise ValueError(f"SlimRoute: skip_ratio must be in [0, 1), got {skip_ratio}")
        skips = int(2 * count * skip_ratio + 0.5)
        open_layers = max(0, count - 1 - first)
        if skips > 2 * open_layers:
            rule = f"leave layers 0..{first - 1} and the last whole: at most {2 * open_layers}"
            got = f"{skip_ratio} ({skips} of {2 * count} sublayers)"
            raise ValueError(f"SlimRoute: skip_ratio must {rule} sublayers, got {got}")

        def spread(number: int) -> tuple[bool, ...]:
            gone = {first + (2 * i + 1) * open_layers // (2 * number) for i in range(number)}
            return tuple(layer not in gone for layer in range(count))

        # An odd count takes one more MLP: it holds more bytes than an attention sublayer.
        return cls(spread(skips // 2), spread(skips - skips // 2))

    @property
    def num_layers(self) -> int:
        """Layers of the model the route is for."""
        return len(self.keep_attention)

    @property
    def is_full(self) -> bool:
        """True if nothing is skipped: no slim pass then."""
        return all(self.keep_attention) and all(self.keep_mlp)

    @property
    def skip_ratio(self) -> float:
        """Skipped sublayers over 2 * num_layers."""
        kept = sum(self.keep_attention) + sum(self.keep_mlp)
        return (2 * self.num_layers - kept) / (2 * self.num_layers)

    @property
    def shared_prefix(self) -> int:
        """Number of leading layers kept whole: there slim and full compute the same values."""
        for layer, pair in enumerate(zip(self.keep_attention, self.keep_mlp, strict=True)):
            if not all(pair):
                return layer
        return self.num_layers

    def cost(self, model_config: Any) -> float:
        """Weight bytes that a slim pass reads over those of a full pass, in (0, 1].

        Counted for a Hugging Face config of a llama-like model, all weights of one dtype: the
        query, key, value and output projections of kept attention; gate, up and down of kept
        MLPs; the LM head, in both. Not counted: embedding rows, norms, biases, the KV cache.

        Raises:
            ValueError: the layer count differs, or a size is missing from the config.
        """
        text = getattr(model_config, "get_text_config", lambda: model_config)()
        layers, hidden = _size(text, "num_hidden_layers"), _size(text, "hidden_size")
        if layers != self.num_layers:
            rule = f"have {self.num_layers} layers like the route"
            raise ValueError(f"SlimRoute.cost: model_config must {rule}, got {layers}")
        heads = _size(text, "num_attention_heads")
        kv_heads = getattr(text, "num_key_value_heads", None) or heads
        head_dim = getattr(text, "head_dim", None) or hidden // heads
        attention = 2 * hidden * head_dim * (heads + kv_heads)
        mlp = 3 * hidden * _size(text, "intermediate_size")
        head = hidden * _size(text, "vocab_size")
        slim = attention * sum(self.keep_attention) + mlp * sum(self.keep_mlp) + head
        return slim / ((attention + mlp) * layers + head)

    def save(self, path: str | os.PathLike[str], model: torch.nn.Module | None = None) -> None:
        """Write the route as JSON.

        Args:
            path: file to write.
            model: its `fingerprint` is stored and a `Decoder` refuses other models; without it
                the route's own is kept.
        """
        data: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        data["keep_attention"], data["keep_mlp"] = self.keep_attention, self.keep_mlp
        data["fingerprint"] = self.fingerprint if model is None else fingerprint(model)
        if self.facts:
            data["facts"] = self.facts
        if self.calibration is not None:
            data["calibration"] = self.calibration.to_dict()
        Path(path).write_text(json.dumps(data) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SlimRoute:
        """Read a route that `save` wrote.

        Raises:
            FileNotFoundError, ValueError: no such file, or not a route; the text names it.
        """
        text = Path(path).read_text(encoding="utf-8")
        try:
            data = json.loads(text)
            if not isinstance(data, dict) or data.get("format") != FORMAT:
                raise ValueError(f"format must be {FORMAT!r}")
            if data.get("version") != VERSION:
                raise ValueError(f"version must be {VERSION}, got {data.get('version')!r}")
            stored = data.get("calibration")
            calibration = None if stored is None else Calibration.from_dict(stored)
            masks = data["keep_attention"], data["keep_mlp"]
            return cls(*masks, data.get("fingerprint"), calibration, data.get("facts", {}))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"SlimRoute.load: {os.fspath(path)} must be a route: {error}"
            ) from error


def _size(config: Any, name: str) -> int:
    value = getattr(config, name, None)
    if not isinstance(value, int):
        raise ValueError(f"SlimRoute.cost: model_config must have {name}, got {value!r}")
    return value
