// SPDX-License-Identifier: Apache-2.0
// The work spaces of the library: one per device and stream, and one per graph being recorded.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>

#include "cuda/check.h"
#include "via/device.h"
#include "via/workspace.h"

namespace via {
namespace {

constexpr const char* kOp = "workspace";
constexpr std::size_t kSmallest = std::size_t{1} << 20;

// Handles of destroyed streams come back for new ones, ids do not. Capture 0: no graph.
struct Key {
  int device;
  unsigned long long stream_id;
  unsigned long long capture_id;
  bool operator<(const Key& other) const {
    return std::tie(device, stream_id, capture_id) <
           std::tie(other.device, other.stream_id, other.capture_id);
  }
};

struct Memory {
  void* data = nullptr;
  std::size_t bytes = 0;
};

// Allows what a thread may not do while any stream of the process records a graph in "global" mode.
// An allocation is harmless there: it is not part of the graph.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

Key make_key(int device, cudaStream_t stream) {
  Key key{device, 0, 0};
  check_cuda(cudaStreamGetId(stream, &key.stream_id), kOp, "cudaStreamGetId");
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long capture_id = 0;
  check_cuda(cudaStreamGetCaptureInfo(stream, &status, &capture_id), kOp,
             "cudaStreamGetCaptureInfo");
  if (status == cudaStreamCaptureStatusActive) key.capture_id = capture_id;
  return key;
}

// Grown memory replaces the old one, which stays allocated: another thread may be about to queue
// work that uses it.
Memory allocate(std::size_t bytes, cudaStream_t stream) {
  Memory memory;
  const RelaxedCapture relaxed;
  check_cuda(cudaMalloc(&memory.data, bytes), kOp, "cudaMalloc");
  memory.bytes = bytes;
  const cudaError_t error = cudaMemsetAsync(memory.data, 0, bytes, stream);
  if (error != cudaSuccess) cudaFree(memory.data);
  check_cuda(error, kOp, "cudaMemsetAsync");
  return memory;
}

}  // namespace

void* cuda_workspace(int device, void* stream, std::size_t bytes) {
  if (bytes == 0) return nullptr;
  // Never destroyed: at exit the driver may be gone before this file's statics.
  static auto& mutex = *new std::mutex;
  static auto& workspaces = *new std::map<Key, Memory>;
  const DeviceGuard guard(device);
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const Key key = make_key(device, cuda_stream);
  const std::lock_guard<std::mutex> lock(mutex);
  Memory& memory = workspaces[key];
  if (memory.bytes < bytes) {
    memory = allocate(std::max({bytes, 2 * memory.bytes, kSmallest}), cuda_stream);
  }
  return memory.data;
}

}  // namespace via
