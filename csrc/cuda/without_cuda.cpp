// SPDX-License-Identifier: Apache-2.0
// The CUDA entry points in a build without CUDA: no device, and errors that say why.

#include <stdexcept>

#include "via/compact_kv.h"
#include "via/device.h"
#include "via/filter.h"
#include "via/persistent.h"
#include "via/step.h"
#include "via/tree_attention.h"
#include "via/verify.h"
#include "via/workspace.h"

namespace via {

int cuda_device_count() { return 0; }

DeviceInfo cuda_device_info(int) { throw std::runtime_error("device: built without CUDA"); }

// Silent, so that the operation behind it says that it was built without CUDA.
DeviceGuard::DeviceGuard(int) {}
DeviceGuard::~DeviceGuard() = default;

void* cuda_workspace(int, void*, std::size_t) {
  throw std::runtime_error("workspace: built without CUDA");
}

void verify_cuda(const VerifyParams&, void*) {
  throw std::runtime_error("verify: built without CUDA");
}

std::size_t verify_workspace_size(const VerifyParams&) {
  throw std::runtime_error("verify: built without CUDA");
}

void filtered_probs_cuda(const FilteredProbsParams&, void*) {
  throw std::runtime_error("filtered_probs: built without CUDA");
}

std::size_t filtered_probs_workspace_size(const FilteredProbsParams&) {
  throw std::runtime_error("filtered_probs: built without CUDA");
}

void tree_attention_cuda(const TreeAttentionParams&, void*) {
  throw std::runtime_error("tree_attention: built without CUDA");
}

std::size_t tree_attention_workspace_size(const TreeAttentionParams&) {
  throw std::runtime_error("tree_attention: built without CUDA");
}

void step_cuda(StepStage, const StepParams&) {
  throw std::runtime_error("step: built without CUDA");
}

void compact_kv_cuda(const CompactKvParams&) {
  throw std::runtime_error("compact_kv: built without CUDA");
}

std::size_t persistent::workspace_size(const StepLaunch&) {
  throw std::runtime_error("PersistentEngine: built without CUDA");
}
void persistent::step_cuda(const StepLaunch&) {
  throw std::runtime_error("PersistentEngine: built without CUDA");
}
int persistent::resident_blocks(const ModelShape&, int) {
  throw std::runtime_error("PersistentEngine: built without CUDA");
}

void persistent::pass_cuda(const ModelArgs&, PassKind, const PassInput&, int, void*) {
  throw std::runtime_error("PersistentEngine: built without CUDA");
}

}  // namespace via
