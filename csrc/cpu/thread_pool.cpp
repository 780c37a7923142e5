// SPDX-License-Identifier: Apache-2.0
// The pool behind thread_pool.h. A call has one slot per thread; a thread that leads a task
// publishes the parts of its current scan in its slot, and threads without a task claim parts from
// any slot. A slot's ticket holds (version, parts left) in one word: a claim is one
// compare-and-swap, and a part once claimed keeps the leader from reusing the slot. Waiting inside
// a call is a short spin that yields; between calls threads sleep on a condition variable.
#include "cpu/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

namespace via::cpu {
namespace {

using Body = void (*)(void*, int);

constexpr int kMaxThreads = 64;
constexpr int kSpinsBeforeYield = 256;
// Waking a thread costs about as long as reading this much.
constexpr double kBytesPerThread = 384.0 * 1024.0;

struct alignas(64) Slot {
  std::atomic<std::uint64_t> ticket{0};  // version << 32 | parts left to claim
  std::atomic<std::int32_t> done{0};
  std::int32_t count = 0;
  Body body = nullptr;
  void* ctx = nullptr;
};

struct Call {
  Body body;
  void* ctx;
  int count;
  std::atomic<int> next{0};
  std::atomic<int> done{0};
  int num_slots;
  Slot slots[kMaxThreads];
};

thread_local Call* current_call = nullptr;
thread_local int current_slot = 0;

void pause_cpu(int& spins) {
  if (++spins >= kSpinsBeforeYield) {
    spins = 0;
    std::this_thread::yield();
    return;
  }
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Claims and runs one part of the slot; false if there is none.
bool run_one_part(Slot& slot) {
  std::uint64_t ticket = slot.ticket.load(std::memory_order_acquire);
  while ((ticket & 0xffffffffu) != 0) {
    if (slot.ticket.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) {
      const int left = static_cast<int>(ticket & 0xffffffffu);
      slot.body(slot.ctx, slot.count - left);
      slot.done.fetch_add(1, std::memory_order_release);
      return true;
    }
  }
  return false;
}

void participate(Call& call, int slot_idx) {
  current_call = &call;
  current_slot = slot_idx;
  for (;;) {
    const int task = call.next.fetch_add(1, std::memory_order_relaxed);
    if (task >= call.count) break;
    call.body(call.ctx, task);
    call.done.fetch_add(1, std::memory_order_release);
  }
  int spins = 0;
  while (call.done.load(std::memory_order_acquire) < call.count) {
    bool helped = false;
    for (int i = 1; i < call.num_slots && !helped; ++i) {
      helped = run_one_part(call.slots[(slot_idx + i) % call.num_slots]);
    }
    if (!helped) pause_cpu(spins);
  }
  current_call = nullptr;
}

class Pool {
 public:
  // One call at a time: a second caller works alone instead of waiting.
  bool try_run(int num_threads, Call& call) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) return false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      start_workers(num_threads - 1);
      call_ = &call;
      ++generation_;
      next_slot_ = 1;
    }
    wake_.notify_all();
    participate(call, 0);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      call_ = nullptr;
    }
    int spins = 0;
    while (inside_.load(std::memory_order_acquire) != 0) pause_cpu(spins);
    return true;
  }

 private:
  // Where the system refuses another thread, the ones that exist do the work.
  void start_workers(int wanted) {
    try {
      for (; num_workers_ < wanted; ++num_workers_) std::thread([this] { work(); }).detach();
    } catch (const std::system_error&) {
      return;
    }
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    std::uint64_t joined = 0;
    for (;;) {
      wake_.wait(lock, [&] {
        return call_ != nullptr && generation_ != joined && next_slot_ < call_->num_slots;
      });
      Call* const call = call_;
      joined = generation_;
      const int slot_idx = next_slot_++;
      inside_.fetch_add(1, std::memory_order_relaxed);
      lock.unlock();
      participate(*call, slot_idx);
      inside_.fetch_sub(1, std::memory_order_release);
      lock.lock();
    }
  }

  std::mutex turn_, mutex_;
  std::condition_variable wake_;
  Call* call_ = nullptr;
  std::uint64_t generation_ = 0;
  int next_slot_ = 1;
  int num_workers_ = 0;
  std::atomic<int> inside_{0};
};

// Never destroyed: its threads may outlive static objects. After a fork the child has none of the
// threads and perhaps a locked mutex, so it forgets the pool and makes another.
std::atomic<Pool*> shared_pool{nullptr};

Pool& pool() {
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { shared_pool.store(nullptr); });
  (void)registered;
  Pool* existing = shared_pool.load(std::memory_order_acquire);
  if (existing != nullptr) return *existing;
  Pool* const made = new Pool;
  if (shared_pool.compare_exchange_strong(existing, made)) return *made;
  delete made;
  return *existing;
}

}  // namespace

int default_num_threads() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int useful_threads(int num_threads, double bytes) {
  const double useful = bytes / kBytesPerThread;
  if (useful < 2.0) return 1;
  const int available = num_threads > 0 ? num_threads : default_num_threads();
  return std::min({available, kMaxThreads, static_cast<int>(std::min(useful, 1e6))});
}

void run_tasks(int num_threads, int count, Body body, void* ctx) {
  if (num_threads > 1 && current_call == nullptr) {
    const std::unique_ptr<Call> call(new Call{body, ctx, count, {}, {}, num_threads, {}});
    if (pool().try_run(num_threads, *call)) return;
  }
  for (int idx = 0; idx < count; ++idx) body(ctx, idx);
}

void run_parts(int count, Body body, void* ctx) {
  if (current_call == nullptr || current_call->num_slots == 1 || count < 2) {
    for (int idx = 0; idx < count; ++idx) body(ctx, idx);
    return;
  }
  Slot& slot = current_call->slots[current_slot];
  slot.body = body;
  slot.ctx = ctx;
  slot.count = count;
  slot.done.store(0, std::memory_order_relaxed);
  const std::uint64_t version = (slot.ticket.load(std::memory_order_relaxed) >> 32) + 1;
  slot.ticket.store(version << 32 | static_cast<std::uint32_t>(count), std::memory_order_release);
  while (run_one_part(slot)) {
  }
  int spins = 0;
  while (slot.done.load(std::memory_order_acquire) != count) pause_cpu(spins);
}

}  // namespace via::cpu
