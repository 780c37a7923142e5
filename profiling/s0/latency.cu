// SPDX-License-Identifier: Apache-2.0
// Atomics, polling, and dependent loads.
//
// What: (a) atom.add and red.add on one address from one thread of every SM, operations per
// microsecond and the time that one returning atomic takes alone; (b) nanoseconds until a store
// (st.release) is seen by a poller (ld.acquire) on another SM, half of a ping-pong's round trip,
// over several partners; (c) nanoseconds of a load whose address depends on the load before, past
// L1, over 1 MB (L2), 32 MB (L2, both halves) and 1 GB (device memory).
// How: clock64 on one SM, its rate from %globaltimer of the same run. Counters, the last ball and
// the end of the chain are compared with their exact values.
// Informs: last-block reductions in the verify kernel (one counter per row or per call), the cost
// of a chain of global reads in its walk, and what a grid barrier is made of.
#include "bench.cuh"
#include "ptx.cuh"

namespace via::s0 {
namespace {

constexpr int kAtomics = 4096;
constexpr int kRallies = 2000;
constexpr int kLineWords = 32;

struct Times {
  long long clocks;
  unsigned long long nanoseconds;
};

class Stopwatch {
 public:
  __device__ __forceinline__ Stopwatch() {
    ns_ = prim::global_timer_ns();
    clock_ = clock64();
  }
  __device__ __forceinline__ Times stop() const {
    return {clock64() - clock_, prim::global_timer_ns() - ns_};
  }

 private:
  unsigned long long ns_;
  long long clock_;
};

template <bool kReturns>
__global__ void atomic_kernel(unsigned* counter /* [1] */, unsigned* sink /* [gridDim.x] */,
                              Times* times /* [gridDim.x] */) {
  const Stopwatch watch;
  unsigned last = 0;
  for (int i = 0; i < kAtomics; ++i) {
    if constexpr (kReturns) {
      // The addend depends on the value before: one operation at a time.
      last = prim::add_acq_rel(counter, 1u + (last >> 31));
    } else {
      add_relaxed(counter, 1u);
    }
  }
  times[blockIdx.x] = watch.stop();
  sink[blockIdx.x] = last;
}

// CTA 0 serves odd values, CTA `partner` answers with even ones; all other CTAs leave.
__global__ void rally_kernel(unsigned* ball /* [2 * kLineWords] */, unsigned partner,
                             Times* times /* [1] */, unsigned* sms /* [2] */) {
  unsigned* to_partner = ball;
  unsigned* to_server = ball + kLineWords;
  Watchdog watchdog;
  if (blockIdx.x == 0) {
    sms[0] = sm_id();
    Stopwatch watch;
    for (unsigned i = 1; i <= kRallies; ++i) {
      if (i == 11) watch = Stopwatch();  // the partner has surely started
      prim::st_release(to_partner, i);
      while (prim::ld_acquire(to_server) != i) watchdog.poll();
    }
    times[0] = watch.stop();
  } else if (blockIdx.x == partner) {
    sms[1] = sm_id();
    for (unsigned i = 1; i <= kRallies; ++i) {
      while (prim::ld_acquire(to_partner) != i) watchdog.poll();
      prim::st_release(to_server, i);
    }
  }
}

// Node i of a chain of 2^k lines is followed by a i + c (mod 2^k), a cycle through all nodes.
__host__ __device__ __forceinline__ unsigned successor(unsigned node, unsigned mask) {
  return (node * 1664525u + 1013904223u) & mask;
}

__global__ void chain_kernel(unsigned* lines, unsigned mask) {
  const unsigned node = blockIdx.x * blockDim.x + threadIdx.x;
  if (node <= mask) lines[static_cast<std::size_t>(node) * kLineWords] = successor(node, mask);
}

__global__ void chase_kernel(const unsigned* lines, int warm_up, int steps, Times* times /* [1] */,
                             unsigned* end /* [1] */) {
  unsigned node = 0;
  for (int i = 0; i < warm_up; ++i) node = __ldcg(&lines[std::size_t{node} * kLineWords]);
  const Stopwatch watch;
  for (int i = 0; i < steps; ++i) node = __ldcg(&lines[std::size_t{node} * kLineWords]);
  *end = node;
  *times = watch.stop();
}

// Enough shared memory that a CTA has its SM alone.
int exclusive_smem(const Session& session) { return session.max_smem() - 1024; }

template <typename Kernel>
void claim_sm(const Session& session, Kernel kernel) {
  S0_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                exclusive_smem(session)));
}

template <bool kReturns>
void bench_atomics(const Session& session, int grid) {
  claim_sm(session, atomic_kernel<kReturns>);
  Buffer<unsigned> counter(1), sink(grid);
  Buffer<Times> times(grid);
  const std::string p =
      params("what", "same address", "operation", kReturns ? "atom" : "red", "ctas", grid);
  const double ms = median_ms(
      [&] {
        counter.zero();
        atomic_kernel<kReturns>
            <<<grid, 1, exclusive_smem(session)>>>(counter.get(), sink.get(), times.get());
      },
      3);
  if (counter.copy()[0] != static_cast<unsigned>(grid) * kAtomics) fail(p, "lost additions");
  const double operations = static_cast<double>(grid) * kAtomics;
  print_row(p, operations / (ms * 1e3), "operations/us");
  if (kReturns) {
    std::vector<double> each;
    for (const Times& t : times.copy()) {
      each.push_back(static_cast<double>(t.nanoseconds) / kAtomics);
    }
    print_row(params("what", "one atom in turn", "ctas", grid), quantile(each, 0.5), "ns");
  }
}

void bench_rally(const Session& session) {
  claim_sm(session, rally_kernel);
  std::vector<double> hops;
  for (const int partner : {1, 2, 3, 7, 16, session.num_sms() / 2, session.num_sms() - 1}) {
    if (partner >= session.num_sms()) continue;
    Buffer<unsigned> ball(2 * kLineWords), sms(2);
    Buffer<Times> times(1);
    rally_kernel<<<session.num_sms(), 1, exclusive_smem(session)>>>(ball.get(), partner,
                                                                    times.get(), sms.get());
    S0_CHECK(cudaGetLastError());
    S0_CHECK(cudaDeviceSynchronize());
    const std::vector<unsigned> last = ball.copy(), ids = sms.copy();
    if (last[0] != kRallies || last[kLineWords] != kRallies || ids[0] == ids[1]) {
      fail(params("what", "hop", "partner", partner), "the last ball was lost, or one SM played");
    }
    hops.push_back(static_cast<double>(times.copy()[0].nanoseconds) / (2.0 * (kRallies - 10)));
  }
  print_row(params("what", "hop", "statistic", "min"), quantile(hops, 0.0), "ns");
  print_row(params("what", "hop", "statistic", "median"), quantile(hops, 0.5), "ns");
  print_row(params("what", "hop", "statistic", "max"), quantile(hops, 1.0), "ns");
}

void bench_chase(int megabytes, bool warm) {
  const unsigned nodes = static_cast<unsigned>(megabytes) * 8192u;
  const unsigned mask = nodes - 1;
  Buffer<unsigned> lines(std::size_t{nodes} * kLineWords), end(1);
  Buffer<Times> times(1);
  chain_kernel<<<(nodes + 255) / 256, 256>>>(lines.get(), mask);
  S0_CHECK(cudaGetLastError());
  const int warm_up = warm ? static_cast<int>(nodes) : 64, steps = 8192;
  chase_kernel<<<1, 1>>>(lines.get(), warm_up, steps, times.get(), end.get());
  S0_CHECK(cudaGetLastError());
  S0_CHECK(cudaDeviceSynchronize());
  const std::string p = params("what", "dependent load", "megabytes", megabytes);
  unsigned expected = 0;
  for (int i = 0; i < warm_up + steps; ++i) expected = successor(expected, mask);
  if (end.copy()[0] != expected) fail(p, "the chain ends at a wrong node");
  const Times t = times.copy()[0];
  print_row(p, static_cast<double>(t.nanoseconds) / steps, "ns");
  print_row(p, static_cast<double>(t.clocks) / steps, "clk");
}

void run(const Session& session) {
  bench_atomics<true>(session, 1);
  bench_atomics<true>(session, session.num_sms());
  bench_atomics<false>(session, session.num_sms());
  bench_rally(session);
  bench_chase(1, true);
  bench_chase(32, true);
  if (!session.out_of_time()) bench_chase(1024, false);
}

}  // namespace
}  // namespace via::s0

int main(int argc, char** argv) {
  via::s0::run(via::s0::Session("latency", argc, argv));
  return 0;
}
