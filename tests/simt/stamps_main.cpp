// SPDX-License-Identifier: Apache-2.0
// stamps_<build> [FILE]: the hooks of persistent/stamps.cuh in a kernel of a few phases; with a
// name the stamps go there as CSV. Exit status: 0 ok, 1 wrong values, 86 layer error.
#define VIA_STAMPS

#include <vector>

#include "gpu_or_simt.h"
#include "persistent/stamps.cuh"
#include "stamps_file.h"

namespace via::persistent {
namespace {

using testing::Checker;
using testing::DeviceBuffer;

constexpr int kBlocks = 4, kTurns = 9;

// Every block stamps `phases` phases, and a stage behind them; work takes the block's number of
// turns, so that blocks end at different times.
__global__ void stamped_kernel(void* stamps, int* out, int phases) {
  for (int phase = 0; phase < phases; ++phase) {
    VIA_STAMP_BEGIN(stamps, phase);
    for (unsigned turn = 0; turn <= blockIdx.x; ++turn) prim::global_timer_ns();
    out[blockIdx.x * blockDim.x + threadIdx.x] += phase;
    VIA_STAMP_END(stamps);
    __syncthreads();
  }
  VIA_STAMP_BEGIN(stamps, kStampVerify);
  VIA_STAMP_END(stamps);
}

int run(const char* path) {
  constexpr int kThreads = 64;
  constexpr PhaseKind kKinds[] = {PhaseKind::kEmbed, PhaseKind::kQkv, PhaseKind::kHead};
  DeviceBuffer<BlockStamps> stamps(kBlocks, BlockStamps{});
  DeviceBuffer<int> out(kBlocks * kThreads, 0);
  std::vector<Phase> phases(kTurns);
  for (int i = 0; i < kTurns; ++i) {
    phases[i].kind = kKinds[i % 3];
    phases[i].layer = i / 3;
  }
  LAUNCH(stamped_kernel, kBlocks, kThreads, 0, nullptr, stamps.data(), out.data(), kTurns);
  LAUNCH(stamped_kernel, kBlocks, kThreads, 0, nullptr, nullptr, out.data(), kTurns);
  testing::device_sync();

  Checker checker;
  for (int block = 0; block < kBlocks; ++block) {
    const BlockStamps& own = stamps[block];
    checker.expect(own.count == kTurns + 1, "block %d has %llu stamps", block, own.count);
    unsigned long long last = 0;
    for (unsigned long long i = 0; i < own.count; ++i) {
      const Stamp& stamp = own.stamps[i];
      const long long phase = i < kTurns ? static_cast<int>(i) : int{kStampVerify};
      checker.expect(stamp.phase == phase, "stamp %llu: phase %lld", i, stamp.phase);
      checker.expect(last <= stamp.begin_ns && stamp.begin_ns <= stamp.end_ns, "stamp %llu: order",
                     i);
      last = stamp.end_ns;
    }
  }
  if (path != nullptr) {
    checker.expect(testing::write_stamps(path, stamps.data(), kBlocks, phases.data()),
                   "%s cannot be written", path);
  }

  // Appended to what is there; what has no room is dropped.
  LAUNCH(stamped_kernel, kBlocks, kThreads, 0, nullptr, stamps.data(), out.data(), kMaxStamps);
  testing::device_sync();
  for (int block = 0; block < kBlocks; ++block) {
    const BlockStamps& own = stamps[block];
    checker.expect(own.count == kMaxStamps, "block %d has %llu stamps", block, own.count);
    checker.expect(own.stamps[kTurns + 1].phase == 0, "phase %lld behind the first launch",
                   own.stamps[kTurns + 1].phase);
    checker.expect(own.stamps[kMaxStamps - 1].phase == kMaxStamps - kTurns - 2,
                   "phase %lld is the last", own.stamps[kMaxStamps - 1].phase);
  }
  return checker.status();
}

}  // namespace
}  // namespace via::persistent

int main(int argc, char** argv) { return via::persistent::run(argc > 1 ? argv[1] : nullptr); }
