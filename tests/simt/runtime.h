// SPDX-License-Identifier: Apache-2.0
// The simulation layer: runs CUDA kernel source on the CPU, one fiber per CUDA thread, all on one
// operating system thread. Fibers change places only at synchronisation, atomics, fences and spin
// loops, in an order drawn from a seed: one seed, one run. This file is what the headers that stand
// in for CUDA (simt.h), the primitives (simt_prim.h) and the tests call.
//
// Environment: VIA_SIMT_SCHED fifo | lifo | random | pct (default), VIA_SIMT_SEED,
// VIA_SIMT_RESIDENT (blocks at a time, launches that are not cooperative), VIA_SIMT_PREEMPT=1 (race
// build: also change threads at memory accesses), VIA_SIMT_THROW=1 (errors throw, they do not end
// the process), VIA_SIMT_WATCHDOG (seconds of processor time that one thread may run without a
// yield).
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace via::simt {

// Source line of a call, for reports; the macros pass it along by default arguments.
struct Site {
  const char* file = nullptr;
  int line = 0;
};
#define VIA_SITE_ARG const char *site_file = __builtin_FILE(), int site_line = __builtin_LINE()
#define VIA_SITE (::via::simt::Site{site_file, site_line})

// Exit status of a layer error (deadlock, divergence, data race, shared memory overflow, ...).
inline constexpr int kErrorStatus = 86;

// pct: random fixed priorities, correlated per block, warp or thread, so that a whole block or warp
// is delayed as long as possible (after "probabilistic concurrency testing", ASPLOS 2010).
enum class Schedule { kFifo, kLifo, kRandom, kPct };

struct Options {
  Schedule schedule = Schedule::kPct;
  std::uint64_t seed = 1;
  unsigned resident_blocks = 2;
  bool preempt = false;
  unsigned watchdog_s = 10;
  bool throw_on_error = false;        // std::runtime_error from launch; no watchdog signal
  std::uint64_t spin_limit = 400000;  // spins of all threads without progress: livelock
  std::size_t stack_bytes = 128 << 10;
};
Options& options();  // first call reads the environment

struct Stats {
  std::uint64_t switches, collectives, barriers, async_copies, mma, accesses;
};
extern Stats stats;

// What kernel code reads of the running thread.
struct ThreadIndex {
  uint3 thread;
  uint3 block;
  dim3 block_dim;
  dim3 grid_dim;
  unsigned lane;
};
extern ThreadIndex* current;

[[noreturn]] __attribute__((format(printf, 3, 4))) void fail(const char* kind, Site site,
                                                             const char* format, ...);

// ---- launch ----
struct LaunchConfig {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes;
  bool cooperative;
  const char* name;
};
void launch_raw(void (*body)(void*), void* argument, const LaunchConfig& config);
template <typename Body>
void launch(const LaunchConfig& config, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  launch_raw([](void* p) { (*static_cast<Plain*>(p))(); }, &body, config);
}

// ---- memory ----
// "Device" memory, filled with 0xff (NaN). The race build tracks this memory and shared memory, no
// other; all builds run kernels on ordinary memory too.
void* device_alloc(std::size_t bytes);
void device_free(void* pointer);
void* dynamic_shared();
void* static_shared(const void* key, std::size_t bytes);
// Marks [pointer, pointer + bytes) of dynamic shared memory as a red zone.
inline constexpr std::size_t kCarveGap = 128;
void shared_gap(void* pointer, std::size_t bytes);

// ---- synchronisation ----
enum class Vote { kNone, kCount, kAnd, kOr };
// threads < 0: every thread of the block that has not returned.
int barrier(int id, int threads, Vote vote, int predicate, Site site);
void sync_warp(unsigned mask, Site site);
void sync_grid(Site site);
void yield_spin(Site site);
enum class Scope { kBlock, kDevice };
void fence(Scope scope);
std::uint64_t timer_ns();

// Lanes meet by (operation, mask); the last to come runs it for all. `arguments` holds one pointer
// per lane, null for lanes that take no part. Collectives order no memory, as on the device.
using Collective = void (*)(unsigned mask, void* const* arguments);
struct CollectiveCall {
  Collective operation;  // null: __syncwarp
  unsigned mask;
  void* argument;
  bool aligned;  // all 32 lanes from one call site (mma, ldmatrix)
  const char* name;
};
void collective(const CollectiveCall& call, Site site);

// ---- atomics: the caller reads and writes; these calls give the order (for the race build) ----
enum Order : unsigned { kRelaxed = 0, kAcquire = 1, kRelease = 2, kAcqRel = 3 };
void atomic_before(void* pointer, unsigned bytes, Order order, bool write, Site site);
void atomic_after(void* pointer, unsigned bytes, Order order, bool write);

// ---- asynchronous copies ----
void async_copy(void* shared, const void* global, unsigned bytes, unsigned source_bytes, Site site);
void async_commit();
void async_wait(unsigned groups_left);
void mbarrier_init(unsigned long long* barrier, unsigned arrivals, Site site);
void mbarrier_fence_init();
void mbarrier_arrive(unsigned long long* barrier, unsigned transaction_bytes, Site site);
bool mbarrier_try_wait(unsigned long long* barrier, unsigned parity, Site site);
void bulk_copy(void* shared, const void* global, unsigned bytes, unsigned long long* barrier,
               Site site);
void fence_proxy_async();

}  // namespace via::simt
