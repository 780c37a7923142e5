// SPDX-License-Identifier: Apache-2.0
// What the runtime tells the race detector. Only the race build links one.
#pragma once

#include <memory>

#include "runtime.h"

namespace via::simt {

class RaceDetector {
 public:
  virtual ~RaceDetector() = default;
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void release(void* pointer) = 0;
  // Red zones inside an allocation count as not allocated.
  virtual void set_allocated(const void* pointer, std::size_t bytes, bool on) = 0;
  virtual void begin_launch(unsigned threads) = 0;
  // Threads first .. first + threads - 1 are block `linear_index`.
  virtual void begin_block(unsigned first, unsigned threads, unsigned linear_index) = 0;
  // A barrier among the threads `ids`.
  virtual void join(const unsigned* ids, std::size_t count) = 0;
  virtual void fence(unsigned id) = 0;
  virtual void proxy_fence(unsigned id) = 0;
  virtual void atomic_before(unsigned id, const void* pointer, unsigned bytes, Order order,
                             bool write, Site site) = 0;
  virtual void atomic_after(unsigned id, const void* pointer, Order order, bool write) = 0;
  // An asynchronous copy by thread `id`, begun and complete. bulk: by the async proxy.
  struct Copy {
    const void* shared;
    unsigned bytes;
    const void* global;
    unsigned source_bytes;
    bool bulk;
    Site site;
  };
  virtual void copy_begin(unsigned id, const Copy& copy) = 0;
  virtual void copy_end(unsigned id, const Copy& copy) = 0;
  // A bulk copy is complete, and says so to `barrier` with what its thread knew when it began.
  virtual std::shared_ptr<const void> knowledge(unsigned id) = 0;
  virtual void bulk_end(const Copy& copy, const std::shared_ptr<const void>& at_begin,
                        const void* barrier) = 0;
};

// Null in builds without a detector.
RaceDetector* race_detector();
// Defined by the detector, if it is linked.
__attribute__((weak)) RaceDetector* make_race_detector();

// For the detector: the running thread, or kNoThread on the host.
inline constexpr unsigned kNoThread = ~0u;
unsigned running_thread();
void preempt_at_access();

}  // namespace via::simt
