// SPDX-License-Identifier: Apache-2.0
// Device query, with one small kernel that proves that this build has code for the device.
//
// device_check_kernel: one block; thread i contributes i + 1 to a block sum, by a warp reduction
// and one shared word per warp, and thread 0 writes {sum, architecture of the image}. The host
// compares the sum with n (n + 1) / 2. Bytes moved: 8. Integers only, so the result is exact.

#include <cuda_runtime.h>

#include <stdexcept>

#include "cuda/check.h"
#include "via/device.h"

namespace via {
namespace {

constexpr const char* kOp = "device";
constexpr int kCheckThreads = 128;
constexpr int kWarpSize = 32;
constexpr unsigned kFullMask = 0xffffffffu;

// Own stream and memory for the check, released also when a step fails.
struct CheckResources {
  cudaStream_t stream = nullptr;
  int* result = nullptr;
  ~CheckResources() {
    if (result != nullptr) cudaFree(result);
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
};

__global__ void device_check_kernel(int* result /* [2] */) {
  __shared__ int warp_sums[kCheckThreads / kWarpSize];
  int sum = static_cast<int>(threadIdx.x) + 1;
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    sum += __shfl_down_sync(kFullMask, sum, offset);
  }
  if (threadIdx.x % kWarpSize == 0) warp_sums[threadIdx.x / kWarpSize] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  int total = 0;
  for (int warp_sum : warp_sums) total += warp_sum;
  result[0] = total;
#ifdef __CUDA_ARCH__
  result[1] = __CUDA_ARCH__ / 10;
#endif
}

// Architecture of the image that ran, 0 if there is none for this device.
int launch_device_check() {
  CheckResources resources;
  check_cuda(cudaStreamCreateWithFlags(&resources.stream, cudaStreamNonBlocking), kOp, "stream");
  check_cuda(cudaMalloc(&resources.result, 2 * sizeof(int)), kOp, "cudaMalloc");
  device_check_kernel<<<1, kCheckThreads, 0, resources.stream>>>(resources.result);
  const cudaError_t launched = cudaGetLastError();
  if (launched == cudaErrorNoKernelImageForDevice) return 0;
  check_cuda(launched, kOp, "launch of device_check_kernel");
  int host[2] = {0, 0};
  check_cuda(cudaMemcpyAsync(host, resources.result, sizeof(host), cudaMemcpyDeviceToHost,
                             resources.stream),
             kOp, "copy");
  check_cuda(cudaStreamSynchronize(resources.stream), kOp, "device_check_kernel");
  if (host[0] != kCheckThreads * (kCheckThreads + 1) / 2) {
    throw std::runtime_error("device: device_check_kernel returned a wrong sum");
  }
  return host[1];
}

}  // namespace

int cuda_device_count() {
  int count = 0;
  // Without a driver or a GPU this fails: that is a count of zero, and no error to keep.
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

DeviceInfo cuda_device_info(int index) {
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, index), kOp, "cudaGetDeviceProperties");
  DeviceInfo info;
  info.name = properties.name;
  info.compute_capability = 10 * properties.major + properties.minor;
  info.num_multiprocessors = properties.multiProcessorCount;
  info.memory_bytes = properties.totalGlobalMem;
  const DeviceGuard guard(index);
  info.image_architecture = launch_device_check();
  return info;
}

}  // namespace via
