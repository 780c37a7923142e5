# SPDX-License-Identifier: Apache-2.0
"""Ends of requests, streaming and the shape of results."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models import VOCAB_SIZE, greedy, random_model
from via_ext.config import ViaConfig
from via_ext.decode import Decoder
from via_ext.drafters.model import ModelDrafter
from via_ext.engines.request import Request, StopRules
from via_ext.generation import generate
from via_ext.route import SlimRoute
from via_ext.tree import Tree

NEW = 24
ROUTE = SlimRoute((True, False, True, True), (True, True, False, True))
MODES = {
    "exact": {"mode": "exact", "max_backlog": 4},
    "via": {"mode": "via"},
    "audit": {"mode": "via", "audit_threshold": 0.5, "max_backlog": 6},
    "sampling": {"mode": "exact", "max_backlog": 4, "temperature": 1.0, "seed": 5},
    "tree": {"mode": "via", "tree": Tree.from_widths([2, 2, 1])},
}


def _models() -> tuple[Any, ModelDrafter]:
    return random_model("llama"), ModelDrafter(random_model("llama", num_layers=2))


def _prompt(length: int = 9, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB_SIZE, (length,), generator=generator)


class LetterTokenizer:
    """One letter per token, so that texts and tokens map one to one."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(chr(0x100 + token) for token in ids)


@pytest.mark.parametrize("mode", MODES)
def test_stream_is_generate_in_pieces(mode: str) -> None:
    """Each token once and in order, although some were provisional in between."""
    model, drafter = _models()
    decoder = Decoder(model, drafter, ROUTE, ViaConfig(max_new_tokens=NEW, **MODES[mode]))
    prompts = [_prompt(9), _prompt(4, seed=1)]
    result = decoder.generate(prompts)
    tokens: list[list[int]] = [[], []]
    tiers: list[list[int]] = [[], []]
    logprobs: list[list[float]] = [[], []]
    for output in decoder.stream(prompts):
        for row in range(2):
            tokens[row] += output.tokens[row]
            tiers[row] += output.tiers[row]
            logprobs[row] += output.logprobs[row]
    assert output.finished == [True, True]
    for row, prompt in enumerate(prompts):
        count = int(result.lengths[row]) - len(prompt)
        assert tokens[row] == result.sequences[row, len(prompt) : result.lengths[row]].tolist()
        assert tiers[row] == result.tiers[row, :count].tolist()
        assert logprobs[row] == pytest.approx(result.logprobs[row, :count].tolist(), abs=1e-6)


@pytest.mark.parametrize("route", [None, ROUTE], ids=["two-tier", "slim"])
@pytest.mark.parametrize("position", range(6))
def test_eos_ends_where_generate_ends(position: int, route: SlimRoute | None) -> None:
    model, drafter = _models()
    eos = greedy(model, _prompt().tolist(), NEW)[9 + position]
    expected = greedy(model, _prompt().tolist(), NEW, eos_token_id=eos)
    config = ViaConfig(mode="exact", max_new_tokens=NEW, eos_token_id=eos, max_backlog=5)
    result = Decoder(model, drafter, route, config).generate(_prompt())
    assert result.sequences[0, : result.lengths[0]].tolist() == expected
    assert result.sequences.shape == (1, 9 + NEW)
    assert set(result.sequences[0, result.lengths[0] :].tolist()) <= {eos}
    assert result.tiers[0, result.lengths[0] - 9 :].tolist() == [255] * (
        9 + NEW - int(result.lengths[0])
    )


@pytest.mark.parametrize("mode", MODES)
def test_eos_ends_every_mode(mode: str) -> None:
    model, drafter = _models()
    prompts = [_prompt(9), _prompt(5, 1), _prompt(7, 2)]
    plain = Decoder(
        model, drafter, ROUTE, ViaConfig(max_new_tokens=NEW, eos_token_id=(), **MODES[mode])
    ).generate(prompts)
    # Ids that are known to come up some tokens into each row.
    eos = tuple(int(plain.sequences[row, len(prompt) + 6]) for row, prompt in enumerate(prompts))
    config = ViaConfig(max_new_tokens=NEW, eos_token_id=eos, **MODES[mode])
    result = Decoder(model, drafter, ROUTE, config).generate(prompts)
    ended = 0
    for row, prompt in enumerate(prompts):
        new = result.sequences[row, len(prompt) : result.lengths[row]].tolist()
        assert not any(token in eos for token in new[:-1])
        assert new[-1] in eos or len(new) == NEW
        ended += new[-1] in eos
    assert ended == 3 or "temperature" in MODES[mode]


@pytest.mark.parametrize("route", [None, ROUTE], ids=["two-tier", "slim"])
@pytest.mark.parametrize("mode", MODES)
def test_min_new_tokens_holds_eos_back(mode: str, route: SlimRoute | None) -> None:
    model, drafter = _models()
    eos = tuple(range(0, VOCAB_SIZE, 3))
    options = dict(MODES[mode])
    config = ViaConfig(max_new_tokens=NEW, min_new_tokens=10, eos_token_id=eos, **options)
    result = Decoder(model, drafter, route, config).generate(_prompt())
    new = result.sequences[0, 9 : result.lengths[0]].tolist()
    assert len(new) > 10
    assert not any(token in eos for token in new[:10])
    if options["mode"] == "exact" and "temperature" not in options:
        expected = greedy(model, _prompt().tolist(), NEW, min_new_tokens=10, eos_token_id=list(eos))
        assert new == expected[9:]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("new", [1, 2, 7])
def test_max_new_tokens_is_exact(mode: str, new: int) -> None:
    model, drafter = _models()
    config = ViaConfig(max_new_tokens=new, eos_token_id=(), **MODES[mode])
    result = Decoder(model, drafter, ROUTE, config).generate([_prompt(9), _prompt(1, 1)])
    assert result.lengths.tolist() == [9 + new, 1 + new]
    assert result.stats.tokens == 2 * new


@pytest.mark.parametrize("start", range(3))
@pytest.mark.parametrize("length", [1, 2, 5])
def test_stop_string_across_steps(start: int, length: int) -> None:
    """The request ends with the token that completes the text, wherever steps were cut."""
    model, drafter = _models()
    plain = greedy(model, _prompt().tolist(), NEW)
    text = LetterTokenizer().decode(plain)
    stop = text[9 + start : 9 + start + length]
    # The text may occur earlier; a match may begin in the prompt but must end behind it.
    end = next(i for i in range(10, len(text) + 1) if text[:i].endswith(stop))
    for mode in ("exact", "audit"):
        config = ViaConfig(
            max_new_tokens=NEW,
            stop_strings=(stop, "never"),
            eos_token_id=(),
            **(MODES[mode] | ({"audit_threshold": 1.0} if mode == "audit" else {})),
        )
        decoder = Decoder(model, drafter, ROUTE, config, tokenizer=LetterTokenizer())
        result = decoder.generate(_prompt())
        assert result.sequences[0, : result.lengths[0]].tolist() == plain[:end]


@pytest.mark.parametrize(
    ("prompt", "text", "stop"),
    [
        ("ab", "ab\u20accd", "\u20ac"),
        ("ab", "a\u00e9\u20ac\u00e9", "\u20ac"),
        ("ab", "\U0001f600" * 10 + "\u20acb", "\u20ac"),
        ("ab\u20ac", "c\u20ac", "\u20acc"),
        # It stands in the prompt, and its bytes are shown as one run with those that follow.
        ("a\u00e9", "\u20acb\u00e9", "\u00e9"),
    ],
)
def test_stop_string_of_byte_tokens(prompt: str, text: str, stop: str) -> None:
    """Byte fallback (gemma, mistral, phi3): a run of bytes is text only where all of it is."""
    decoders = pytest.importorskip("tokenizers").decoders
    decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])

    def decode(tokens: list[int]) -> str:
        names = [chr(token) if token < 128 else f"<0x{token:02X}>" for token in tokens]
        return decoder.decode(names)  # type: ignore[no-any-return]

    rules = StopRules(ViaConfig(stop_strings=(stop,)), (), 256, decode)
    before, new = list(prompt.encode()), list(text.encode())
    request = Request(0, 0, len(before), before, len(before) - 1, len(before))
    texts = [(prompt.encode() + bytes(new[:count])).decode(errors="ignore") for count in range(99)]
    end = next(n for n in range(1, 99) if texts[n] != texts[n - 1] and texts[n].endswith(stop))
    assert rules.cut(request, new, final=True) == end


class _Recorder:
    """A streamer that keeps what it gets."""

    def __init__(self) -> None:
        self.pieces: list[torch.Tensor] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        assert not self.ended
        self.pieces.append(value)

    def end(self) -> None:
        self.ended = True


def test_generate_feeds_a_streamer() -> None:
    model, drafter = _models()
    streamer = _Recorder()
    config = ViaConfig(max_new_tokens=NEW)
    result = generate(model, _prompt(), drafter, ROUTE, config, streamer=streamer)
    assert streamer.ended
    assert streamer.pieces[0].tolist() == [_prompt().tolist()]
    joined = torch.cat([piece.flatten() for piece in streamer.pieces])
    assert joined.tolist() == result.sequences[0, : result.lengths[0]].tolist()
    model.register_forward_pre_hook(_never)
    model.model.layers[0].register_forward_pre_hook(_never)
    with pytest.raises(ValueError, match="streamer must have a batch of 1, got 2"):
        generate(model, [_prompt(), _prompt()], drafter, streamer=streamer)


def _never(*_: Any) -> None:
    raise AssertionError("the model ran before the arguments were checked")


def test_an_older_stream_stops_with_an_error() -> None:
    model, drafter = _models()
    decoder = Decoder(model, drafter, ROUTE, ViaConfig(max_new_tokens=NEW))
    older = decoder.stream(_prompt())
    next(older)
    decoder.generate(_prompt())
    with pytest.raises(RuntimeError, match="another run"):
        next(older)


def test_padding_on_either_side_is_dropped() -> None:
    model, drafter = _models()
    decoder = Decoder(model, drafter, ROUTE, ViaConfig(mode="exact", max_new_tokens=8))
    prompts = [_prompt(9), _prompt(5, 1)]
    listed = decoder.generate(prompts)
    for left in (True, False):
        ids, mask = torch.zeros(2, 9, dtype=torch.int64), torch.zeros(2, 9, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            where = slice(9 - len(prompt), 9) if left else slice(0, len(prompt))
            ids[row, where], mask[row, where] = prompt, 1
        padded = decoder.generate(ids, mask)
        assert torch.equal(padded.sequences, listed.sequences)
        assert torch.equal(padded.lengths, listed.lengths)


def test_stats_add_up() -> None:
    model, drafter = _models()
    for name, options in MODES.items():
        config = ViaConfig(max_new_tokens=NEW, eos_token_id=(), **options)
        stats = Decoder(model, drafter, ROUTE, config).generate([_prompt(9), _prompt(4, 1)]).stats
        assert stats.tokens == 2 * NEW, name
        assert stats.accepted <= stats.examined <= stats.drafted
        assert stats.slim_passes + stats.full_passes >= stats.steps
        rates = stats.accept_rate + stats.regenerate_rate + stats.escalate_rate
        assert rates == pytest.approx(1.0)
        assert stats.mean_accepted == pytest.approx(stats.accepted / stats.steps)
