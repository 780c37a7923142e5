// SPDX-License-Identifier: Apache-2.0
// verify's kernel against verify_cpu: small random trees, every rule, two dtypes, filters, masks,
// residuals, reduced draft vocabularies, routers and resumed calls by chance; then final draws
// after all drafts were rejected, which chance hardly brings. Decisions must be equal, ratios and
// log-probabilities close, and the work space must be zero again. Arguments: number of cases, seed.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <random>

#include "cuda/verify_launch.cuh"
#include "gpu_or_simt.h"
#include "verify_outputs.h"
#include "via/verify.h"

namespace via {
namespace {

using testing::Checker;
using testing::DeviceBuffer;
using testing::Outputs;

std::mt19937 random_bits;
int below(int n) { return static_cast<int>(random_bits() % static_cast<unsigned>(n)); }
float uniform() { return static_cast<float>(random_bits() >> 8) * 0x1p-24f; }

enum class Kind {
  kAny,
  kResidual,    // drafts with distributions over a reduced vocabulary, all rejected
  kFarApart,    // one-hot drafts, all rejected, in chunks that one warp reads
  kNothingLeft  // one-hot drafts that are all there is: rounding alone rejects them
};
constexpr float kHighestCoin = 0x1.fffffep-1f;

// The inputs of one call, in memory that the race detector watches.
struct Case {
  explicit Case(Kind kind);
  void draw_tree();
  void reject_all();
  void draw_filters();
  void draw_drafts();
  void draw_router();
  // As bfloat16, by dropping bits.
  void narrow_logits();

  Kind kind;
  int batch = 1 + below(2), nodes = kind == Kind::kAny ? below(6) : 3;
  int vocab = kind == Kind::kFarApart      ? 9 * cuda::kChunk
              : kind == Kind::kNothingLeft ? 600
                                           : 40 + below(5000);
  int rows = batch * (nodes + 1), words = (vocab + 31) / 32;
  int draft_vocab = kind != Kind::kAny ? nodes + below(vocab - nodes)
                    : below(2) != 0    ? vocab
                                       : 1 + below(vocab);
  bool is_flat = below(4) == 0;
  VerifyParams p;
  DeviceBuffer<float> logits{static_cast<std::size_t>(rows) * vocab};
  DeviceBuffer<std::uint16_t> narrow{static_cast<std::size_t>(rows) * vocab};
  DeviceBuffer<float> uniforms{static_cast<std::size_t>(rows)};
  DeviceBuffer<std::int64_t> tokens{static_cast<std::size_t>(batch) * nodes + 1};
  DeviceBuffer<std::int64_t> parents{static_cast<std::size_t>(batch) * nodes + 1};
  DeviceBuffer<float> drafts{static_cast<std::size_t>(batch) * nodes * draft_vocab + 1};
  DeviceBuffer<float> router{static_cast<std::size_t>(batch) * kRouterSize};
  DeviceBuffer<float> scores{static_cast<std::size_t>(rows) * 2};
  DeviceBuffer<std::int32_t> map{static_cast<std::size_t>(draft_vocab)};
  DeviceBuffer<std::int32_t> allowed{static_cast<std::size_t>(rows) * words, -1};
};

Case::Case(Kind kind) : kind(kind) {
  p.batch_size = batch;
  p.num_nodes = nodes;
  p.vocab_size = p.draft_vocab_size = vocab;
  p.rule = static_cast<Rule>(below(3));
  p.num_threads = 1;
  p.accept_threshold.value = 0.6f;
  p.escalate_threshold.value = 0.1f;
  draw_filters();
  // Flat rows keep too much to sort: radix selection.
  for (float& logit : logits) logit = (is_flat ? 0.5f : 4.0f) * uniform();
  for (float& value : uniforms) value = below(8) != 0 ? uniform() : kHighestCoin;
  draw_tree();
  if (kind != Kind::kAny) reject_all();
  p.uniform_samples = {uniforms.data(), DType::kFloat32, {nodes + 1}};
  p.logits = {logits.data(), DType::kFloat32, {std::int64_t{nodes + 1} * vocab, vocab}};
  if (below(2) != 0) narrow_logits();
  if (kind == Kind::kAny ? below(2) != 0 : kind == Kind::kResidual) draw_drafts();
  if (p.rule == Rule::kRoute && below(2) != 0) draw_router();
  if (below(3) == 0 && kind != Kind::kNothingLeft) {
    for (std::int32_t& word : allowed) word &= ~(1 << below(31));
    p.allowed = {allowed.data(), DType::kInt32, {std::int64_t{nodes + 1} * words, words}};
  }
}

void Case::draw_filters() {
  const bool all = below(4) == 0;
  p.filter.top_p.value = 1.0f;
  if (all || below(3) != 0) p.filter.temperature.value = 0.5f + uniform();
  // Small ones are sorted, large ones selected.
  if (all || below(3) == 0) p.filter.top_k.value = 1 + below(below(2) != 0 ? 30 : vocab);
  if (all || below(3) == 0) p.filter.top_p.value = is_flat ? 0.99f : 0.2f + 0.8f * uniform();
  if (all || below(3) == 0) p.filter.min_p.value = 0.05f;
}

void Case::draw_tree() {
  const bool is_wide = below(4) == 0;  // all nodes are siblings
  for (int i = 0; i < batch * nodes; ++i) {
    const int node = i % nodes, request = i / nodes;
    parents[i] = is_wide ? -1 : below(2) != 0 ? node - 1 : below(node + 1) - 1;
    tokens[i] = below(vocab);
    // A token that its parent's row likes, so that paths grow.
    const std::size_t row = static_cast<std::size_t>(request) * (nodes + 1) + parents[i] + 1;
    if (kind == Kind::kAny && below(4) != 0) logits[row * vocab + tokens[i]] = 8.0f + uniform();
  }
  p.draft_token_ids = {tokens.data(), DType::kInt64, {nodes}};
  p.parents = {parents.data(), DType::kInt64, {nodes}};
}

// Siblings that the verifier likes no better than other tokens, and coins that forgive nothing.
void Case::reject_all() {
  p.rule = Rule::kSample;
  p.filter.temperature.value = 1.0f;
  for (int i = 0; i < batch * nodes; ++i) {
    parents[i] = -1;
    uniforms[i / nodes * (nodes + 1) + i % nodes] = kHighestCoin;
    if (kind == Kind::kFarApart) tokens[i] = i % nodes * 4 * cuda::kChunk + below(cuda::kChunk);
  }
  if (kind != Kind::kNothingLeft) return;
  // Weights 1, then twice a little more than half of what float32 can add to it: the sum comes out
  // larger than its terms. Distances of 256 tokens let one lane add them, one after the other.
  p.filter = {};
  p.filter.temperature.value = p.filter.top_p.value = 1.0f;
  std::fill(logits.begin(), logits.end(), kNegInf);
  for (int i = 0; i < batch * nodes; ++i) {
    tokens[i] = i % nodes * 256;
    const std::size_t row = static_cast<std::size_t>(i / nodes) * (nodes + 1);
    logits[row * vocab + tokens[i]] = i % nodes == 0 ? 0.0f : -16.625f;
  }
}

void Case::narrow_logits() {
  for (std::size_t i = 0; i < logits.size(); ++i) {
    narrow[i] = static_cast<std::uint16_t>(bits_as<std::uint32_t>(logits[i]) >> 16);
  }
  p.logits.data = narrow.data();
  p.logits.dtype = DType::kBFloat16;
}

void Case::draw_drafts() {
  const int columns = draft_vocab;
  p.draft_probs_are_logits = below(2) != 0;
  for (float& value : drafts) {
    value = p.draft_probs_are_logits ? 3.0f * uniform() : uniform() / static_cast<float>(columns);
  }
  p.draft_probs = {drafts.data(), DType::kFloat32, {std::int64_t{nodes} * columns, columns}};
  if (columns == vocab) return;
  // Some ids twice, and now and then one outside the vocabulary.
  for (std::int32_t& id : map) id = below(200) != 0 ? below(vocab) : vocab + below(3);
  p.draft_vocab_size = columns;
  p.draft_to_target = {map.data(), DType::kInt32, {1}};
  if (kind != Kind::kResidual) return;
  // The drafter knows its own tokens, and likes them.
  for (int i = 0; i < batch * nodes; ++i) {
    const int column = i % nodes;
    tokens[i] = tokens[column];  // one map for all requests
    map[column] = static_cast<std::int32_t>(tokens[i]);
    drafts[static_cast<std::size_t>(i) * columns + column] = p.draft_probs_are_logits ? 9.0f : 0.1f;
  }
}

// One for each request in memory or one for all by value, with and without the drafter's scores.
void Case::draw_router() {
  for (float& number : router) number = 2.0f * uniform() - 1.0f;
  for (int b = 0; b < batch; ++b) {
    float* const limits = router.data() + b * kRouterSize + 3 * kRouterWeights;
    for (int m = 0; m < 3; ++m) limits[m] *= below(6) != 0 ? 6.0f : kPosInf;
  }
  p.use_router = true;
  p.router.data = router.data();
  p.router.stride = kRouterSize;
  if (below(2) != 0) {
    std::copy(router.begin(), router.begin() + kRouterSize, p.router.values);
    p.router.data = nullptr;
  }
  if (below(8) == 0) router[kRouterSize - 5] = kPosInf;
  if (below(3) == 0) return;
  for (float& score : scores) score = 40.0f * uniform() - 25.0f;
  p.draft_scores = {scores.data(), DType::kFloat32, {std::int64_t{nodes} * 2, 2}};
}

void check_case(int number, Kind kind, Checker& checker) {
  Case given(kind);
  VerifyParams& p = given.p;
  Outputs earlier(given.batch, given.nodes, true);
  Verification resumed = earlier.view();
  const bool resumes = kind == Kind::kAny && p.rule != Rule::kRoute && below(3) == 0;
  if (resumes) {
    VerifyParams first = p;
    first.rule = Rule::kRoute;
    first.escalate_threshold.value = 0.5f;
    first.out = resumed;
    verify_cpu(first);
    p.resume = &resumed;
  }
  const bool with_route = resumes || p.rule == Rule::kRoute;
  Outputs host(given.batch, given.nodes, with_route), device(given.batch, given.nodes, with_route);
  p.out = host.view();
  verify_cpu(p);
  p.out = device.view();
  DeviceBuffer<char> workspace(cuda::workspace_bytes(p), '\0');
  const cuda::DeviceLimits limits = {1 + below(3), 1 + below(2), below(2) != 0 ? 1.0 : 8e6,
                                     1 << below(4)};
  cuda::launch_verify(p, workspace.data(), limits, nullptr);
  testing::device_sync();

  const int rule = static_cast<int>(p.rule);
  checker.expect(equal(device.path, host.path) && equal(device.num_accepted, host.num_accepted),
                 "case %d, rule %d: path", number, rule);
  checker.expect(equal(device.next_token, host.next_token) && equal(device.next_row, host.next_row),
                 "case %d, rule %d: next token", number, rule);
  checker.expect(equal(device.escalate, host.escalate) && equal(device.status, host.status) &&
                     equal(device.tiers, host.tiers),
                 "case %d, rule %d: route or status", number, rule);
  checker.expect(close(device.ratios, host.ratios) && close(device.logprobs, host.logprobs),
                 "case %d, rule %d: ratios or log-probabilities", number, rule);
  checker.expect(std::all_of(workspace.begin(), workspace.end(), [](char c) { return c == 0; }),
                 "case %d, rule %d: the work space is not zero", number, rule);
}

int run(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 40;
  random_bits.seed(argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 1u);
  Checker checker;
  int number = 0;
  const auto check = [&](Kind kind, int count) {
    for (int i = 0; i < count; ++i) check_case(number++, kind, checker);
  };
  check(Kind::kAny, cases);
  check(Kind::kResidual, cases / 8);
  check(Kind::kFarApart, cases / 40);
  check(Kind::kNothingLeft, cases / 40);
  return checker.status();
}

}  // namespace
}  // namespace via

int main(int argc, char** argv) { return via::run(argc, argv); }
