// SPDX-License-Identifier: Apache-2.0
// A forward pass of a toy model in plain double precision, rounded to bfloat16 where the persistent
// kernels round what they keep: inputs of products, queries, keys, values. What is left of a
// difference comes from float32 sums, attention's rounded weights, and values that are rounded to
// the other side because of either.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "persistent_model.h"

namespace via::testing {

using Numbers = std::vector<double>;

inline Numbers times_matrix(const Numbers& matrix, const Numbers& x) {
  Numbers y(matrix.size() / x.size());
  for (std::size_t row = 0; row < y.size(); ++row) {
    double sum = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += matrix[row * x.size() + i] * x[i];
    y[row] = sum;
  }
  return y;
}

inline double norm_scale(const double* x, int count, double epsilon) {
  double squares = 0.0;
  for (int i = 0; i < count; ++i) squares += x[i] * x[i];
  return 1.0 / std::sqrt(squares / count + epsilon);
}

// matrix * norm(x): the norm's scale comes behind the product.
inline Numbers times_normed(const Numbers& matrix, const Numbers& x, const Numbers& weight,
                            double epsilon) {
  Numbers weighted = x;
  for (std::size_t i = 0; i < x.size(); ++i) weighted[i] = round_bf16(x[i] * weight[i]);
  Numbers y = times_matrix(matrix, weighted);
  const double scale = norm_scale(x.data(), static_cast<int>(x.size()), epsilon);
  for (double& value : y) value *= scale;
  return y;
}

inline void round_all(Numbers& x) {
  for (double& value : x) value = round_bf16(value);
}

inline void add_to(Numbers& x, const Numbers& y) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

// Keys and values that a row of the batch has before the pass: [layer][position][Hkv D].
struct RowCache {
  std::vector<std::vector<Numbers>> key, value;
};

// The new tokens of one row.
struct RowTokens {
  int context = 0;
  std::int64_t window = 0;
  std::vector<std::int64_t> ids;
  std::vector<int> parents, depths;
  int count() const { return static_cast<int>(ids.size()); }
};

// What a pass leaves of one row.
struct RowResult {
  std::vector<Numbers> hidden;  // at the end of the layers of the pass
  std::vector<Numbers> logits;
  std::vector<std::vector<Numbers>> key, value;  // [layer][token][Hkv D]; empty: layer skipped
};

class Reference {
 public:
  Reference(const ToyModel& model, const persistent::Gates& gates, const RowTokens& tokens,
            const RowCache& cache)
      : model_(model), shape_(model.shape), gates_(gates), tokens_(tokens), cache_(cache) {}

  // Layers [first, last) behind `hidden`, or behind the embedding if it is empty.
  RowResult run(int first, int last, std::vector<Numbers> hidden = {}) const {
    RowResult result;
    result.key.resize(static_cast<std::size_t>(shape_.num_layers));
    result.value.resize(static_cast<std::size_t>(shape_.num_layers));
    if (hidden.empty()) {
      for (const std::int64_t id : tokens_.ids) {
        const auto from = model_.embedding.begin() + id * shape_.hidden_size;
        hidden.emplace_back(from, from + shape_.hidden_size);
      }
    }
    for (int layer = first; layer < last; ++layer) {
      if (persistent::gate_is_open(gates_, 2 * layer)) attention(layer, hidden, result);
      if (!persistent::gate_is_open(gates_, 2 * layer + 1)) continue;
      for (Numbers& x : hidden) mlp(model_.layers[static_cast<std::size_t>(layer)], x);
    }
    result.hidden = hidden;
    for (const Numbers& x : hidden) {
      result.logits.push_back(times_normed(model_.head, x, model_.final_norm, shape_.norm_epsilon));
    }
    return result;
  }

 private:
  void attention(int layer_idx, std::vector<Numbers>& hidden, RowResult& result) const {
    const ToyLayer& layer = model_.layers[static_cast<std::size_t>(layer_idx)];
    const int head_dim = shape_.head_dim, keys = shape_.num_kv_heads;
    auto& key = result.key[static_cast<std::size_t>(layer_idx)];
    auto& value = result.value[static_cast<std::size_t>(layer_idx)];
    std::vector<Numbers> query;
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      Numbers qkv = times_normed(layer.qkv, hidden[i], layer.attention_norm, shape_.norm_epsilon);
      if (shape_.has_bias) add_to(qkv, layer.bias);
      for (int head = 0; head < shape_.num_heads + keys; ++head) {
        turn(layer, qkv.data() + head * head_dim, head >= shape_.num_heads, static_cast<int>(i));
      }
      round_all(qkv);
      const auto at = [&](int head) { return qkv.begin() + head * head_dim; };
      query.emplace_back(at(0), at(shape_.num_heads));
      key.emplace_back(at(shape_.num_heads), at(shape_.num_heads + keys));
      value.emplace_back(at(shape_.num_heads + keys), qkv.end());
    }
    for (int i = 0; i < tokens_.count(); ++i) {
      Numbers out;
      for (int head = 0; head < shape_.num_heads; ++head) {
        attend(layer_idx, i, head, query[static_cast<std::size_t>(i)], result, out);
      }
      add_to(hidden[static_cast<std::size_t>(i)], times_matrix(layer.output, out));
    }
  }

  void turn(const ToyLayer& layer, double* head, bool is_key, int token) const {
    const int head_dim = shape_.head_dim, half = head_dim / 2;
    if (shape_.has_head_norms) {
      const double scale = norm_scale(head, head_dim, shape_.norm_epsilon);
      const double* const weight = layer.head_norms.data() + (is_key ? head_dim : 0);
      for (int i = 0; i < head_dim; ++i) head[i] *= scale * weight[i];
    }
    const int position = tokens_.context + tokens_.depths[static_cast<std::size_t>(token)];
    for (int i = 0; i < half; ++i) {
      const auto at = static_cast<std::size_t>(position * half + i);
      const double low = head[i], high = head[i + half];
      head[i] = low * model_.cosines[at] - high * model_.sines[at];
      head[i + half] = high * model_.cosines[at] + low * model_.sines[at];
    }
  }

  void attend(int layer, int token, int head, const Numbers& query, const RowResult& result,
              Numbers& out) const {
    const int head_dim = shape_.head_dim;
    const int kv_head = head / (shape_.num_heads / shape_.num_kv_heads);
    const auto at = static_cast<std::size_t>(layer);
    std::vector<const double*> keys, values;
    const auto see = [&](const Numbers& key, const Numbers& value) {
      keys.push_back(key.data() + kv_head * head_dim);
      values.push_back(value.data() + kv_head * head_dim);
    };
    const int position = tokens_.context + tokens_.depths[static_cast<std::size_t>(token)];
    const auto is_seen = [&](int other) {
      return tokens_.window == 0 || other > position - tokens_.window;
    };
    for (int i = 0; i < tokens_.context; ++i) {
      const auto old = static_cast<std::size_t>(i);
      if (is_seen(i)) see(cache_.key[at][old], cache_.value[at][old]);
    }
    for (int i = token; i >= 0; i = tokens_.parents[static_cast<std::size_t>(i)]) {
      const auto fresh = static_cast<std::size_t>(i);
      if (is_seen(tokens_.context + tokens_.depths[fresh])) {
        see(result.key[at][fresh], result.value[at][fresh]);
      }
    }
    Numbers sum(static_cast<std::size_t>(head_dim), 0.0);
    double total = 0.0;
    for (std::size_t k = 0; k < keys.size(); ++k) {
      double score = 0.0;
      for (int d = 0; d < head_dim; ++d) score += query[head * head_dim + d] * keys[k][d];
      const double weight = std::exp(score / std::sqrt(head_dim));
      total += weight;
      for (int d = 0; d < head_dim; ++d) sum[static_cast<std::size_t>(d)] += weight * values[k][d];
    }
    for (const double x : sum) out.push_back(round_bf16(x / total));
  }

  void mlp(const ToyLayer& layer, Numbers& hidden) const {
    Numbers gate = times_normed(layer.gate, hidden, layer.mlp_norm, shape_.norm_epsilon);
    const Numbers up = times_normed(layer.up, hidden, layer.mlp_norm, shape_.norm_epsilon);
    for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1.0 + std::exp(-gate[i]));
    round_all(gate);
    add_to(hidden, times_matrix(layer.down, gate));
  }

  const ToyModel& model_;
  const ModelShape& shape_;
  const persistent::Gates& gates_;
  const RowTokens& tokens_;
  const RowCache& cache_;
};

}  // namespace via::testing
