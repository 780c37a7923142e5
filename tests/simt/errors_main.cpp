// SPDX-License-Identifier: Apache-2.0
// The errors that the simulation reports, thrown as exceptions, with correct launches in between: a
// launch that was given up must leave nothing behind. Host compilers only.

#include <stdexcept>
#include <string>

#include "gpu_or_simt.h"

namespace via {
namespace {

using testing::Checker;
using testing::DeviceBuffer;

enum Error {
  kNone,
  kTrap,
  kDeadlock,
  kLivelock,
  kDivergentWarp,
  kNotInMask,
  kDivergentBarrier,
  kOddBarrier,
  kTwoCounts,
  kMisalignedCopy,
  kMisalignedStream,
  kUncommitted,
  kNeverWaited,
  kTooFewLanes,
  kUnknownMbarrier,
  kUnfencedMbarrier,
  kTooManyArrivals,
  kCopyLeftBehind,
  kGridSync,
};

constexpr std::size_t kSharedBytes = 2048;
constexpr int kThreads = 64;

__global__ void error_kernel(Error error, const float* in, int* out, unsigned* flag) {
  DYN_SMEM(shared);
  unsigned char* free = shared;
  float* values = prim::carve<float>(free, 256);
  prim::mbar_t* mbar = prim::carve<prim::mbar_t>(free, 1);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const bool first = thread == 0;
  switch (error) {
    case kNone: break;
    case kTrap:
      if (thread == 33) prim::trap();
      break;
    case kDeadlock:
      if (thread < 32) prim::bar_named(1, 64);
      break;
    case kLivelock:
      while (prim::ld_acquire(flag) == 0u) prim::spin();
      break;
    case kDivergentWarp:
      if (lane < 16) {
        __shfl_sync(0xffffffffu, lane, 0);
      } else {
        __syncwarp();
      }
      break;
    case kNotInMask: __ballot_sync(0xffff0000u, 1); break;
    case kDivergentBarrier:
      if (lane < 16) {
        __syncthreads();
      } else {
        __syncthreads();
      }
      break;
    case kOddBarrier: prim::bar_named(1, 40); break;
    case kTwoCounts: prim::bar_named(1, thread < 32 ? 64 : 96); break;
    case kMisalignedCopy: prim::cp_async16(values + 1, in); break;
    case kMisalignedStream: prim::load_stream16(in + 1); break;
    case kUncommitted: prim::cp_async16(values + 4 * (thread % 64), in); break;
    case kNeverWaited:
      prim::cp_async16(values + 4 * (thread % 64), in);
      prim::cp_async_commit();
      break;
    case kTooFewLanes:
      if (lane != 3) {
        std::uint32_t fragment[4];
        prim::ldmatrix_x4(fragment, values + 4 * lane);
      }
      break;
    case kUnknownMbarrier: prim::mbar_wait(mbar, 0); break;
    case kUnfencedMbarrier:
      if (first) {
        prim::mbar_init(mbar, 1);
        prim::bulk_load(values, in, 64, mbar);
      }
      break;
    case kTooManyArrivals:
      if (first) {
        prim::mbar_init(mbar, 1);
        prim::mbar_fence_init();
        prim::mbar_arrive_tx(mbar, 16);
        prim::mbar_arrive(mbar);
      }
      break;
    case kCopyLeftBehind:
      if (first) {
        prim::mbar_init(mbar, 1);
        prim::mbar_fence_init();
        prim::mbar_arrive_tx(mbar, 64);
        prim::bulk_load(values, in, 64, mbar);
      }
      break;
    case kGridSync: cooperative_groups::this_grid().sync(); break;
  }
  if (error == kNone) {
    values[thread] = in[thread];
    __syncthreads();
    out[thread] = static_cast<int>(values[kThreads - 1 - thread]);
  }
}

struct Expected {
  Error error;
  const char* text;  // in the message
};
constexpr Expected kExpected[] = {
    {kTrap, "trap in error_kernel"},
    {kDeadlock, "32 threads: bar.sync at"},
    {kLivelock, "livelock"},
    {kDivergentWarp, "warp divergence"},
    {kNotInMask, "is not in mask 0xffff0000"},
    {kDivergentBarrier, "divergent barrier"},
    {kOddBarrier, "40 threads are not a multiple of 32"},
    {kTwoCounts, "bad barrier"},
    {kMisalignedCopy, "cp.async of 16 bytes"},
    {kMisalignedStream, "load_stream16"},
    {kUncommitted, "uncommitted copies"},
    {kNeverWaited, "a group that it never waited for"},
    {kTooFewLanes, "ldmatrix"},
    {kUnknownMbarrier, "used before mbar_init"},
    {kUnfencedMbarrier, "no mbar_fence_init"},
    {kTooManyArrivals, "more arrivals than the expected 1"},
    {kCopyLeftBehind, "the block ends while this copy is under way"},
    {kGridSync, "the launch was not cooperative"},
};

template <typename Launch>
std::string error_of(Launch launch) {
  try {
    launch();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

int run() {
  simt::options().throw_on_error = true;
  simt::options().spin_limit = 20000;
  Checker checker;
  DeviceBuffer<float> in(kThreads);
  DeviceBuffer<int> out(kThreads);
  DeviceBuffer<unsigned> flag(1, 0u);
  for (int i = 0; i < kThreads; ++i) in[i] = static_cast<float>(i);
  const auto launch = [&](Error error, std::size_t bytes, int blocks) {
    return error_of([&] {
      LAUNCH(error_kernel, blocks, kThreads, bytes, nullptr, error, in.data(), out.data(),
             flag.data());
    });
  };
  for (const Expected& expected : kExpected) {
    const std::string text = launch(expected.error, kSharedBytes, 1);
    checker.expect(text.find(expected.text) != std::string::npos, "error %d: got '%s', not '%s'",
                   expected.error, text.c_str(), expected.text);
    for (int& value : out) value = -1;
    const std::string none = launch(kNone, kSharedBytes, 1);
    checker.expect(none.empty(), "after error %d: %s", expected.error, none.c_str());
    for (int i = 0; i < kThreads; ++i) {
      checker.expect(out[i] == kThreads - 1 - i, "after error %d: out[%d] = %d", expected.error, i,
                     out[i]);
    }
  }
  const std::string small = launch(kNone, 1000, 1);
  checker.expect(small.find("carving needs 1024 bytes, the launch gave 1000") != std::string::npos,
                 "too little shared memory: '%s'", small.c_str());
  const std::string large = launch(kNone, 1 << 20, 1);
  checker.expect(large.find("1048576 bytes of dynamic shared memory") != std::string::npos,
                 "too much shared memory: '%s'", large.c_str());
  const std::string empty = launch(kNone, kSharedBytes, 0);
  checker.expect(empty.find("0 blocks of 64 threads") != std::string::npos, "no blocks: '%s'",
                 empty.c_str());
  return checker.status();
}

}  // namespace
}  // namespace via

int main() { return via::run(); }
