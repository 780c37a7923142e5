// SPDX-License-Identifier: Apache-2.0
// verify on the CPU: batch rows are independent tasks; threads that have no batch row help with the
// scans of the others. Decisions: cpu/walk.cpp over core/.
#include "via/verify.h"

#include "cpu/kernels.h"
#include "cpu/thread_pool.h"
#include "cpu/view.h"
#include "cpu/walk.h"

namespace via {

void verify_cpu(const VerifyParams& params) {
  // The most this call can read: decides whether waking threads pays.
  const double bytes = static_cast<double>(params.batch_size) * (params.num_nodes + 1) *
                       params.vocab_size *
                       static_cast<double>(cpu::element_size(params.logits.dtype));
  const int threads = cpu::useful_threads(params.num_threads, bytes);
  cpu::for_each_task(threads, params.batch_size, [&](int batch_idx) {
    cpu::Walk walk(params, batch_idx);
    walk.run();
  });
}

}  // namespace via
