// SPDX-License-Identifier: Apache-2.0
// A random model and batch for the products of the persistent kernel, its phase table, and what the
// kernel must compute, in float64 with the kernel's roundings to bfloat16:
//   range 0: embed, QKV, output projection (of given attended values), save
//   range 1: load, gate and up, down, head
// with copies of products under closed gates strewn in.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "gpu_or_simt.h"
#include "persistent/product.cuh"
#include "persistent_product_matrix.h"

namespace via::testing {

using namespace via::persistent;

struct LiveToken {
  int batch_idx, token, row;
};

struct ProductCase {
  static constexpr int kClosedGate = 0, kOpenGate = 70;
  std::mt19937_64 random;
  ModelArgs model;
  PassInput input;
  unsigned* arrivals = nullptr;
  std::vector<LiveToken> live;
  Matrix qkv, output, gate, up, down, head, embedding;
  Matrix vectors;   // norms of the QKV, gate and up, and head phases, [3, hidden_size]
  Vector bias;      // or empty
  Matrix attended;  // [rows, Hq D]

  int uniform(int low, int high) {
    return low + static_cast<int>(random() % static_cast<std::uint64_t>(high - low + 1));
  }

  explicit ProductCase(unsigned seed) : random(seed) {
    ModelShape& shape = model.shape;
    shape.hidden_size = 64 * uniform(1, 3);
    shape.num_kv_heads = uniform(1, 2);
    shape.num_heads = shape.num_kv_heads * uniform(1, 2);
    shape.head_dim = 64;
    shape.intermediate_size = uniform(30, 330);
    shape.vocab_size = uniform(40, 700);
    shape.has_bias = uniform(0, 1) != 0;
    shape.is_tied = uniform(0, 1) != 0;
    shape.norm_epsilon = 1e-3f;
    make_batch();
    make_model();
  }

  // NaN wherever the launch writes, except the zeros behind the features.
  void forget_results() {
    for (const auto& out : outputs_) std::memset(out.data, 0xff, out.bytes);
    const int size = model.shape.intermediate_size, stride = padded_to(size, kChunk);
    auto* const features = static_cast<BFloat16*>(model.buffers.features);
    for (int row = 0; row < model.buffers.rows; ++row) {
      for (int i = size; i < stride; ++i) features[row * stride + i] = {0};
    }
    *arrivals = 0;
  }
  // All that a launch writes, byte by byte.
  std::vector<unsigned char> results() const {
    std::vector<unsigned char> all;
    for (const auto& out : outputs_) {
      const auto* const bytes = static_cast<const unsigned char*>(out.data);
      all.insert(all.end(), bytes, bytes + out.bytes);
    }
    return all;
  }

 private:
  struct Output {
    void* data;
    std::size_t bytes;
  };
  std::vector<std::unique_ptr<DeviceBuffer<unsigned char>>> memory_;
  std::vector<Output> outputs_;

  template <typename T>
  T* take(std::int64_t count) {
    const auto bytes = static_cast<std::size_t>(count) * sizeof(T);
    memory_.push_back(std::make_unique<DeviceBuffer<unsigned char>>(bytes, 0));
    return reinterpret_cast<T*>(memory_.back()->data());
  }
  template <typename T>
  T* take_output(std::int64_t count) {
    T* const data = take<T>(count);
    outputs_.push_back({data, static_cast<std::size_t>(count) * sizeof(T)});
    return data;
  }

  Matrix random_matrix(int rows, int columns, double scale) {
    std::normal_distribution<double> normal(0.0, scale);
    Matrix matrix{rows, columns, Vector(static_cast<std::size_t>(rows) * columns)};
    for (double& value : matrix.values) value = rounded(normal(random));
    return matrix;
  }

  void make_batch() {
    const int batch_size = uniform(1, kMaxBatch);
    input.width = uniform(1, kMaxTokens / batch_size);
    auto* const counts = take<std::int32_t>(batch_size);
    auto* const ids = take<std::int64_t>(batch_size * input.width);
    auto* const hidden_index = take<std::int64_t>(batch_size * input.width);
    const int hidden_rows = input.width + uniform(0, 2);
    for (int b = 0; b < batch_size; ++b) {
      counts[b] = uniform(0, 3) == 0 ? uniform(0, input.width) : input.width;
      if (b == 0) counts[b] = uniform(1, input.width);
      for (int i = 0; i < input.width; ++i) {
        ids[b * input.width + i] = uniform(0, 4) == 0 ? uniform(-1, 1) * 1'000'000 - 1
                                                      : uniform(0, model.shape.vocab_size);
        // Saved in the opposite order.
        hidden_index[b * input.width + i] = b * hidden_rows + counts[b] - 1 - i;
        if (i < counts[b]) live.push_back({b, i, b * input.width + i});
      }
    }
    model.batch_size = batch_size;
    model.buffers.rows = batch_size * input.width;
    model.buffers.hidden_rows = hidden_rows;
    input.counts = counts;
    input.token_ids = ids;
    input.hidden_index = hidden_index;
  }

  // Rows of the packed matrix at `to`, one of them per row of `matrix` as `place` says.
  template <typename Place>
  void pack(const Matrix& matrix, BFloat16* to, std::int64_t packed_rows, Place place) {
    for (int i = 0; i < matrix.rows; ++i) {
      for (int k = 0; k < matrix.columns; ++k) {
        to[packed_index(place(i), k, packed_rows)] = to_bf16(matrix.at(i, k));
      }
    }
  }

  void make_model() {
    const ModelShape& s = model.shape;
    const int hidden = s.hidden_size, middle = s.intermediate_size, width = s.num_heads * 64;
    const int qkv_rows = width + 2 * s.num_kv_heads * 64, rows = model.buffers.rows;
    const int middle_rows = padded_to(middle, kRowUnit), vocab = padded_to(s.vocab_size, kRowUnit);
    qkv = random_matrix(qkv_rows, hidden, 1.0 / std::sqrt(hidden));
    output = random_matrix(hidden, width, 1.0 / std::sqrt(width));
    gate = random_matrix(middle, hidden, 1.0 / std::sqrt(hidden));
    up = random_matrix(middle, hidden, 1.0 / std::sqrt(hidden));
    down = random_matrix(hidden, middle, 1.0 / std::sqrt(middle));
    head = random_matrix(s.vocab_size, hidden, 1.0 / std::sqrt(hidden));
    if (!s.is_tied) embedding = random_matrix(s.vocab_size, hidden, 1.0);
    vectors = random_matrix(3, hidden, 1.0);
    attended = random_matrix(rows, width, 1.0);
    if (s.has_bias) bias = random_matrix(1, qkv_rows, 1.0).values;

    auto* const vector_memory = take<float>(3 * hidden + qkv_rows);
    for (int i = 0; i < 3 * hidden; ++i) vector_memory[i] = static_cast<float>(vectors.values[i]);
    for (std::size_t i = 0; i < bias.size(); ++i) {
      vector_memory[3 * hidden + i] = static_cast<float>(bias[i]);
    }
    model.weights.vectors = vector_memory;
    auto* const attended_memory = take<BFloat16>(rows * width);
    for (int i = 0; i < rows * width; ++i) attended_memory[i] = to_bf16(attended.values[i]);
    if (!s.is_tied) {
      auto* const table = take<BFloat16>(s.vocab_size * hidden);
      for (int i = 0; i < s.vocab_size * hidden; ++i) table[i] = to_bf16(embedding.values[i]);
      model.weights.embedding = table;
    }
    Buffers& b = model.buffers;
    b.attended = attended_memory;
    b.normed = take_output<BFloat16>(rows * hidden);
    b.square_sums = take_output<float>(8 * kMaxTokens);
    b.qkv = take_output<float>(rows * qkv_rows);
    b.features = take_output<BFloat16>(rows * padded_to(middle, kChunk));
    b.logits = take_output<float>(rows * s.vocab_size);
    b.hidden = take_output<float>(model.batch_size * b.hidden_rows * hidden);
    arrivals = take<unsigned>(1);

    const std::int64_t sizes[] = {std::int64_t{qkv_rows} * hidden, std::int64_t{hidden} * width,
                                  std::int64_t{2} * middle_rows * hidden,
                                  std::int64_t{hidden} * padded_to(middle, kChunk),
                                  std::int64_t{vocab} * hidden};
    std::int64_t at[6] = {};
    for (int i = 0; i < 5; ++i) at[i + 1] = at[i] + sizes[i];
    auto* const packed = take<BFloat16>(at[5]);
    model.weights.packed = packed;
    const auto in_order = [](int i) { return i; };
    pack(qkv, packed + at[0], qkv_rows, in_order);
    pack(output, packed + at[1], hidden, in_order);
    pack(gate, packed + at[2], 2 * middle_rows, [](int i) { return gate_row(i); });
    pack(up, packed + at[2], 2 * middle_rows, [](int i) { return gate_row(i) + kRowUnit; });
    pack(down, packed + at[3], hidden, in_order);
    pack(head, packed + at[4], vocab, in_order);

    const auto plain = [](PhaseKind kind) { return Phase{kind, 0, -1, 0, 0, 1, -1, -1, -1, -1}; };
    std::vector<Phase> phases;
    // A product under an open gate, or none, now and then behind a copy under a closed one.
    const auto add = [&](PhaseKind kind, int matrix_rows, int columns, int matrix, int norm) {
      Phase phase = plain(kind);
      phase.rows = matrix_rows;
      phase.chunks = padded_to(columns, kChunk) / kChunk;
      phase.unit = kind == PhaseKind::kGateUp ? kPairUnit : kRowUnit;
      phase.weights = at[matrix];
      if (norm >= 0) phase.input_norm = std::int64_t{norm} * hidden;
      if (kind == PhaseKind::kQkv && s.has_bias) phase.bias = 3 * hidden;
      phase.gate = kClosedGate;
      if (uniform(0, 2) == 0) phases.push_back(phase);
      phase.gate = uniform(0, 1) != 0 ? kOpenGate : -1;
      phases.push_back(phase);
    };
    phases.push_back(plain(PhaseKind::kEmbed));
    if (s.is_tied) phases.back().weights = at[4];
    add(PhaseKind::kQkv, qkv_rows, hidden, 0, 0);
    add(PhaseKind::kOutput, hidden, width, 1, -1);
    phases.push_back(plain(PhaseKind::kSave));
    model.passes[0] = {0, static_cast<int>(phases.size())};
    phases.push_back(plain(PhaseKind::kLoad));
    add(PhaseKind::kGateUp, 2 * middle_rows, hidden, 2, 1);
    add(PhaseKind::kDown, hidden, middle, 3, -1);
    add(PhaseKind::kHead, vocab, hidden, 4, 2);
    model.passes[1] = {model.passes[0].last, static_cast<int>(phases.size())};
    auto* const table = take<Phase>(static_cast<std::int64_t>(phases.size()));
    std::copy(phases.begin(), phases.end(), table);
    model.phases = table;
    for (int pass = 0; pass < 2; ++pass) {
      model.gates[pass].words[kOpenGate / 64] = std::uint64_t{1} << kOpenGate % 64;
    }
  }
};

}  // namespace via::testing
