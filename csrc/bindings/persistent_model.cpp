// SPDX-License-Identifier: Apache-2.0
// The model's part of _C.Persistent: weights, cache, buffers, program and control.

#include "bindings/persistent_arguments.h"
#include "bindings/persistent_shape.h"

namespace via::python {
namespace {

using persistent::ModelArgs;
using persistent::ModelShape;

constexpr int kChunk = 64;  // columns that rows are padded to

std::int64_t padded(std::int64_t count) { return (count + kChunk - 1) / kChunk * kChunk; }

void read_weights(const ArrayReader& reader, ModelArgs& model) {
  const ModelShape& shape = model.shape;
  const persistent::WeightMap map = persistent::weight_map(shape);
  persistent::Weights& weights = model.weights;
  reader.set_bfloat16(weights.packed, "packed", {map.packed_size});
  reader.set(weights.vectors, "vectors", {map.vectors_size});
  if (!shape.is_tied) {
    reader.set_bfloat16(weights.embedding, "embedding", {shape.vocab_size, shape.hidden_size});
  }
  const std::int64_t half = shape.head_dim / 2;
  reader.set_bfloat16(weights.cosines, "cosines", {model.cache.capacity, half});
  reader.set_bfloat16(weights.sines, "sines", {model.cache.capacity, half});
}

void read_cache(const ArrayReader& reader, ModelArgs& model) {
  const ModelShape& shape = model.shape;
  const Tensor keys = reader.read("first_key_cache");
  keys.check_rank(4, "[B, S, Hkv, D]");
  keys.check_shape({model.batch_size, keys.size(1), shape.num_kv_heads, shape.head_dim},
                   "[B, S, Hkv, D]");
  keys.check_last_dim_contiguous();
  keys.check_same_device(reader.like());
  persistent::Cache& cache = model.cache;
  cache.capacity = keys.size(1);
  cache.row_stride = keys.dl.strides[0];
  cache.position_stride = keys.dl.strides[1];
  cache.head_stride = keys.dl.strides[2];
  reader.set_structs(cache.layers, "layer_caches", shape.num_layers);
}

void read_buffers(const ArrayReader& reader, int grid, ModelArgs& model) {
  const ModelShape& shape = model.shape;
  persistent::Buffers& buffers = model.buffers;
  buffers.rows = reader.size("logits", 0, 2);
  const std::int64_t rows = buffers.rows, inner = std::int64_t{shape.num_heads} * shape.head_dim;
  const std::int64_t heads = shape.num_heads, kv_heads = shape.num_kv_heads, dim = shape.head_dim;
  reader.set_bfloat16(buffers.normed, "normed", {rows, shape.hidden_size});
  reader.set(buffers.square_sums, "square_sums", {grid, persistent::kMaxTokens});
  reader.set(buffers.qkv, "qkv", {rows, (heads + 2 * kv_heads) * dim});
  reader.set_bfloat16(buffers.query, "query", {rows, heads, dim});
  reader.set_bfloat16(buffers.key, "key", {rows, kv_heads, dim});
  reader.set_bfloat16(buffers.value, "value", {rows, kv_heads, dim});
  reader.set_bfloat16(buffers.attended, "attended", {rows, padded(inner)});
  reader.set_bfloat16(buffers.features, "features", {rows, padded(shape.intermediate_size)});
  reader.set(buffers.logits, "logits", {rows, shape.vocab_size});
  if (!reader.has("hidden")) return;
  const Tensor hidden = reader.read("hidden");
  hidden.check_rank(3, "[B, hidden_rows, hidden_size]");
  buffers.hidden_rows = static_cast<std::int32_t>(hidden.size(1));
  reader.set(buffers.hidden, "hidden", {model.batch_size, hidden.size(1), shape.hidden_size});
}

}  // namespace

void read_model(const ArrayReader& reader, const py::dict& settings, ModelArgs& model) {
  read_cache(reader, model);
  read_weights(reader, model);
  read_buffers(reader, setting<int>(settings, "grid"), model);
  const std::int64_t bytes = reader.size("phases", 0, 1);
  const std::int64_t count = bytes / std::int64_t{sizeof(persistent::Phase)};
  reader.set_structs(model.phases, "phases", count);
  read_ranges(kPersistent, setting<py::list>(settings, "passes"), model.passes);
  for (const persistent::PassRange& range : model.passes) {
    if (range.first < 0 || range.first > range.last || range.last > count) {
      fail_value({kPersistent, "passes"}, "lie in the table of phases",
                 std::to_string(range.first) + " to " + std::to_string(range.last));
    }
  }
  read_gates(kPersistent, setting<py::list>(settings, "gates"), model.gates);
  model.cache.window = setting<std::int64_t>(settings, "window");
  model.watchdog_ns = setting<unsigned long long>(settings, "watchdog_ns");
  model.missing_block = setting<int>(settings, "missing_block");
  constexpr std::int64_t kLine = sizeof(persistent::ControlWord) / sizeof(std::int32_t);
  constexpr std::int64_t kLines = sizeof(persistent::Control) / sizeof(persistent::ControlWord);
  std::int32_t* control = nullptr;
  reader.set(control, "control", {kLines, kLine});
  model.control = reinterpret_cast<persistent::Control*>(control);
  if (reader.has("stamps")) {
    std::uint8_t* stamps = nullptr;
    reader.set(stamps, "stamps", {reader.size("stamps", 0, 1)});
    model.stamps = stamps;
  }
}

}  // namespace via::python
