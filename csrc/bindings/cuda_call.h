// SPDX-License-Identifier: Apache-2.0
// What a call on CUDA tensors needs around it: the device, the stream, the work space.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>

#include "bindings/tensor.h"
#include "via/device.h"
#include "via/workspace.h"

namespace via::python {

// A simulated build, for tests, has CUDA entry points that run on the memory of CPU tensors.
#ifdef VIA_SIMULATE
inline constexpr bool kSimulated = true;
#else
inline constexpr bool kSimulated = false;
#endif

// True if the CUDA entry points serve this tensor.
inline bool runs_on_cuda(const Tensor& tensor) { return kSimulated || tensor.is_cuda(); }

// While it lives, the tensor's device is current and Python's lock is free: a launch waits when the
// queue of the device is full. `stream` is where the tensor's framework works now.
struct CudaCall {
  explicit CudaCall(const Tensor& like)
      : device(like.dl.device.device_id), stream(like.current_stream()), guard_(device) {}

  void* workspace(std::size_t bytes) const { return cuda_workspace(device, stream, bytes); }

  const int device;
  void* const stream;

 private:
  const pybind11::gil_scoped_release release_;
  const DeviceGuard guard_;
};

}  // namespace via::python
