// SPDX-License-Identifier: Apache-2.0
// The persistent step with a model's passes in it: one launch of a toy Llama, against the same
// passes launched one by one with the CPU's stages, verify and moves between them. Runs of a few
// steps in every mode. Requests must agree, keys, values and saved hidden rows bit by bit; work
// space and barrier must be ready for the next launch. Last, a launch that a block stays away from.
// Arguments: number of runs, seed. Exit status 1 on differences.

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "persistent/step_launch.cuh"
#include "persistent_engine.h"
#include "persistent_step_expected.h"

namespace via::testing {
namespace {

using Preset = persistent::Preset<persistent::Tuning<64, 32, 3, 2>, persistent::kSmallBytes>;

constexpr int kSharedPrefix = 1;
constexpr int kGrid = 3;

class Run {
 public:
  Run(Checker& checker, Mode mode)
      : checker_(checker),
        mode_(mode),
        sizes_(sizes_of(mode)),
        model_(toy_shape(64, 3, 2, 1, 64, 72, 133), sizes_.capacity,
               1 + static_cast<unsigned>(uniform(0, 99))),
        found_engine_(model_, engine_sizes()),
        wanted_engine_(model_, engine_sizes()) {}

  void run(int steps) {
    const bool has_tree = uniform(0, 1) != 0;
    const bool samples =
        mode_ == Mode::kExactSample || (mode_ != Mode::kExactGreedy && uniform(0, 1) != 0);
    const int vocab = model_.shape.vocab_size;
    World found(mode_, sizes_, vocab, samples, true), wanted(mode_, sizes_, vocab, samples, true);
    enter_model(found, found_engine_, has_tree);
    enter_model(wanted, wanted_engine_, has_tree);
    enter(found, wanted);
    for (int i = 0; i < steps; ++i) {
      draft(found, wanted, vocab, has_tree);
      persistent::launch_step<Preset>(found.launch);
      device_sync();
      ExpectedStep expected(wanted, [&](PassKind kind, const PassInput& input) {
        persistent::launch_pass<Preset>(wanted.launch.model, kind, input, kGrid, nullptr);
        device_sync();
      });
      expected.run();
      full_ += expected.is_full;
      prefix_ += expected.has_prefix;
      expect(found, wanted);
    }
    miss(found);
  }

  int full() const { return full_; }
  int prefix() const { return prefix_; }

 private:
  static StepParams sizes_of(Mode mode) {
    StepParams sizes = draw_sizes(mode, 3, 3);
    sizes.tail_width -= 1;  // the row behind the last token is not needed: nothing reads it
    return sizes;
  }
  EngineSizes engine_sizes() const {
    return {sizes_.batch_size, sizes_.max_backlog + sizes_.num_nodes + 1, sizes_.capacity, kGrid,
            kSharedPrefix};
  }

  // The slim verifier leaves out the second layer's attention and the last layer's MLP.
  void enter_model(World& world, ToyEngine& engine, bool has_tree) {
    for (const int gate : {2, 5}) {
      engine.args().gates[static_cast<int>(PassKind::kSlim)].words[0] &=
          ~(std::uint64_t{1} << gate);
    }
    Random random(7);
    const Numbers old = random.numbers(static_cast<std::int64_t>(engine.cache().size()), 1.0);
    for (std::size_t i = 0; i < old.size(); ++i) {
      narrow(static_cast<float>(old[i]), engine.cache()[i]);
    }
    for (float& logit : engine.all_logits()) logit = 0.0f;
    persistent::StepLaunch& launch = world.launch;
    launch.model = engine.args();
    launch.grid = kGrid;
    launch.moves = has_tree;
    launch.slim.accept_threshold.value = 0.02f;
    const int layers = model_.shape.num_layers;
    CacheView* const caches = world.memory.take<CacheView>(2 * layers);
    const std::int64_t position = engine.kv_size() * 2;
    for (int c = 0; c < 2 * layers; ++c) {
      caches[c] = {engine.cached(c / 2, c % 2 != 0, 0, 0),
                   {sizes_.capacity * position, position, model_.shape.head_dim * 2},
                   model_.shape.num_kv_heads,
                   model_.shape.head_dim * 2};
    }
    launch.caches = caches;
    const std::size_t bytes = persistent::step_workspace_bytes(launch);
    const auto place = reinterpret_cast<std::uintptr_t>(world.memory.take<char>(bytes + 256));
    launch.model.buffers.workspace = reinterpret_cast<void*>((place + 255) / 256 * 256);
  }

  void expect(World& found, World& wanted) {
    expect_same_step(checker_, found, wanted, model_.shape.vocab_size);
    const std::size_t cache_bytes = found_engine_.cache().size() * sizeof(BFloat16);
    checker_.expect(
        std::memcmp(found_engine_.cache().data(), wanted_engine_.cache().data(), cache_bytes) == 0,
        "mode %d: another cache", static_cast<int>(mode_));
    const int hidden_rows = found.launch.model.buffers.hidden_rows;
    for (int b = 0; b < sizes_.batch_size; ++b) {
      checker_.expect(
          std::memcmp(found_engine_.hidden(b, 0), wanted_engine_.hidden(b, 0),
                      (hidden_rows - 1) * model_.shape.hidden_size * sizeof(float)) == 0,
          "mode %d: other hidden rows of request %d", static_cast<int>(mode_), b);
    }
    persistent::StepArgs args;
    const std::size_t zero_bytes = persistent::make_step_args(found.launch, args).zero_bytes;
    const char* const workspace = static_cast<char*>(found.launch.model.buffers.workspace);
    for (std::size_t i = 0; i < zero_bytes; ++i) {
      checker_.expect(workspace[i] == 0, "work space byte %zu", i);
    }
    const persistent::Control& control = found_engine_.control();
    checker_.expect(control.abort.value == 0 && control.base.value == control.arrivals.value,
                    "barrier: base %u after %u arrivals", control.base.value,
                    control.arrivals.value);
  }

  // The first barrier names the wait; nobody hangs.
  void miss(World& found) {
    found.launch.model.missing_block = 1;
    found.launch.model.watchdog_ns = 1000;
    persistent::launch_step<Preset>(found.launch);
    device_sync();
    const persistent::Control& control = found_engine_.control();
    checker_.expect(control.abort.value == 1, "a missing block must abort the launch");
    checker_.expect(control.fault[persistent::kFaultCode].value ==
                        static_cast<unsigned>(persistent::FaultCode::kBarrier),
                    "fault code %u", control.fault[persistent::kFaultCode].value);
    found_engine_.reset();
  }

  Checker& checker_;
  Mode mode_;
  StepParams sizes_;
  ToyModel model_;
  ToyEngine found_engine_, wanted_engine_;
  int full_ = 0, prefix_ = 0;
};

}  // namespace
}  // namespace via::testing

int main(int argc, char** argv) {
  const int runs = argc > 1 ? std::atoi(argv[1]) : 5;
  via::testing::random_bits.seed(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  via::testing::Checker checker;
  int full = 0, prefix = 0;
  for (int i = 0; i < runs; ++i) {
    via::testing::Run run(checker, static_cast<via::testing::Mode>(i % 5));
    run.run(4);
    full += run.full();
    prefix += run.prefix();
  }
  std::printf("%d steps with a full pass, %d with a prefix pass\n", full, prefix);
  checker.expect(runs < 5 || (full > 0 && prefix > 0), "the runs must reach both");
  return checker.status();
}
