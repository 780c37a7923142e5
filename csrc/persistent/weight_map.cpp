// SPDX-License-Identifier: Apache-2.0
// Where every matrix and vector of a model lies in the packed weights (csrc/persistent/layout.h).
// Layers follow each other in the order in which a pass reads them, the LM head is last. Every
// matrix starts at a multiple of 1024 elements (2 KiB), every vector at a multiple of 64 floats.

#include "persistent/layout.h"
#include "persistent/shape.h"

namespace via::persistent {
namespace {

std::int64_t take(std::int64_t& next, std::int64_t count) {
  const std::int64_t offset = next;
  next += count;
  return offset;
}

}  // namespace

WeightMap weight_map(const ModelShape& shape) {
  check_shape(shape);
  const std::int64_t hidden = shape.hidden_size, head_dim = shape.head_dim;
  const std::int64_t heads = std::int64_t{shape.num_heads} + 2 * shape.num_kv_heads;
  const std::int64_t attended = padded_to(shape.num_heads * shape.head_dim, kChunk);
  const std::int64_t pairs = 2 * padded_to(shape.intermediate_size, kRowUnit);
  const std::int64_t features = padded_to(shape.intermediate_size, kChunk);

  WeightMap map;
  std::int64_t packed = 0, vectors = 0;
  for (int layer_idx = 0; layer_idx < shape.num_layers; ++layer_idx) {
    LayerMap layer;
    layer.qkv = take(packed, heads * head_dim * hidden);
    layer.output = take(packed, hidden * attended);
    layer.gate_up = take(packed, pairs * hidden);
    layer.down = take(packed, hidden * features);
    layer.attention_norm = take(vectors, hidden);
    layer.bias = shape.has_bias ? take(vectors, heads * head_dim) : -1;
    layer.head_norms = shape.has_head_norms ? take(vectors, 2 * head_dim) : -1;
    layer.mlp_norm = take(vectors, hidden);
    map.layers.push_back(layer);
  }
  map.head = take(packed, std::int64_t{padded_to(shape.vocab_size, kRowUnit)} * hidden);
  map.final_norm = take(vectors, hidden);
  map.packed_size = packed;
  map.vectors_size = vectors;
  return map;
}

}  // namespace via::persistent
