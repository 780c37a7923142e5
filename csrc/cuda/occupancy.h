// SPDX-License-Identifier: Apache-2.0
// How many blocks of a kernel the current device holds.
#pragma once

#include <mutex>
#include <stdexcept>
#include <string>

#include "cuda/check.h"

namespace via::cuda {

struct Occupancy {
  int multiprocessors;
  int blocks_per_multiprocessor;
};

template <auto kKernel>
Occupancy ask_occupancy(const char* op, int threads, int device) {
  Occupancy limits = {};
  check_cuda(
      cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device), op,
      "cudaDeviceGetAttribute");
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&limits.blocks_per_multiprocessor,
                                                           kKernel, threads, 0),
             op, "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  if (limits.blocks_per_multiprocessor < 1) {
    throw std::runtime_error(std::string(op) + ": this build has no kernel that fits the device");
  }
  return limits;
}

// Of a kernel with `threads` per block and no dynamic shared memory. A device is asked once;
// threads that come at the same time wait for the first.
template <auto kKernel>
Occupancy occupancy(const char* op, int threads) {
  constexpr int kMaxDevices = 64;
  static std::once_flag asked[kMaxDevices];
  static Occupancy known[kMaxDevices];
  int device = 0;
  check_cuda(cudaGetDevice(&device), op, "cudaGetDevice");
  if (device >= kMaxDevices) return ask_occupancy<kKernel>(op, threads, device);
  std::call_once(asked[device],
                 [&] { known[device] = ask_occupancy<kKernel>(op, threads, device); });
  return known[device];
}

}  // namespace via::cuda
