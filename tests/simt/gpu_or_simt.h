// SPDX-License-Identifier: Apache-2.0
// Device memory for the kernel mains: on a GPU where nvcc compiles them, else in the simulation.
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "device/prim.cuh"

namespace via::testing {

#ifdef __CUDACC__
inline void expect_success(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}
inline void* device_alloc(std::size_t bytes) {
  void* pointer = nullptr;
  expect_success(cudaMalloc(&pointer, bytes), "cudaMalloc");
  return pointer;
}
inline void device_free(void* pointer) { expect_success(cudaFree(pointer), "cudaFree"); }
inline void copy_to_device(void* to, const void* from, std::size_t bytes) {
  expect_success(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copy to the device");
}
inline void copy_to_host(void* to, const void* from, std::size_t bytes) {
  expect_success(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "copy to the host");
}
// Waits for the kernels launched so far; the process ends where one of them failed.
inline void synchronize() {
  expect_success(cudaGetLastError(), "launch");
  expect_success(cudaDeviceSynchronize(), "kernel");
}
#else
inline void* device_alloc(std::size_t bytes) { return simt::device_alloc(bytes); }
inline void device_free(void* pointer) { simt::device_free(pointer); }
inline void copy_to_device(void* to, const void* from, std::size_t bytes) {
  std::memcpy(to, from, bytes);
}
inline void copy_to_host(void* to, const void* from, std::size_t bytes) {
  std::memcpy(to, from, bytes);
}
inline void synchronize() {}
#endif

// Device memory that starts as a copy of `host`.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& host) : size_(host.size()) {
    data_ = static_cast<T*>(device_alloc(size_ > 0 ? size_ * sizeof(T) : 1));
    if (size_ > 0) copy_to_device(data_, host.data(), size_ * sizeof(T));
  }
  DeviceArray(DeviceArray&& other) noexcept : data_(other.data_), size_(other.size_) {
    other.data_ = nullptr;
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() {
    if (data_ != nullptr) device_free(data_);
  }

  T* data() const { return data_; }
  std::vector<T> to_host() const {
    std::vector<T> host(size_);
    if (size_ > 0) copy_to_host(host.data(), data_, size_ * sizeof(T));
    return host;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

}  // namespace via::testing
