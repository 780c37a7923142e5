// SPDX-License-Identifier: Apache-2.0
// The persistent step against the CPU's stages, verify and moves in the order of the stage-wise
// decoder: whole runs of random toy requests, every mode, chains and trees, ragged batches, full
// backlogs with a prefix pass, masks, drafts with a distribution; grids of one to three blocks.
// After every step requests, caches, saved hidden and slim rows must agree, and the work space must
// be zero again. Arguments: number of runs, seed. Exit status 1 on differences.

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "persistent/step.cuh"
#include "persistent_step_expected.h"
#include "persistent_step_toy.h"

namespace via::testing {
namespace {

using persistent::GridBarrier;
using persistent::StepArgs;

// The model's passes: a token to a block.
struct ToyPasses {
  const StepArgs& args;
  const CacheView* caches;
  GridBarrier& barrier;
  unsigned char* memory;
  bool gives_up;  // the first block sets the abort word, as a wait of verify does at its limit
  PassKind kind;

  VIA_DEVICE bool run(const PassInput& input) {
    const int units = args.step.batch_size * input.width;
    for (int unit = static_cast<int>(blockIdx.x); unit < units;
         unit += static_cast<int>(gridDim.x)) {
      const int b = unit / input.width, i = unit % input.width;
      if (i >= input.counts[b]) continue;
      toy_token(args.model, caches, kind, input, b, i, static_cast<int>(threadIdx.x),
                persistent::kThreads);
    }
    const bool goes_on = persistent::grid_sync(barrier, 0);
    if (gives_up && blockIdx.x == 0 && threadIdx.x == 0) {
      prim::st_release(&barrier.control->abort.value, 1u);
    }
    return goes_on;
  }
  VIA_DEVICE unsigned char* scratch() const { return memory; }
};

constexpr std::size_t kScratchBytes =
    std::max(sizeof(cuda::VerifyShared), sizeof(cuda::ProbsShared)) + 1024;

__global__ void __launch_bounds__(persistent::kThreads, 1)
    toy_step_kernel(const __grid_constant__ StepArgs args, const CacheView* caches, bool gives_up) {
  DYN_SMEM(memory);
  GridBarrier barrier;
  const bool starts = persistent::begin_launch(args.model, barrier);
  ToyPasses passes{args, caches, barrier, memory, gives_up, PassKind::kFull};
  if (starts && persistent::run_step(passes)) persistent::end_launch(barrier);
}

struct Counts {
  int steps = 0, full = 0, prefix = 0, moves = 0, branches = 0;
};

class Run {
 public:
  Run(Checker& checker, Counts& counts, Mode mode)
      : checker_(checker), counts_(counts), mode_(mode) {}

  void run() {
    const bool has_tree = mode_ == Mode::kExactSample || uniform(0, 1) != 0;
    const bool samples =
        mode_ == Mode::kExactSample || (mode_ != Mode::kExactGreedy && uniform(0, 1) != 0);
    const StepParams sizes = draw_sizes(mode_, 6, 4);
    const int vocab = uniform(0, 1) != 0 ? uniform(40, 300) : 2 * cuda::kChunk + uniform(1, 40);
    const bool holds = uniform(0, 2) > 0;
    World found(mode_, sizes, vocab, samples, holds), wanted(mode_, sizes, vocab, samples, holds);
    const ToyMemory toy_found(found.memory, found.step(), vocab);
    const ToyMemory toy_wanted(wanted.memory, wanted.step(), vocab);
    found.launch.model = toy_found.model;
    found.launch.caches = toy_found.caches;
    wanted.launch.model = toy_wanted.model;
    wanted.launch.caches = toy_wanted.caches;
    found.launch.moves = wanted.launch.moves = has_tree;
    found.launch.grid = uniform(1, 3);
    enter(found, wanted);
    StepArgs args;
    const std::size_t bytes = persistent::make_step_args(found.launch, args).bytes;
    const auto place = reinterpret_cast<std::uintptr_t>(found.memory.take<char>(bytes + 256));
    found.launch.model.buffers.workspace = reinterpret_cast<void*>((place + 255) / 256 * 256);
    for (int i = 0; i < 10; ++i) {
      draft(found, wanted, vocab, has_tree);
      step(found, toy_found, false);
      expect(found, toy_found, wanted, toy_wanted);
    }
    draft(found, wanted, vocab, has_tree);
    give_up(found, toy_found);
  }

 private:
  // What verify did not finish is not committed, and the fault is named.
  void give_up(World& found, const ToyMemory& toy) {
    const StepParams& p = found.step();
    const std::vector<std::int32_t> lengths(p.lengths, p.lengths + p.batch_size);
    step(found, toy, true);
    checker_.expect(std::equal(lengths.begin(), lengths.end(), p.lengths),
                    "a step that was given up must commit nothing");
    const auto& control = *found.launch.model.control;
    checker_.expect(control.fault[persistent::kFaultCode].value ==
                        static_cast<unsigned>(persistent::FaultCode::kWait),
                    "fault code %u", control.fault[persistent::kFaultCode].value);
  }

  static void step(World& world, const ToyMemory& toy, bool gives_up) {
    StepArgs args;
    persistent::make_step_args(world.launch, args);
    LAUNCH_COOP(toy_step_kernel, static_cast<unsigned>(world.launch.grid), persistent::kThreads,
                kScratchBytes, nullptr, args, toy.caches, gives_up);
    device_sync();
  }

  void expect(World& found, const ToyMemory& toy_found, World& wanted,
              const ToyMemory& toy_wanted) {
    ExpectedStep expected(wanted, [&](PassKind kind, const PassInput& input) {
      for (int b = 0; b < wanted.step().batch_size; ++b) {
        for (int i = 0; i < input.counts[b]; ++i) {
          toy_token(toy_wanted.model, toy_wanted.caches, kind, input, b, i, 0, 1);
        }
      }
    });
    expected.run();
    counts_.steps += 1;
    counts_.full += expected.is_full;
    counts_.prefix += expected.has_prefix;
    counts_.branches += expected.leaves_chain;
    for (int b = 0; b < wanted.step().batch_size; ++b) {
      counts_.moves += wanted.step().move_counts[b] > 0;
    }
    expect_same_step(checker_, found, wanted, toy_found.model.shape.vocab_size);
    expect_equal<char>(checker_, "cache", toy_found.cache_bytes, toy_wanted.cache_bytes,
                       2 * kLayers * toy_wanted.cache_count);
    expect_equal<float>(checker_, "hidden", toy_found.model.buffers.hidden,
                        toy_wanted.model.buffers.hidden, toy_wanted.hidden_count);
    StepArgs args;
    const std::size_t zero_bytes = persistent::make_step_args(found.launch, args).zero_bytes;
    const char* const workspace = static_cast<char*>(found.launch.model.buffers.workspace);
    for (std::size_t i = 0; i < zero_bytes; ++i) {
      checker_.expect(workspace[i] == 0, "work space byte %zu", i);
    }
  }

  Checker& checker_;
  Counts& counts_;
  Mode mode_;
};

}  // namespace
}  // namespace via::testing

int main(int argc, char** argv) {
  const int runs = argc > 1 ? std::atoi(argv[1]) : 15;
  via::testing::random_bits.seed(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  via::testing::Checker checker;
  via::testing::Counts counts;
  for (int i = 0; i < runs; ++i) {
    via::testing::Run(checker, counts, static_cast<via::testing::Mode>(i % 5)).run();
  }
  std::printf(
      "%d steps, %d with a full pass, %d with a prefix pass, %d moves, %d audits off the chain\n",
      counts.steps, counts.full, counts.prefix, counts.moves, counts.branches);
  checker.expect(runs < 10 || (counts.full > 0 && counts.prefix > 0 && counts.moves > 0 &&
                               counts.branches > 0),
                 "the cases must reach full and prefix passes, moves, audits off the chain");
  return checker.status();
}
