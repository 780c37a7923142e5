// SPDX-License-Identifier: Apache-2.0
// The persistent engine on a GPU: how many blocks a launch may have, and one pass alone.

#include <stdexcept>
#include <string>

#include "cuda/check.h"
#include "persistent/pass_launch.cuh"
#include "via/persistent.h"

namespace via::persistent {
namespace {

constexpr const char* kOp = "PersistentEngine";

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, which, device), kOp, "cudaDeviceGetAttribute");
  return value;
}
int current_device() {
  int device = 0;
  check_cuda(cudaGetDevice(&device), kOp, "cudaGetDevice");
  return device;
}
std::size_t opt_in_bytes(int device) {
  return static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
}

template <class P>
void check_fits(const ModelShape& shape, int multiprocessors, std::size_t opt_in) {
  using T = typename P::Tuning;
  const void* const kernel = reinterpret_cast<const void*>(&pass_kernel<T, P::kOptIn>);
  cudaFuncAttributes found = {};
  check_cuda(cudaFuncGetAttributes(&found, kernel), kOp, "cudaFuncGetAttributes");
  if (!has_body(found.ptxVersion, P::kOptIn)) {
    throw std::runtime_error(std::string(kOp) +
                             ": this build has no kernel for the device: built " +
                             "for compute capability " + std::to_string(found.ptxVersion / 10.0));
  }
  const int rows = most_hidden_rows(shape.hidden_size, multiprocessors);
  const int most = T::most_slab_rows(opt_in);
  if (rows > most) {
    throw std::runtime_error(
        std::string(kOp) +
        ": the device's shared memory is short: " + std::to_string(multiprocessors) +
        " multiprocessors hold " + std::to_string(most * multiprocessors) +
        " hidden elements, the model " + "has " + std::to_string(shape.hidden_size));
  }
  // Static memory of the larger kernel, the step, is at most kStaticBytes, which most_slab_rows has
  // set aside; registers are bounded by the launch bounds of both.
  const std::size_t bytes =
      launch_bytes<T>(shape, multiprocessors) + kStaticBytes - found.sharedSizeBytes;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(bytes)),
             kOp, "cudaFuncSetAttribute");
  int resident = 0;
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, kThreads, bytes), kOp,
             "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  if (resident < 1) {
    throw std::runtime_error(std::string(kOp) + ": a multiprocessor does not hold a block of " +
                             std::to_string(kThreads) + " threads with " + std::to_string(bytes) +
                             " bytes of shared memory");
  }
}

}  // namespace

int resident_blocks(const ModelShape& shape, int) {
  const int device = current_device();
  if (attribute(cudaDevAttrCooperativeLaunch, device) == 0) {
    throw std::runtime_error(std::string(kOp) + ": the device has no cooperative launch");
  }
  const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  const std::size_t opt_in = opt_in_bytes(device);
  with_preset(shape, opt_in,
              [&](auto preset) { check_fits<decltype(preset)>(shape, multiprocessors, opt_in); });
  return multiprocessors;
}

void pass_cuda(const ModelArgs& model, PassKind pass, const PassInput& input, int grid,
               void* stream) {
  with_preset(model.shape, opt_in_bytes(current_device()), [&](auto preset) {
    launch_pass<decltype(preset)>(model, pass, input, grid, static_cast<cudaStream_t>(stream));
  });
  check_cuda(cudaGetLastError(), kOp, "launch of pass_kernel");
}

}  // namespace via::persistent
