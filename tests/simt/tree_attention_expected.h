// SPDX-License-Identifier: Apache-2.0
// What a Case must give: the definition of tree_attention as a loop in float64, and both caches as
// they must look afterwards. Included by tree_attention_case.h.
#pragma once

namespace via::testing {

template <typename T>
class Expected {
 public:
  explicit Expected(const Case<T>& given) {
    for (const Tensor<T>* cache : {given.key_cache.get(), given.value_cache.get()}) {
      caches_.emplace_back(cache->memory->begin(), cache->memory->end());
    }
    for (int b = 0; b < given.p.batch_size; ++b) {
      valid_.push_back(judge(given, b));
      if (valid_.back()) store(given, b);
    }
  }
  bool is_valid(int row) const { return valid_[row]; }

  void check(Case<T>& given, int number, Checker& checker) const {
    const TreeAttentionParams& p = given.p;
    for (int b = 0; b < p.batch_size; ++b) {
      for (int i = 0; i < p.num_tokens; ++i) {
        for (int h = 0; h < p.num_heads; ++h) check_row(given, b, i, h, number, checker);
      }
    }
    const Tensor<T>* const caches[] = {given.key_cache.get(), given.value_cache.get()};
    for (int i = 0; i < 2; ++i) {
      const bool same = std::equal(caches_[i].begin(), caches_[i].end(), caches[i]->memory->begin(),
                                   same_bits<T>);
      checker.expect(same, "case %d: the %s cache", number, i == 0 ? "key" : "value");
    }
  }

 private:
  static bool judge(const Case<T>& given, int b) {
    const TreeAttentionParams& p = given.p;
    const std::int64_t context = (*given.contexts)[b], count = given.counts[b];
    if (count < 0 || count > p.num_tokens || context < 0 || context + count > p.capacity) {
      return false;
    }
    for (int i = 0; i < count; ++i) {
      if (given.parent(b, i) < -1 || given.parent(b, i) >= i) return false;
    }
    const std::int64_t first = p.window > 0 ? std::max<std::int64_t>(context - p.window + 1, 0) : 0;
    for (std::int64_t s = first; s < context + count; ++s) {
      if (given.place(b, s).first < 0) return false;
    }
    return true;
  }

  void store(const Case<T>& given, int b) {
    const Tensor<T>* const caches[] = {given.key_cache.get(), given.value_cache.get()};
    const Tensor<T>* const sources[] = {given.key.get(), given.value.get()};
    for (int i = 0; i < given.counts[b]; ++i) {
      const auto [row, position] = given.place(b, (*given.contexts)[b] + i);
      for (int h = 0; h < given.p.num_kv_heads; ++h) {
        for (int k = 0; k < 2; ++k) {
          const T* const from = sources[k]->at(b, i, h);
          const std::ptrdiff_t to = caches[k]->at(row, position, h) - caches[k]->memory->data();
          std::copy(from, from + given.p.head_dim, caches_[k].begin() + to);
        }
      }
    }
  }

  void check_row(Case<T>& given, int b, int token, int head, int number, Checker& checker) const {
    const TreeAttentionParams& p = given.p;
    const T* const got = given.out->at(b, token, head);
    const float lse = (*given.lse)[(b * p.num_tokens + token) * p.num_heads + head];
    std::vector<double> expected(p.head_dim, 0.0);
    double expected_lse = -std::numeric_limits<double>::infinity();
    if (valid_[b] && token < given.counts[b]) {
      expected_lse = attend(given, b, token, head, expected);
    }
    const double tolerance = tolerance_of(T{});
    bool right = true;
    for (int d = 0; d < p.head_dim; ++d) {
      const double value = to_float(got[d]);
      right &=
          std::isnan(expected[d]) ? std::isnan(value) : std::fabs(value - expected[d]) <= tolerance;
    }
    const bool lse_right = lse == expected_lse || std::fabs(lse - expected_lse) <= 2e-5;
    checker.expect(right && lse_right,
                   "case %d: row %d, token %d, head %d: %g, not %g; lse %g, not %g", number, b,
                   token, head, double{to_float(got[0])}, expected[0], double{lse}, expected_lse);
  }

  static double attend(const Case<T>& given, int b, int token, int head,
                       std::vector<double>& result) {
    const TreeAttentionParams& p = given.p;
    const int kv_head = head / (p.num_heads / p.num_kv_heads);
    const std::int64_t context = (*given.contexts)[b];
    const auto depth_of = [&](int node) {
      int depth = -1;
      for (; node >= 0; node = given.parent(b, node)) ++depth;
      return depth;
    };
    const int depth = depth_of(token);
    const std::int64_t first =
        p.window > 0 ? std::max<std::int64_t>(context + depth - p.window + 1, 0) : 0;
    std::vector<const T*> keys, values;
    for (std::int64_t s = first; s < context; ++s) {
      const auto [row, position] = given.place(b, s);
      keys.push_back(given.key_cache->at(row, position, kv_head));
      values.push_back(given.value_cache->at(row, position, kv_head));
    }
    for (int node = token; node >= 0; node = given.parent(b, node)) {
      if (context + depth_of(node) < first) break;
      keys.push_back(given.key->at(b, node, kv_head));
      values.push_back(given.value->at(b, node, kv_head));
    }
    const T* const query = given.query->at(b, token, head);
    std::vector<double> scores;
    for (const T* key : keys) {
      double score = 0.0;
      for (int d = 0; d < p.head_dim; ++d) score += double{to_float(query[d])} * to_float(key[d]);
      score *= p.scale;
      if (p.softcap > 0.0f) score = p.softcap * std::tanh(score / p.softcap);
      scores.push_back(score);
    }
    const double max = *std::max_element(scores.begin(), scores.end());
    double total = 0.0;
    for (std::size_t k = 0; k < scores.size(); ++k) {
      const double weight = std::exp(scores[k] - max);
      total += weight;
      for (int d = 0; d < p.head_dim; ++d) result[d] += weight * to_float(values[k][d]);
    }
    for (double& value : result) value /= total;
    return max + std::log(total);
  }

  std::vector<std::vector<T>> caches_;
  std::vector<bool> valid_;
};

}  // namespace via::testing
