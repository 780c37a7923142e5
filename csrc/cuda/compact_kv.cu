// SPDX-License-Identifier: Apache-2.0
// Entry point of compact_kv: how many blocks fill this device, launch, errors.

#include "cuda/check.h"
#include "cuda/compact_kv_launch.cuh"
#include "via/compact_kv.h"

namespace via {
namespace {

constexpr const char* kOp = "compact_kv";
constexpr int kBlocksPerMultiprocessor = 8;  // resident at 64 registers and 128 threads

}  // namespace

void compact_kv_cuda(const CompactKvParams& params) {
  int device = 0;
  int multiprocessors = 0;
  check_cuda(cudaGetDevice(&device), kOp, "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), kOp,
             "cudaDeviceGetAttribute");
  launch_compact_kv(params, std::int64_t{multiprocessors} * kBlocksPerMultiprocessor);
  check_cuda(cudaGetLastError(), kOp, "launch");
}

}  // namespace via
