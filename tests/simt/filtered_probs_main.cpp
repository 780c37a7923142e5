// SPDX-License-Identifier: Apache-2.0
// filtered_probs' kernel against filtered_probs_cpu: small random rows of three dtypes at any
// alignment, per-row and common filters, masks, NaN and infinities by chance; probabilities, tokens
// or both, in strided outputs. Tokens must be equal, probabilities close, the gaps of the outputs
// untouched, and the work space zero again. Arguments: number of cases, seed.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <vector>

#include "core/half.h"
#include "cuda/filtered_probs_launch.cuh"
#include "gpu_or_simt.h"
#include "via/filter.h"

namespace via {
namespace {

using testing::Checker;
using testing::DeviceBuffer;

constexpr float kUnwritten = 7.0f;
constexpr std::int64_t kNoToken = 77;

std::mt19937 random_bits;
int below(int n) { return static_cast<int>(random_bits() % static_cast<unsigned>(n)); }
bool one_in(int n) { return below(n) == 0; }
float uniform() { return static_cast<float>(random_bits() >> 8) * 0x1p-24f; }

struct Outputs {
  Outputs(std::int64_t probs, std::int64_t tokens)
      : probs(static_cast<std::size_t>(probs), kUnwritten),
        tokens(static_cast<std::size_t>(tokens), kNoToken) {}
  DeviceBuffer<float> probs;
  DeviceBuffer<std::int64_t> tokens;
};

// The inputs of one call, in memory that the race detector watches.
struct Case {
  Case();
  void draw_logits();
  void draw_filters();
  FilteredProbsParams with(Outputs& out);

  int rows = 1 + below(4), vocab = one_in(4) ? 1 + below(40) : 1 + below(9000);
  int words = (vocab + 31) / 32;
  std::int64_t stride = vocab + (one_in(2) ? below(9) : 0);
  std::int64_t probs_stride = vocab + (one_in(2) ? below(9) : 0), token_stride = 1 + below(3);
  int first = one_in(2) ? below(9) : 0;  // logits and probs start so many elements into theirs
  bool is_flat = one_in(3), wants_probs = !one_in(3), wants_tokens = !wants_probs || one_in(2);
  FilteredProbsParams p;
  DeviceBuffer<float> logits{static_cast<std::size_t>(rows * stride + first)};
  DeviceBuffer<std::uint16_t> narrow{static_cast<std::size_t>(rows * stride + first)};
  DeviceBuffer<std::int32_t> allowed{static_cast<std::size_t>(rows * words), -1};
  DeviceBuffer<std::int64_t> seed{static_cast<std::size_t>(rows)};
  DeviceBuffer<std::int64_t> position{static_cast<std::size_t>(rows)};
  DeviceBuffer<float> temperature{static_cast<std::size_t>(rows)};
  DeviceBuffer<float> top_p{static_cast<std::size_t>(rows)};
  DeviceBuffer<float> min_p{static_cast<std::size_t>(rows)};
  DeviceBuffer<std::int32_t> top_k{static_cast<std::size_t>(rows)};
};

Case::Case() {
  p.num_rows = rows;
  p.vocab_size = vocab;
  p.num_threads = 1;
  p.column = below(5);
  for (std::int64_t& value : seed) value = static_cast<std::int64_t>(random_bits()) << 20;
  for (std::int64_t& value : position) value = below(1000);
  p.seed = seed.data();
  p.position = position.data();
  draw_filters();
  draw_logits();
  if (!one_in(3)) return;
  for (std::int32_t& word : allowed) word &= ~(1 << below(31));
  if (one_in(3)) std::fill_n(allowed.begin(), words, 0);
  p.allowed = {allowed.data(), DType::kInt32, {words}};
}

void Case::draw_filters() {
  const bool all = one_in(4);
  for (int i = 0; i < rows; ++i) {
    const bool is_on = all || one_in(3);
    temperature[i] = one_in(3) ? 0.0f : one_in(30) ? -1.0f : 0.5f + uniform();
    // Few are sorted, many selected by radix.
    top_k[i] = is_on ? 1 + below(one_in(2) ? 30 : vocab) : 0;
    top_p[i] = all || one_in(3) ? (is_flat ? 0.99f : 0.2f + 0.8f * uniform()) : 1.0f;
    min_p[i] = all || one_in(4) ? 0.05f : 0.0f;
  }
  p.filter = {
      {nullptr, temperature[0]}, {nullptr, top_k[0]}, {nullptr, top_p[0]}, {nullptr, min_p[0]}};
  if (one_in(2)) p.filter.temperature.data = temperature.data();
  if (one_in(2)) p.filter.top_k.data = top_k.data();
  if (one_in(2)) p.filter.top_p.data = top_p.data();
  if (one_in(2)) p.filter.min_p.data = min_p.data();
}

void Case::draw_logits() {
  // Flat rows keep too much to sort.
  for (float& logit : logits) logit = (is_flat ? 0.5f : 4.0f) * uniform();
  for (int i = 0; i < rows; ++i) {
    float* const row = logits.data() + first + i * stride;
    if (!is_flat) row[below(vocab)] = 8.0f + uniform();
    if (one_in(8)) row[below(vocab)] = NAN;
    if (one_in(8)) row[below(vocab)] = INFINITY;
    if (one_in(8)) std::fill_n(row, vocab, -INFINITY);
  }
  p.logits = {logits.data() + first, DType::kFloat32, {stride}};
  if (one_in(3)) return;
  // bfloat16 by dropping bits; as float16 the same bits are other numbers, NaN and infinities too.
  for (std::size_t i = 0; i < logits.size(); ++i) {
    narrow[i] = static_cast<std::uint16_t>(bits_as<std::uint32_t>(logits[i]) >> 16);
  }
  p.logits.data = narrow.data() + first;
  p.logits.dtype = one_in(2) ? DType::kFloat16 : DType::kBFloat16;
}

FilteredProbsParams Case::with(Outputs& out) {
  FilteredProbsParams params = p;
  params.probs = wants_probs ? out.probs.data() + first : nullptr;
  params.probs_stride = probs_stride;
  params.token_ids = wants_tokens ? out.tokens.data() : nullptr;
  params.token_ids_stride = token_stride;
  return params;
}

bool close(DeviceBuffer<float>& a, DeviceBuffer<float>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!(std::fabs(a[i] - b[i]) <= 2e-6f * std::fabs(b[i]) + 1e-9f)) return false;
  }
  return true;
}

void check_case(int number, Checker& checker) {
  Case given;
  const std::int64_t probs = given.rows * given.probs_stride + given.first;
  Outputs host(probs, given.rows * given.token_stride);
  Outputs device(probs, given.rows * given.token_stride);
  filtered_probs_cpu(given.with(host));
  const FilteredProbsParams params = given.with(device);
  DeviceBuffer<char> workspace(cuda::workspace_bytes(params), '\0');
  cuda::launch_filtered_probs(params, workspace.data(), {1 + below(4), 1 << below(4)}, nullptr);
  testing::device_sync();
  checker.expect(std::equal(device.tokens.begin(), device.tokens.end(), host.tokens.begin()),
                 "case %d: tokens", number);
  checker.expect(close(device.probs, host.probs), "case %d: probabilities", number);
  checker.expect(std::all_of(workspace.begin(), workspace.end(), [](char c) { return c == 0; }),
                 "case %d: the work space is not zero", number);
  // A row's bits depend neither on the grid nor on the rows beside it.
  Outputs single(probs, given.rows * given.token_stride);
  FilteredProbsParams one = given.with(single);
  const int row = given.rows - 1;
  const auto at = [&](auto& param) {
    if (param.data != nullptr) param.data += row;
  };
  at(one.filter.temperature), at(one.filter.top_k), at(one.filter.top_p), at(one.filter.min_p);
  const std::int64_t item = one.logits.dtype == DType::kFloat32 ? 4 : 2;
  one.logits.data =
      static_cast<char*>(const_cast<void*>(one.logits.data)) + row * given.stride * item;
  if (one.allowed.data != nullptr) one.allowed.data = given.allowed.data() + row * given.words;
  one.num_rows = 1;
  one.seed += row, one.position += row;
  if (one.probs != nullptr) one.probs += row * given.probs_stride;
  if (one.token_ids != nullptr) one.token_ids += row * given.token_stride;
  cuda::launch_filtered_probs(one, workspace.data(), {1 + below(3), 1 << below(4)}, nullptr);
  testing::device_sync();
  const std::size_t from = given.first + row * given.probs_stride;
  const std::size_t place = row * given.token_stride;
  checker.expect(
      std::equal(single.probs.begin() + from, single.probs.end(), device.probs.begin() + from) &&
          single.tokens[place] == device.tokens[place],
      "case %d: a row alone differs", number);
}

int run(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 40;
  random_bits.seed(argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 1u);
  Checker checker;
  for (int i = 0; i < cases; ++i) check_case(i, checker);
  return checker.status();
}

}  // namespace
}  // namespace via

int main(int argc, char** argv) { return via::run(argc, argv); }
