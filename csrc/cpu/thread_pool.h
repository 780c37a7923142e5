// SPDX-License-Identifier: Apache-2.0
// Threads for one call at a time, at two levels: batch rows are tasks, and a task may cut a scan
// into parts that idle threads help with. Results never depend on who does what: parts write to
// places of their own. Threads sleep between calls; small calls wake nobody. A forked child starts
// threads of its own.
#pragma once

#include <cstdint>

namespace via::cpu {

// Processors this process may run on.
int default_num_threads();

// Threads worth using for `bytes` of reading: below a threshold only the caller's own.
int useful_threads(int num_threads, double bytes);

// Runs body(ctx, i) for i < count on up to num_threads threads, the caller's included.
void run_tasks(int num_threads, int count, void (*body)(void* ctx, int idx), void* ctx);

// Inside a task: runs body(ctx, i) for i < count, with the help of threads that have no task.
void run_parts(int count, void (*body)(void* ctx, int idx), void* ctx);

template <typename Body>
void for_each_task(int num_threads, int count, Body&& body) {
  run_tasks(num_threads, count, [](void* ctx, int idx) { (*static_cast<Body*>(ctx))(idx); }, &body);
}

template <typename Body>
void for_each_part(int count, Body&& body) {
  run_parts(count, [](void* ctx, int idx) { (*static_cast<Body*>(ctx))(idx); }, &body);
}

}  // namespace via::cpu
