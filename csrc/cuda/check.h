// SPDX-License-Identifier: Apache-2.0
// CUDA errors as exceptions.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace via {

// std::runtime_error "<op>: <what> failed: <CUDA's text>" unless `error` is success.
inline void check_cuda(cudaError_t error, const char* op, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(op) + ": " + what + " failed: " + cudaGetErrorString(error));
}

}  // namespace via
