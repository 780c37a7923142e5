// SPDX-License-Identifier: Apache-2.0
// The race build compiles kernels with -fsanitize=thread and does not link libtsan: the compiler
// then calls __tsan_* at every memory access, and those functions stand here. They belong to the
// detector, which the runtime tells of barriers, fences, atomics and asynchronous copies. Link with
// -no-pie: program counters are kept in 32 bits.

#include "race/shadow.h"

namespace via::simt {
namespace {

constexpr unsigned kMaxThreads = 65000;  // thread numbers are kept in 16 bits

class Detector final : public RaceDetector {
 public:
  void* allocate(std::size_t bytes) override { return shadow_.allocate(bytes); }
  void release(void* pointer) override { shadow_.release(pointer); }

  void begin_launch(unsigned threads) override {
    if (threads > kMaxThreads) {
      fail("launch", Site{}, "%u threads, at most %u in the race build", threads, kMaxThreads);
    }
    clocks_.begin_launch(threads);
    shadow_.begin_launch();
    forget_blocks();
  }
  void begin_block(unsigned first, unsigned threads, unsigned linear_index) override {
    clocks_.begin_block(first, threads);
    note_block(first, linear_index);
  }

  void join(const unsigned* ids, std::size_t count) override { clocks_.join(ids, count); }
  void fence(unsigned id) override { clocks_.fence(id); }
  void proxy_fence(unsigned id) override { clocks_.proxy_fence(id); }

  void atomic_before(unsigned id, const void* pointer, unsigned bytes, Order order, bool write,
                     Site site) override {
    if (!shadow_.holds(pointer)) return;
    shadow_.touch(pointer, bytes, {id, place_of(site), write, kAtomic});
    if (write) clocks_.write(id, pointer, order);
  }
  void atomic_after(unsigned id, const void* pointer, Order order, bool write) override {
    if (!write && shadow_.holds(pointer)) clocks_.read(id, pointer, order);
  }

  // A copy counts as an access when it begins and again when it is complete: a missing wait and a
  // refill that comes too early both show.
  void copy_begin(unsigned id, const Copy& copy) override {
    const Place place = place_of(copy.site);
    const std::uint8_t flags = copy.bulk ? kBulk : kAsync;
    if (reads_arena(copy)) {
      if (copy.bulk) shadow_.check_proxy(copy.global, copy.source_bytes, {id, place, false, flags});
      shadow_.touch(copy.global, copy.source_bytes, {id, place, false, flags});
    }
    if (!shadow_.holds(copy.shared)) return;
    if (copy.bulk) shadow_.check_proxy(copy.shared, copy.bytes, {id, place, true, flags});
    shadow_.touch(copy.shared, copy.bytes, {id, place, true, flags});
    shadow_.set_in_flight(copy.shared, copy.bytes, true);
  }
  void copy_end(unsigned id, const Copy& copy) override {
    const Place place = place_of(copy.site);
    const std::uint8_t flags = copy.bulk ? kBulk : kAsync;
    if (reads_arena(copy)) {
      shadow_.touch(copy.global, copy.source_bytes, {id, place, false, flags});
    }
    if (!shadow_.holds(copy.shared)) return;
    shadow_.set_in_flight(copy.shared, copy.bytes, false);
    shadow_.touch(copy.shared, copy.bytes, {id, place, true, flags});
  }

  void access(const void* pointer, std::size_t bytes, bool write, const void* caller) {
    if (!shadow_.holds(pointer)) return;
    const unsigned thread = running_thread();
    if (thread == kNoThread) return;
    ++stats.accesses;
    preempt_at_access();
    const auto place = static_cast<Place>(reinterpret_cast<std::uintptr_t>(caller));
    shadow_.touch(pointer, bytes, {thread, place, write, kPlain});
  }

 private:
  bool reads_arena(const Copy& copy) const {
    return copy.source_bytes != 0 && shadow_.holds(copy.global);
  }

  Clocks clocks_;
  Shadow shadow_{clocks_};
};

Detector& detector() {
  static auto* instance = new Detector;
  return *instance;
}

}  // namespace

RaceDetector* make_race_detector() { return &detector(); }

}  // namespace via::simt

#define VIA_HOOK(name, bytes, write)                                                  \
  void __tsan_##name(void* pointer) {                                                 \
    via::simt::detector().access(pointer, bytes, write, __builtin_return_address(0)); \
  }
#define VIA_HOOKS(bytes)                        \
  VIA_HOOK(read##bytes, bytes, false)           \
  VIA_HOOK(write##bytes, bytes, true)           \
  VIA_HOOK(unaligned_read##bytes, bytes, false) \
  VIA_HOOK(unaligned_write##bytes, bytes, true) \
  VIA_HOOK(volatile_read##bytes, bytes, false)  \
  VIA_HOOK(volatile_write##bytes, bytes, true)

extern "C" {
VIA_HOOKS(1)
VIA_HOOKS(2)
VIA_HOOKS(4)
VIA_HOOKS(8)
VIA_HOOKS(16)
void __tsan_read_range(void* pointer, unsigned long bytes) {
  via::simt::detector().access(pointer, bytes, false, __builtin_return_address(0));
}
void __tsan_write_range(void* pointer, unsigned long bytes) {
  via::simt::detector().access(pointer, bytes, true, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
