// SPDX-License-Identifier: Apache-2.0
// What a kernel main needs from either side: memory that host and kernels share, and the end of the
// kernels. Compiled by nvcc it runs on a GPU, by a host compiler in the simulation.
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>

#include "device/prim.cuh"

namespace via::testing {

#ifdef __CUDACC__
inline void check_cuda(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(error));
  std::exit(2);
}
inline void* allocate(std::size_t bytes) {
  void* pointer = nullptr;
  check_cuda(cudaMallocManaged(&pointer, bytes));
  return pointer;
}
inline void release(void* pointer) { cudaFree(pointer); }
// Kernels may still run after a launch: call before the host reads.
inline void device_sync() {
  check_cuda(cudaGetLastError());
  check_cuda(cudaDeviceSynchronize());
}
// mbarriers and bulk copies came with sm_90.
inline bool has_bulk_copies() {
  int major = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  return major >= 9;
}
#else
inline void* allocate(std::size_t bytes) { return simt::device_alloc(bytes); }
inline void release(void* pointer) { simt::device_free(pointer); }
inline void device_sync() {}
inline bool has_bulk_copies() { return true; }
#endif

template <typename T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::size_t count)
      : data_(static_cast<T*>(allocate(count * sizeof(T)))), count_(count) {}
  DeviceBuffer(std::size_t count, T value) : DeviceBuffer(count) {
    for (std::size_t i = 0; i < count; ++i) data_[i] = value;
  }
  ~DeviceBuffer() { release(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  T* data() { return data_; }
  std::size_t size() const { return count_; }
  T& operator[](std::size_t index) { return data_[index]; }
  T* begin() { return data_; }
  T* end() { return data_ + count_; }

 private:
  T* data_;
  std::size_t count_;
};

// Counts wrong values; a main returns status(): 0 all right, 1 wrong values.
class Checker {
 public:
  template <typename... Values>
  void expect(bool right, const char* format, Values... values) {
    if (right || ++wrong_ > kShown) return;
    std::fprintf(stderr, "wrong: ");
    std::fprintf(stderr, format, values...);
    std::fputc('\n', stderr);
  }
  int status() const {
    if (wrong_ != 0) std::fprintf(stderr, "%d wrong values\n", wrong_);
    return wrong_ != 0 ? 1 : 0;
  }

 private:
  static constexpr int kShown = 8;
  int wrong_ = 0;
};

}  // namespace via::testing
