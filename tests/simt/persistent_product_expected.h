// SPDX-License-Identifier: Apache-2.0
// What a ProductCase must come to, in float64, and the comparison: results within rounding, and
// that nothing beside them was written.
#pragma once

#include <cmath>
#include <vector>

#include "persistent_product_case.h"

namespace via::testing {

class ProductCheck {
 public:
  ProductCheck(const ProductCase& product, Checker& checker)
      : p_(product), shape_(product.model.shape), checker_(checker) {}

  void run(int grid) {
    const Buffers& out = p_.model.buffers;
    const auto live = p_.live.size();
    // Range 0; a saved token is loaded again as another one of its row.
    Rows residual(live), qkv(live), saved(live), features(live), logits(live), normed(live);
    for (std::size_t t = 0; t < live; ++t) {
      residual[t] = embedding(p_.input.token_ids[p_.live[t].row]);
      qkv[t] = scaled(p_.qkv.times(normalised(residual[t], 0)), rstd(residual[t]));
      for (std::size_t i = 0; i < p_.bias.size(); ++i) qkv[t][i] += p_.bias[i];
      add(residual[t], p_.output.times(attended(p_.live[t].row)));
    }
    for (std::size_t t = 0; t < live; ++t) saved[t] = residual[loaded_from(t)];
    residual = saved;
    for (std::size_t t = 0; t < live; ++t) {
      const Vector x = normalised(residual[t], 1);
      const Vector gate = scaled(p_.gate.times(x), rstd(residual[t]));
      const Vector up = scaled(p_.up.times(x), rstd(residual[t]));
      for (std::size_t i = 0; i < gate.size(); ++i) {
        features[t].push_back(rounded(gate[i] / (1.0 + std::exp(-gate[i])) * up[i]));
      }
      add(residual[t], p_.down.times(features[t]));
      normed[t] = normalised(residual[t], 2);
      logits[t] = scaled(p_.head.times(normed[t]), rstd(residual[t]));
      // What is behind the features stays zero.
      features[t].resize(padded_to(shape_.intermediate_size, kChunk), 0.0);
    }
    const auto* const features_out = static_cast<const BFloat16*>(out.features);
    compare("qkv", out.qkv, qkv, out.rows, [&](std::size_t t) { return p_.live[t].row; });
    compare("features", features_out, features, out.rows,
            [&](std::size_t t) { return p_.live[t].row; });
    compare("logits", out.logits, logits, out.rows, [&](std::size_t t) { return p_.live[t].row; });
    compare("normed", static_cast<const BFloat16*>(out.normed), normed, out.rows,
            [&](std::size_t t) { return p_.live[t].row; });
    compare("hidden", out.hidden, saved, p_.model.batch_size * out.hidden_rows, [&](std::size_t t) {
      return p_.live[t].batch_idx * out.hidden_rows + p_.live[t].token;
    });
    check_squares(grid, residual);
  }

 private:
  using Rows = std::vector<Vector>;

  Vector embedding(std::int64_t id) const {
    if (id < 0 || id >= shape_.vocab_size) id = 0;
    Vector x(shape_.hidden_size);
    for (int k = 0; k < shape_.hidden_size; ++k) {
      x[k] = (shape_.is_tied ? p_.head : p_.embedding).at(static_cast<int>(id), k);
    }
    return x;
  }
  Vector attended(int row) const {
    Vector x(p_.attended.columns);
    for (int k = 0; k < p_.attended.columns; ++k) x[k] = p_.attended.at(row, k);
    return x;
  }
  std::size_t loaded_from(std::size_t t) const {
    const LiveToken& token = p_.live[t];
    return t - token.token + p_.input.counts[token.batch_idx] - 1 - token.token;
  }
  Vector normalised(const Vector& x, int norm) const {
    Vector y(x.size());
    for (std::size_t k = 0; k < x.size(); ++k) {
      y[k] = rounded(x[k] * p_.vectors.at(norm, static_cast<int>(k)));
    }
    return y;
  }
  static double squares(const Vector& x) {
    double sum = 0.0;
    for (const double value : x) sum += value * value;
    return sum;
  }
  double rstd(const Vector& x) const {
    return 1.0 / std::sqrt(squares(x) / shape_.hidden_size + shape_.norm_epsilon);
  }
  static Vector scaled(Vector x, double factor) {
    for (double& value : x) value *= factor;
    return x;
  }
  static void add(Vector& to, const Vector& x) {
    for (std::size_t k = 0; k < x.size(); ++k) to[k] += x[k];
  }

  // Row place(t) of `data` holds `expected[t]`; the other rows were not written.
  template <typename T, typename Place>
  void compare(const char* name, const T* data, const Rows& expected, int rows, Place place) {
    const int columns = static_cast<int>(expected[0].size());
    std::vector<bool> is_written(rows, false);
    for (std::size_t t = 0; t < expected.size(); ++t) {
      const int row = place(t);
      is_written[row] = true;
      for (int k = 0; k < columns; ++k) {
        const double value = to_float(data[static_cast<std::size_t>(row) * columns + k]);
        // A rounding to bfloat16 on the other side: 2^-8 of one of many summands.
        const bool is_right =
            std::abs(value - expected[t][k]) <= 0.01 + 0.01 * std::abs(expected[t][k]);
        checker_.expect(is_right, "%s[%d, %d] is %g, not %g", name, row, k, value, expected[t][k]);
      }
    }
    for (int row = 0; row < rows; ++row) {
      for (int k = 0; !is_written[row] && k < columns; ++k) {
        const double value = to_float(data[static_cast<std::size_t>(row) * columns + k]);
        const bool is_padding = expected[0][k] == 0.0 && k >= shape_.intermediate_size &&
                                static_cast<const void*>(data) == p_.model.buffers.features;
        checker_.expect(is_padding ? value == 0.0 : value != value, "%s[%d, %d] was written: %g",
                        name, row, k, value);
      }
    }
  }

  // Of the residual at the end, a part per block.
  void check_squares(int grid, const Rows& residual) {
    const float* const sums = p_.model.buffers.square_sums;
    for (int block = 0; block < 8; ++block) {
      for (int t = 0; t < kMaxTokens; ++t) {
        const double value = sums[block * kMaxTokens + t];
        if (block >= grid || t >= static_cast<int>(residual.size())) {
          checker_.expect(value != value, "square_sums[%d, %d] was written", block, t);
          continue;
        }
        const Share share = share_of(shape_.hidden_size / kRowUnit, grid, block);
        const auto begin = residual[t].begin();
        const double wanted =
            squares(Vector(begin + share.first * kRowUnit, begin + share.last * kRowUnit));
        checker_.expect(std::abs(value - wanted) <= 1e-3 + 0.01 * wanted,
                        "square_sums[%d, %d] is %g, not %g", block, t, value, wanted);
      }
    }
  }

  const ProductCase& p_;
  const ModelShape& shape_;
  Checker& checker_;
};

}  // namespace via::testing
