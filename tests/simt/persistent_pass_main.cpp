// SPDX-License-Identifier: Apache-2.0
// Whole passes of toy Llama, Qwen2 and Qwen3 models through the persistent kernel against a forward
// pass in double precision: logits, saved hidden rows, keys and values. Argument: only the case
// with this name. Exit status 1 on wrong values.
//
// Tolerances, relative to the rms of the values: the reference rounds where the kernels round, so
// keys and values of the first layer differ where a sum in another order falls on the other side
// (2^-8 of one value). Attention's weights are rounded to bfloat16 in the kernels only, 2^-9 each;
// from there on, roundings differ and add up, 2^-9 / sqrt(3) rms each, about six a layer.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "main_output.h"
#include "persistent_engine.h"

namespace {

using namespace via::testing;
using via::BFloat16;
using via::persistent::begin_launch;
using via::persistent::Block;
using via::persistent::GridBarrier;
using via::persistent::kThreads;

struct Tolerance {
  double rms;
  double most;  // of one value
};
constexpr Tolerance kSumsOnly = {0.002, 0.02};
constexpr Tolerance kRoundings = {0.012, 0.04};

template <class T>
using TestPreset = via::persistent::Preset<T, 0>;
using Plain64 = TestPreset<via::persistent::Small<64>>;
using Plain128 = TestPreset<via::persistent::Small<128>>;
// Several sweeps in a product, a ring that wraps often.
using Narrow64 = TestPreset<via::persistent::Tuning<64, 32, 3, 2>>;

Checker checker;
const char* case_name = "";

// Two passes in one launch.
template <class P>
__global__ void __launch_bounds__(kThreads, 1)
    passes_kernel(const __grid_constant__ ModelArgs model, PassKind first, PassKind second,
                  const __grid_constant__ PassInput first_input,
                  const __grid_constant__ PassInput second_input) {
  using T = typename P::Tuning;
  via::persistent::run_launch<T>(model, [&](Block<T>& block, GridBarrier& barrier) {
    return via::persistent::run_pass<T>(block, barrier, first, first_input) &&
           via::persistent::run_pass<T>(block, barrier, second, second_input);
  });
}

template <class P>
void launch(ToyEngine& engine, PassKind pass) {
  via::persistent::launch_pass<P>(engine.args(), pass, engine.input(pass), engine.sizes().grid,
                                  nullptr);
  device_sync();
}
template <class P>
void launch(ToyEngine& engine, PassKind first, PassKind second) {
  LAUNCH_COOP(
      (passes_kernel<P>), static_cast<unsigned>(engine.sizes().grid), kThreads,
      via::persistent::launch_bytes<typename P::Tuning>(engine.shape(), engine.sizes().grid),
      nullptr, engine.args(), first, second, engine.input(first), engine.input(second));
  device_sync();
}

void expect_sound(ToyEngine& engine) {
  const auto& control = engine.control();
  checker.expect(control.fault[0].value == 0 && control.abort.value == 0, "%s: fault", case_name);
  checker.expect(control.base.value == control.arrivals.value, "%s: base %u after %u arrivals",
                 case_name, control.base.value, control.arrivals.value);
  checker.expect(engine.workspace_is_zero(), "%s: work space is not zero", case_name);
}

// Value(i): of the kernel.
template <typename Value>
void expect_near(const char* what, int b, int token, const Tolerance& tolerance,
                 const Numbers& expected, Value value) {
  double squares = 0.0, errors = 0.0, most = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(value(i) - expected[i]);
    squares += expected[i] * expected[i];
    errors += error * error;
    if (!(error <= most)) most = error;  // NaN stays
  }
  const double scale = std::sqrt(squares / static_cast<double>(expected.size()));
  const double rms = std::sqrt(errors / static_cast<double>(expected.size()));
  checker.expect(rms <= tolerance.rms * scale && most <= tolerance.most * scale,
                 "%s: %s of row %d, token %d: rms error %g, largest %g, of %g", case_name, what, b,
                 token, rms / scale, most / scale, scale);
}

void expect_row(ToyEngine& engine, int b, const RowResult& expected, bool has_logits) {
  for (int i = 0; i < engine.count(b); ++i) {
    const auto token = static_cast<std::size_t>(i);
    if (has_logits) {
      const float* const logits = engine.logits(b, i);
      expect_near("logits", b, i, kRoundings, expected.logits[token],
                  [&](std::size_t k) { return static_cast<double>(logits[k]); });
    }
    for (int layer = 0; layer < engine.shape().num_layers; ++layer) {
      for (const bool is_value : {false, true}) {
        const auto& side =
            (is_value ? expected.value : expected.key)[static_cast<std::size_t>(layer)];
        if (side.empty()) continue;
        const BFloat16* const cached = engine.cached(layer, is_value, b, engine.context(b) + i);
        expect_near(is_value ? "value" : "key", b, i, layer == 0 ? kSumsOnly : kRoundings,
                    side[token],
                    [&](std::size_t k) { return static_cast<double>(to_float(cached[k])); });
      }
    }
  }
}
void expect_hidden(ToyEngine& engine, int b, const RowResult& expected) {
  for (int i = 0; i < engine.count(b); ++i) {
    const float* const hidden = engine.hidden(b, i);
    expect_near("saved hidden row", b, i, kRoundings, expected.hidden[static_cast<std::size_t>(i)],
                [&](std::size_t k) { return static_cast<double>(hidden[k]); });
  }
}

// Cache positions that no new token of an open layer has.
std::vector<BFloat16> copy_of(DeviceBuffer<BFloat16>& cache) {
  return std::vector<BFloat16>(cache.begin(), cache.end());
}
void expect_untouched(ToyEngine& engine, const std::vector<BFloat16>& before, PassKind pass) {
  const auto kv = static_cast<std::size_t>(engine.kv_size());
  const auto& gates = engine.args().gates[static_cast<int>(pass)];
  std::size_t at = 0;
  for (int layer = 0; layer < engine.shape().num_layers; ++layer) {
    const bool is_open = via::persistent::gate_is_open(gates, 2 * layer);
    for (int side = 0; side < 2; ++side) {
      for (int b = 0; b < engine.sizes().batch; ++b) {
        for (int i = 0; i < engine.sizes().capacity; ++i, at += kv) {
          const int token = i - engine.context(b);
          if (is_open && token >= 0 && token < engine.count(b)) continue;
          checker.expect(std::memcmp(&before[at], engine.cache().data() + at, 2 * kv) == 0,
                         "%s: layer %d, row %d: position %d changed", case_name, layer, b, i);
        }
      }
    }
  }
}

RowTokens draw_tokens(Random& random, const ToyModel& model, int context, int count, bool is_tree) {
  RowTokens tokens;
  tokens.context = context;
  for (int i = 0; i < count; ++i) {
    tokens.ids.push_back(random.below(model.shape.vocab_size));
    const int parent = is_tree ? random.below(i + 1) - 1 : i - 1;
    tokens.parents.push_back(parent);
    tokens.depths.push_back(parent < 0 ? 0 : tokens.depths[static_cast<std::size_t>(parent)] + 1);
  }
  return tokens;
}

void close_gate(ToyEngine& engine, PassKind pass, int gate) {
  engine.args().gates[static_cast<int>(pass)].words[gate / 64] &=
      ~(std::uint64_t{1} << (gate % 64));
}

struct RowPlan {
  int context, count;
  bool is_tree;
};

// The full pass of a model, twice: right, and the same bits again; nothing else in the cache
// changes.
template <class P>
void test_model(const ModelShape& shape, const EngineSizes& sizes, std::vector<RowPlan> rows,
                unsigned seed) {
  Random random(seed);
  ToyModel model(shape, sizes.capacity + 8, seed);
  ToyEngine engine(model, sizes);
  for (int b = 0; b < sizes.batch; ++b) {
    const RowPlan& row = rows[static_cast<std::size_t>(b)];
    engine.set_row(b, draw_tokens(random, model, row.context, row.count, row.is_tree), random);
  }
  const std::vector<BFloat16> before = copy_of(engine.cache());
  launch<P>(engine, PassKind::kFull);
  expect_sound(engine);
  for (int b = 0; b < sizes.batch; ++b) {
    expect_row(engine, b, engine.expected(b, PassKind::kFull, 0, shape.num_layers), true);
  }
  expect_untouched(engine, before, PassKind::kFull);
  const std::vector<float> logits(engine.all_logits().begin(), engine.all_logits().end());
  const std::vector<BFloat16> cache = copy_of(engine.cache());
  write_output(logits.data(), 4 * logits.size());
  write_output(cache.data(), 2 * cache.size());
  launch<P>(engine, PassKind::kFull);
  expect_sound(engine);
  checker.expect(std::memcmp(logits.data(), engine.all_logits().data(), 4 * logits.size()) == 0,
                 "%s: other logits the second time", case_name);
  checker.expect(std::memcmp(cache.data(), engine.cache().data(), 2 * cache.size()) == 0,
                 "%s: another cache the second time", case_name);
}

#include "persistent_pass_cases.h"

}  // namespace

int main(int argc, char** argv) {
  const std::string only = argc > 1 ? argv[1] : "";
  for (const TestCase& test : kCases) {
    if (!only.empty() && only != test.name) continue;
    case_name = test.name;
    test.run();
  }
  return checker.status();
}
