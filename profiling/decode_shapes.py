# SPDX-License-Identifier: Apache-2.0
"""Sizes of the models that bench_decode.py makes, and the bytes that their passes read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A Llama decoder, sizes named as in HF configurations, with the drafter it is given.

    Attributes:
        drafter: name of the drafter's shape; "" for shapes that draft only.
        dtype: of weights and activations.
    """

    name: str
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    drafter: str = ""
    dtype: str = "bfloat16"

    @property
    def attention_bytes(self) -> int:
        """Weights of one attention sublayer, two bytes each."""
        heads = 2 * (self.num_attention_heads + self.num_key_value_heads)
        return 2 * self.hidden_size * self.head_dim * heads

    @property
    def mlp_bytes(self) -> int:
        """Weights of one MLP, two bytes each."""
        return 2 * 3 * self.hidden_size * self.intermediate_size

    @property
    def head_bytes(self) -> int:
        """Weights of the LM head, two bytes each."""
        return 2 * self.hidden_size * self.vocab_size

    def pass_bytes(self, attentions: int | None = None, mlps: int | None = None) -> int:
        """Weights that a pass reads, two bytes each; default all sublayers."""
        attentions = self.num_hidden_layers if attentions is None else attentions
        mlps = self.num_hidden_layers if mlps is None else mlps
        return attentions * self.attention_bytes + mlps * self.mlp_bytes + self.head_bytes

    def config(self) -> Any:
        """The configuration for transformers; no token ends a text."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            max_position_embeddings=8192,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )


_ALL = (
    # Narrower ones would confuse the ids of decode_models.py: their embeddings are random.
    Shape("tiny", 8, 128, 256, 4, 2, 32, 512, "tiny-draft", "float32"),
    Shape("tiny-draft", 1, 64, 128, 4, 2, 16, 512, dtype="float32"),
    # Half as wide as the target: its LM head is most of what it reads.
    Shape("llama-3.2-1b", 16, 2048, 8192, 32, 8, 64, 128256, "draft-2x1024"),
    Shape("draft-2x1024", 2, 1024, 4096, 16, 4, 64, 128256),
    Shape("llama-3.2-3b", 28, 3072, 8192, 24, 8, 128, 128256, "draft-2x1024"),
    Shape("llama-3.1-8b", 32, 4096, 14336, 32, 8, 128, 128256, "llama-3.2-1b"),
)
SHAPES = {shape.name: shape for shape in _ALL}
# What --shapes takes beside "pair", the embedded models.
TARGETS = tuple(shape.name for shape in _ALL if shape.drafter)
