// SPDX-License-Identifier: Apache-2.0
// Toy Llama, Qwen2 and Qwen3 models in memory: random weights, plain for the reference and packed
// for the persistent kernels.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "core/half.h"
#include "gpu_or_simt.h"
#include "persistent/layout.h"

namespace via::testing {

using persistent::ModelShape;

inline double round_bf16(double value) {
  BFloat16 rounded;
  narrow(static_cast<float>(value), rounded);
  return static_cast<double>(to_float(rounded));
}

class Random {
 public:
  explicit Random(unsigned seed) : bits_(seed) {}
  int below(int n) { return static_cast<int>(bits_() % static_cast<unsigned>(n)); }
  double uniform() { return (bits_() >> 8) * 0x1p-23 - 1.0; }  // [-1, 1)
  // Standard deviation `scale`, rounded to bfloat16.
  std::vector<double> numbers(std::int64_t count, double scale, double mean = 0.0) {
    std::vector<double> all(static_cast<std::size_t>(count));
    for (double& x : all) x = round_bf16(mean + scale * std::sqrt(3.0) * uniform());
    return all;
  }

 private:
  std::mt19937 bits_;
};

struct ToyLayer {
  // [rows, columns]; qkv holds queries, keys, values.
  std::vector<double> qkv, output, gate, up, down;
  std::vector<double> attention_norm, mlp_norm, bias, head_norms;
};

inline ModelShape toy_shape(int hidden, int layers, int heads, int kv_heads, int head_dim,
                            int intermediate, int vocab) {
  ModelShape shape;
  shape.hidden_size = hidden;
  shape.num_layers = layers;
  shape.num_heads = heads;
  shape.num_kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.intermediate_size = intermediate;
  shape.vocab_size = vocab;
  shape.norm_epsilon = 1e-3f;
  return shape;
}

class ToyModel {
 public:
  ToyModel(const ModelShape& model_shape, int num_positions, unsigned seed)
      : shape(model_shape),
        map(persistent::weight_map(shape)),
        positions(num_positions),
        packed_(static_cast<std::size_t>(map.packed_size), BFloat16{0}),
        vectors_(static_cast<std::size_t>(map.vectors_size), 0.0f),
        embedding_(shape.is_tied ? 1 : embedding_size()),
        cosines_(angles()),
        sines_(angles()) {
    Random random(seed);
    const int hidden = shape.hidden_size, width = shape.num_heads * shape.head_dim;
    const int rows = width + 2 * shape.num_kv_heads * shape.head_dim;
    const int features = shape.intermediate_size;
    const double in = 1.0 / std::sqrt(hidden);
    for (int i = 0; i < shape.num_layers; ++i) {
      ToyLayer layer;
      layer.qkv = random.numbers(std::int64_t{rows} * hidden, in);
      layer.output = random.numbers(std::int64_t{hidden} * width, 1.0 / std::sqrt(width));
      layer.gate = random.numbers(std::int64_t{features} * hidden, 1.5 * in);
      layer.up = random.numbers(std::int64_t{features} * hidden, 1.5 * in);
      layer.down = random.numbers(std::int64_t{hidden} * features, 1.0 / std::sqrt(features));
      layer.attention_norm = random.numbers(hidden, 0.2, 1.0);
      layer.mlp_norm = random.numbers(hidden, 0.2, 1.0);
      if (shape.has_bias) layer.bias = random.numbers(rows, 0.5);
      if (shape.has_head_norms) layer.head_norms = random.numbers(2 * shape.head_dim, 0.3, 1.0);
      pack_layer(layer, map.layers[static_cast<std::size_t>(i)]);
      layers.push_back(layer);
    }
    embedding = random.numbers(embedding_size(), 1.0);
    head = shape.is_tied ? embedding : random.numbers(embedding_size(), 2.0 * in);
    final_norm = random.numbers(hidden, 0.2, 1.0);
    pack_matrix(head, map.head, shape.vocab_size, hidden, persistent::kRowUnit);
    pack_vector(final_norm, map.final_norm);
    if (!shape.is_tied) store(embedding, embedding_);
    const int half = shape.head_dim / 2;
    for (int i = 0; i < positions * half; ++i) {
      const double angle = i / half * std::pow(10000.0, -double(i % half) / half);
      cosines.push_back(round_bf16(std::cos(angle)));
      sines.push_back(round_bf16(std::sin(angle)));
    }
    store(cosines, cosines_);
    store(sines, sines_);
  }

  persistent::Weights weights() {
    return {packed_.data(), vectors_.data(), shape.is_tied ? nullptr : embedding_.data(),
            cosines_.data(), sines_.data()};
  }

  ModelShape shape;
  persistent::WeightMap map;
  int positions;
  std::vector<ToyLayer> layers;
  std::vector<double> embedding, head;  // [vocab_size, hidden_size]
  std::vector<double> final_norm;
  std::vector<double> cosines, sines;  // [positions, head_dim / 2]

 private:
  std::size_t embedding_size() const {
    return static_cast<std::size_t>(shape.vocab_size) * shape.hidden_size;
  }
  std::size_t angles() const { return static_cast<std::size_t>(positions) * shape.head_dim / 2; }

  static BFloat16 bf16(double value) {
    BFloat16 rounded;
    narrow(static_cast<float>(value), rounded);
    return rounded;
  }
  static void store(const std::vector<double>& from, DeviceBuffer<BFloat16>& to) {
    for (std::size_t i = 0; i < from.size(); ++i) to[i] = bf16(from[i]);
  }
  void pack_vector(const std::vector<double>& from, std::int64_t offset) {
    for (std::size_t i = 0; i < from.size(); ++i) {
      vectors_[static_cast<std::size_t>(offset) + i] = static_cast<float>(from[i]);
    }
  }
  // place(row): where the row lies among `packed_rows`.
  template <typename Place>
  void pack_rows(const std::vector<double>& from, std::int64_t offset, int rows, int columns,
                 int packed_rows, Place place) {
    for (int row = 0; row < rows; ++row) {
      for (int column = 0; column < columns; ++column) {
        const std::int64_t at = persistent::packed_index(place(row), column, packed_rows);
        packed_[static_cast<std::size_t>(offset + at)] =
            bf16(from[static_cast<std::size_t>(row) * columns + column]);
      }
    }
  }
  void pack_matrix(const std::vector<double>& from, std::int64_t offset, int rows, int columns,
                   int unit) {
    pack_rows(from, offset, rows, columns, persistent::padded_to(rows, unit),
              [](int row) { return row; });
  }
  void pack_layer(const ToyLayer& layer, const persistent::LayerMap& at) {
    const int hidden = shape.hidden_size, features = shape.intermediate_size;
    const int width = shape.num_heads * shape.head_dim, unit = persistent::kRowUnit;
    pack_matrix(layer.qkv, at.qkv, width + 2 * shape.num_kv_heads * shape.head_dim, hidden, unit);
    pack_matrix(layer.output, at.output, hidden, width, unit);
    pack_matrix(layer.down, at.down, hidden, features, unit);
    const int pairs = 2 * persistent::padded_to(features, unit);
    pack_rows(layer.gate, at.gate_up, features, hidden, pairs,
              [](int row) { return persistent::gate_row(row); });
    pack_rows(layer.up, at.gate_up, features, hidden, pairs,
              [](int row) { return persistent::gate_row(row) + persistent::kRowUnit; });
    pack_vector(layer.attention_norm, at.attention_norm);
    pack_vector(layer.mlp_norm, at.mlp_norm);
    if (at.bias >= 0) pack_vector(layer.bias, at.bias);
    if (at.head_norms >= 0) pack_vector(layer.head_norms, at.head_norms);
  }

  DeviceBuffer<BFloat16> packed_;
  DeviceBuffer<float> vectors_;
  DeviceBuffer<BFloat16> embedding_, cosines_, sines_;
};

}  // namespace via::testing
