// SPDX-License-Identifier: Apache-2.0
// DeviceGuard: restores the driver's current context instead of the runtime's device number, since
// cudaSetDevice(previous) would create a context, and take its memory, on a GPU that this thread
// has not used yet (device 0 in a process that works on another one).

#include <cuda.h>
#include <cuda_runtime.h>

#include "cuda/check.h"
#include "via/device.h"

namespace via {
namespace {

constexpr const char* kOp = "device";

// The driver library is found at run time: a build machine has none, and a process without a GPU
// must be able to load this library.
template <class Function>
Function* driver_function(const char* name) {
  void* pointer = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  check_cuda(cudaGetDriverEntryPointByVersion(name, &pointer, 12000, cudaEnableDefault, &result),
             kOp, name);
#else
  check_cuda(cudaGetDriverEntryPoint(name, &pointer, cudaEnableDefault, &result), kOp, name);
#endif
  if (result != cudaDriverEntryPointSuccess) {
    check_cuda(cudaErrorSymbolNotFound, kOp, name);
  }
  return reinterpret_cast<Function*>(pointer);
}

CUcontext current_context() {
  static auto* const get = driver_function<CUresult(CUcontext*)>("cuCtxGetCurrent");
  CUcontext context = nullptr;
  return get(&context) == CUDA_SUCCESS ? context : nullptr;
}

void set_context(CUcontext context) {
  static auto* const set = driver_function<CUresult(CUcontext)>("cuCtxSetCurrent");
  set(context);
}

}  // namespace

DeviceGuard::DeviceGuard(int index) {
  int current = 0;
  check_cuda(cudaGetDevice(&current), kOp, "cudaGetDevice");
  if (current == index) return;
  previous_ = current_context();
  check_cuda(cudaSetDevice(index), kOp, "cudaSetDevice");
  changed_ = true;
}

DeviceGuard::~DeviceGuard() {
  if (changed_) set_context(static_cast<CUcontext>(previous_));
}

}  // namespace via
