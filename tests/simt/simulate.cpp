// SPDX-License-Identifier: Apache-2.0
// The CUDA entry points for a machine without a GPU: the kernels of csrc/cuda run in the
// simulation, on the memory of CPU tensors. Built into the module of cmake/via_simulate.cmake.

#include "simulate.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "cuda/compact_kv_launch.cuh"
#include "cuda/filtered_probs_launch.cuh"
#include "cuda/step.cuh"
#include "cuda/tree_attention_dispatch.cuh"
#include "cuda/verify_launch.cuh"
#include "via/device.h"
#include "via/filter.h"
#include "via/step.h"
#include "via/verify.h"
#include "via/workspace.h"

namespace via {

// simulate_attention.cpp
extern template void attention::launch_typed<float>(const attention::Args&);
extern template void attention::launch_typed<Float16>(const attention::Args&);
extern template void attention::launch_typed<BFloat16>(const attention::Args&);

namespace {

using simulated::launch_clean;
using simulated::Turn;

constexpr int kWantedBlocks = 16;  // few: blocks that loop run the same code as many that do not

}  // namespace

int cuda_device_count() { return 0; }
DeviceInfo cuda_device_info(int) { throw std::runtime_error("device: simulated, no GPU"); }
DeviceGuard::DeviceGuard(int) {}
DeviceGuard::~DeviceGuard() = default;

void* cuda_workspace(int, void*, std::size_t bytes) {
  static void* memory = nullptr;
  static std::size_t size = 0;
  const Turn turn;
  if (bytes > size) {
    constexpr std::size_t kAlignment = 256;  // as cudaMalloc
    std::free(memory);
    size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    memory = std::memset(std::aligned_alloc(kAlignment, size), 0, size);
  }
  return memory;
}

void compact_kv_cuda(const CompactKvParams& params) {
  const Turn turn;
  launch_compact_kv(params, kWantedBlocks);
}

void step_cuda(StepStage stage, const StepParams& params) {
  const Turn turn;
  cuda::launch_step(stage, params);
}

std::size_t verify_workspace_size(const VerifyParams& params) {
  return cuda::workspace_bytes(params);
}

// Small and large devices, with and without reading ahead, in turn: the results may not show it.
void verify_cuda(const VerifyParams& params, void* workspace) {
  static int calls = 0;
  const Turn turn;
  cuda::DeviceLimits limits = {1 + calls % 3, 1 + calls % 2, calls % 5 < 2 ? 1.0 : 8e6,
                               1 << calls % 7 % 4};
  ++calls;
  launch_clean("verify", workspace, cuda::workspace_bytes(params),
               [&] { cuda::launch_verify(params, workspace, limits, nullptr); });
}

std::size_t filtered_probs_workspace_size(const FilteredProbsParams& params) {
  return cuda::workspace_bytes(params);
}

// From one block to several, with coarse and fine units, in turn.
void filtered_probs_cuda(const FilteredProbsParams& params, void* workspace) {
  static int calls = 0;
  const Turn turn;
  const cuda::ProbsLimits limits = {1 + calls % 4, calls % 3 == 0 ? cuda::kWarps : 1};
  ++calls;
  launch_clean("filtered_probs", workspace, cuda::workspace_bytes(params),
               [&] { cuda::launch_filtered_probs(params, workspace, limits, nullptr); });
}

std::size_t tree_attention_workspace_size(const TreeAttentionParams& params) {
  return attention::workspace_bytes(params);
}

void tree_attention_cuda(const TreeAttentionParams& params, void* workspace) {
  const Turn turn;
  launch_clean("tree_attention", workspace, attention::workspace_bytes(params),
               [&] { launch_tree_attention(params, workspace); });
}

}  // namespace via
