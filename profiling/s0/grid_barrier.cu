// SPDX-License-Identifier: Apache-2.0
// Latency of one grid barrier, one CTA per SM.
//
// What: nanoseconds (median, 99th percentile, largest) between two consecutive releases, for
//   cg       grid.sync() of cooperative groups
//   counter  one monotonic counter: red.release by each CTA, everyone polls it with ld.acquire
//   sleep    the same, with prim::spin() between polls, as product code waits
//   flag     the last CTA to arrive (atom.acq_rel) publishes the epoch, the others poll that word
// alone, and while a producer warp per CTA keeps a ring of 5 x 32 KB of bulk copies busy.
// How: CTA 0 stamps every release with clock64; the rate of that clock comes from %globaltimer over
// the whole run. A first run checks that every CTA sees what another wrote before the barrier.
// Streaming has no cg row: grid.sync() needs all threads of the block, the producer too.
// Informs: barriers per layer, which variant, and whether polling suffers under a full stream.
#include <cooperative_groups.h>

#include "bench.cuh"
#include "ptx.cuh"

namespace via::s0 {
namespace {

enum Variant { kCooperativeGroups = 0, kCounter = 1, kSleep = 2, kFlag = 3 };
constexpr const char* kNames[] = {"cg", "counter", "sleep", "flag"};
constexpr int kWorkers = 256;
constexpr int kStages = 5;
constexpr unsigned kStageBytes = 32 * 1024;
constexpr int kCheckRounds = 500;
constexpr int kTimedRounds = 4000;
constexpr int kLineWords = 32;  // 128 bytes: every word that is polled has a line of its own

struct BarrierArgs {
  unsigned* counter;                // [1], zero at launch
  unsigned* flag;                   // [1], zero at launch
  unsigned* slots;                  // [2][gridDim.x * kLineWords]
  unsigned* errors;                 // [1]
  long long* stamps;                // [rounds] clock64 of CTA 0
  unsigned long long* nanoseconds;  // [1] of the whole run
  int rounds;
  bool check;
  const unsigned char* stream;  // null: no streaming
  std::size_t stream_bytes;
  unsigned long long* streamed;  // [1] bytes
};

template <int kVariant>
__device__ __forceinline__ void grid_barrier(const BarrierArgs& args, unsigned epoch) {
  if constexpr (kVariant == kCooperativeGroups) {
    cooperative_groups::this_grid().sync();
    return;
  }
  bar_sync<1, kWorkers>();
  if (threadIdx.x == 0) {
    Watchdog watchdog;
    if constexpr (kVariant == kCounter || kVariant == kSleep) {
      const unsigned target = epoch * gridDim.x;
      add_release(args.counter, 1);
      while (static_cast<int>(prim::ld_acquire(args.counter) - target) < 0) {
        if constexpr (kVariant == kSleep) prim::spin();
        watchdog.poll();
      }
    } else {
      const unsigned before = prim::add_acq_rel(args.counter, 1);
      if (before + 1 == epoch * gridDim.x) {
        prim::st_release(args.flag, epoch);
      } else {
        while (static_cast<int>(prim::ld_acquire(args.flag) - epoch) < 0) watchdog.poll();
      }
    }
  }
  bar_sync<1, kWorkers>();
}

// Keeps the ring full; nobody reads the stages, so a filled one is filled again at once.
__device__ __forceinline__ void stream_until(const BarrierArgs& args, unsigned char* ring,
                                             Mbar* full, unsigned* stop) {
#if S0_HAS_BULK
  const std::size_t num_chunks = args.stream_bytes / kStageBytes;
  std::size_t chunk = blockIdx.x;
  unsigned long long issued = 0;
  for (; atomicOr(stop, 0u) == 0; ++issued) {
    const int stage = static_cast<int>(issued % kStages);
    const unsigned round = static_cast<unsigned>(issued / kStages);
    if (round > 0) mbar_wait(&full[stage], (round - 1) & 1u);
    prim::mbar_arrive_tx(&full[stage], kStageBytes);
    prim::bulk_load(ring + stage * kStageBytes, args.stream + chunk * kStageBytes, kStageBytes,
                    &full[stage]);
    chunk += gridDim.x;
    if (chunk >= num_chunks) chunk -= num_chunks;
  }
  // The block's memory must outlive its copies.
  for (int stage = 0; stage < kStages; ++stage) {
    const unsigned long long uses = (issued + kStages - 1 - stage) / kStages;
    if (uses > 0) mbar_wait(&full[stage], static_cast<unsigned>(uses - 1) & 1u);
  }
  atomicAdd(args.streamed, issued * kStageBytes);
#endif
}

template <int kVariant>
__global__ void __launch_bounds__(kWorkers + 32, 1) barrier_kernel(const BarrierArgs args) {
  extern __shared__ __align__(128) unsigned char ring[];
  __shared__ Mbar full[kStages];
  __shared__ unsigned stop;
  if (threadIdx.x == 0) {
    stop = 0;
#if S0_HAS_BULK
    for (int s = 0; s < kStages; ++s) prim::mbar_init(&full[s], 1);
    prim::mbar_fence_init();
#endif
  }
  __syncthreads();
  if (threadIdx.x >= kWorkers) {
    if (threadIdx.x == kWorkers) stream_until(args, ring, full, &stop);
    return;
  }
  unsigned errors = 0;
  unsigned long long begin = 0;
  for (int round = 0; round < args.rounds; ++round) {
    unsigned* slots = args.slots + (round & 1) * gridDim.x * kLineWords;
    if (args.check && threadIdx.x == 0) slots[blockIdx.x * kLineWords] = round + 1;
    grid_barrier<kVariant>(args, static_cast<unsigned>(round) + 1);
    if (threadIdx.x != 0) continue;
    if (args.check) {
      const unsigned other = (blockIdx.x + round * 7 + 1) % gridDim.x;
      errors += __ldcg(&slots[other * kLineWords]) != static_cast<unsigned>(round) + 1;
    }
    if (blockIdx.x == 0) args.stamps[round] = clock64();
    if (round == 0) begin = prim::global_timer_ns();
  }
  if (threadIdx.x == 0) {
    if (blockIdx.x == 0) *args.nanoseconds = prim::global_timer_ns() - begin;
    if (errors != 0) atomicAdd(args.errors, errors);
    atomicExch(&stop, 1u);
  }
}

template <int kVariant>
void bench(const Session& session, const unsigned char* stream, std::size_t stream_bytes) {
  if (session.out_of_time()) return;
  const int grid = session.num_sms();
  const int smem = stream == nullptr ? 0 : kStages * static_cast<int>(kStageBytes);
  const int threads = stream == nullptr ? kWorkers : kWorkers + 32;
  S0_CHECK(cudaFuncSetAttribute(barrier_kernel<kVariant>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
  Buffer<unsigned> words(3 * kLineWords), slots(2 * grid * kLineWords);
  Buffer<long long> stamps(kTimedRounds);
  Buffer<unsigned long long> totals(2);
  BarrierArgs args{};
  args.counter = words.get();
  args.flag = words.get() + kLineWords;
  args.errors = words.get() + 2 * kLineWords;
  args.slots = slots.get();
  args.stamps = stamps.get();
  args.nanoseconds = totals.get();
  args.streamed = totals.get() + 1;
  args.stream = stream;
  args.stream_bytes = stream_bytes;
  const char* load = stream == nullptr ? "idle" : "streaming";
  void* kernel_args[] = {&args};
  for (const bool check : {true, false}) {
    args.check = check;
    args.rounds = check ? kCheckRounds : kTimedRounds;
    words.zero();
    totals.zero();
    S0_CHECK(cudaLaunchCooperativeKernel(barrier_kernel<kVariant>, dim3(grid), dim3(threads),
                                         kernel_args, smem, nullptr));
    S0_CHECK(cudaDeviceSynchronize());
    if (words.copy()[2 * kLineWords] != 0) {
      fail(params("variant", kNames[kVariant], "load", load), "a CTA missed another's write");
    }
  }
  const std::vector<long long> stamp = stamps.copy();
  const std::vector<unsigned long long> total = totals.copy();
  const double ns_per_clock =
      static_cast<double>(total[0]) / static_cast<double>(stamp.back() - stamp.front());
  std::vector<double> times;
  for (int i = 100; i < kTimedRounds; ++i) {
    times.push_back(static_cast<double>(stamp[i] - stamp[i - 1]) * ns_per_clock);
  }
  for (const auto& [statistic, fraction] :
       {std::pair{"median", 0.5}, std::pair{"p99", 0.99}, std::pair{"max", 1.0}}) {
    print_row(
        params("variant", kNames[kVariant], "load", load, "ctas", grid, "statistic", statistic),
        quantile(times, fraction), "ns");
  }
  if (stream != nullptr) {
    print_row(params("variant", kNames[kVariant], "load", load, "statistic", "stream"),
              static_cast<double>(total[1]) / static_cast<double>(total[0]), "GB/s");
  }
}

void run(const Session& session) {
  bench<kCooperativeGroups>(session, nullptr, 0);
  bench<kCounter>(session, nullptr, 0);
  bench<kSleep>(session, nullptr, 0);
  bench<kFlag>(session, nullptr, 0);
  if (!session.is_at_least(9) ||
      session.max_smem() < kStages * static_cast<int>(kStageBytes) + 2048) {
    print_row(params("load", "streaming"), 0.0, "", "skipped",
              "needs compute 9.0 and 162 KB of shared memory");
    return;
  }
  const std::size_t bytes = std::size_t{1} << 30;
  Buffer<unsigned char> stream(bytes);
  bench<kCounter>(session, stream.get(), bytes);
  bench<kSleep>(session, stream.get(), bytes);
  bench<kFlag>(session, stream.get(), bytes);
}

}  // namespace
}  // namespace via::s0

int main(int argc, char** argv) {
  via::s0::run(via::s0::Session("grid_barrier", argc, argv));
  return 0;
}
