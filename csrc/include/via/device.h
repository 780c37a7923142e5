// SPDX-License-Identifier: Apache-2.0
// What the machine offers: GPUs as the CUDA driver sees them, and the CPU instruction set in use.
#pragma once

#include <cstddef>
#include <string>

namespace via {

struct DeviceInfo {
  std::string name;
  int compute_capability = 0;  // 10 * major + minor, e.g. 90
  int num_multiprocessors = 0;
  std::size_t memory_bytes = 0;
  // Architecture of the kernel image that the driver picked from this build, e.g. 90, as the
  // image itself reports it; 0 if no image of this build runs on the device.
  int image_architecture = 0;
};

// Number of GPUs; 0 without a GPU, without a driver, and in a build without CUDA.
int cuda_device_count();

// Properties of GPU `index`. Launches one small kernel there, checks its result and waits for it.
// Throws std::runtime_error for CUDA failures, and "built without CUDA".
DeviceInfo cuda_device_info(int index);

// Makes GPU `index` current for the calling thread, and in the end what was current before; without
// a context on the device left behind, where there was none. Throws std::runtime_error for CUDA
// failures; without CUDA it does nothing.
class DeviceGuard {
 public:
  explicit DeviceGuard(int index);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  void* previous_ = nullptr;  // CUcontext
  bool changed_ = false;
};

namespace cpu {

// Instruction set in use, chosen once by cpuid: "base", "v3" or "v4" (levels of x86-64).
const char* cpu_isa();

}  // namespace cpu
}  // namespace via
