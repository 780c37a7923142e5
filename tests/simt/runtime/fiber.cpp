// SPDX-License-Identifier: Apache-2.0
// Stacks and the switch between them. Stacks are kept for later launches.

#include <sys/mman.h>

#include <cstdlib>

#include "runtime/internal.h"

#if !defined(__x86_64__)
#error "the simulation layer has a context switch for x86-64 only"
#endif

// Saves the callee-saved registers on the running stack, its pointer in *save, and goes on where
// `load` was saved.
extern "C" void via_simt_switch(void** save, void* load);
asm(R"(
.text
.globl via_simt_switch
.hidden via_simt_switch
.type via_simt_switch,@function
via_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size via_simt_switch,.-via_simt_switch
)");

namespace via::simt {
namespace {

constexpr std::size_t kGuardBytes = 4096;

void first_entry() {
#if VIA_SIMT_ASAN
  Fiber& host = runtime().host;
  const bool unknown = host.stack == nullptr;
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (unknown) {
    // The first fiber ever comes from the host's stack.
    host.stack = static_cast<char*>(const_cast<void*>(bottom));
    host.stack_bytes = bytes;
  }
#endif
  fiber_main();
  std::abort();
}

Fiber* new_fiber() {
  auto* fiber = new Fiber;
  fiber->stack_bytes = options().stack_bytes;
  void* memory = mmap(nullptr, fiber->stack_bytes + kGuardBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) fail("stack", Site{}, "no memory for the stack of a thread");
  mprotect(memory, kGuardBytes, PROT_NONE);
  fiber->stack = static_cast<char*>(memory) + kGuardBytes;
  return fiber;
}

}  // namespace

Fiber* take_fiber() {
  Runtime& rt = runtime();
  Fiber* fiber = nullptr;
  if (rt.pool.empty()) {
    fiber = new_fiber();
  } else {
    fiber = rt.pool.back();
    rt.pool.pop_back();
  }
  // The frames of the last use were never left.
  poison(fiber->stack, fiber->stack_bytes, false);
  fiber->fake_stack = nullptr;
  fiber->open_copies.clear();
  fiber->copy_groups.clear();
  fiber->waits_in = "start";
  fiber->site = Site{};
  // As via_simt_switch leaves it: six registers, the return address, and the alignment of a call.
  auto** top = reinterpret_cast<void**>(fiber->stack + fiber->stack_bytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(first_entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber->stack_pointer = top;
  return fiber;
}

void give_back_fiber(Fiber* fiber) { runtime().pool.push_back(fiber); }

void switch_to(Fiber* next, [[maybe_unused]] bool last_time) {
  Runtime& rt = runtime();
  Fiber* from = rt.self;
  rt.self = next;
  current = next;
  ++stats.switches;
#if VIA_SIMT_ASAN
  __sanitizer_start_switch_fiber(last_time ? nullptr : &from->fake_stack, next->stack,
                                 next->stack_bytes);
#endif
  via_simt_switch(&from->stack_pointer, next->stack_pointer);
#if VIA_SIMT_ASAN
  __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

}  // namespace via::simt
