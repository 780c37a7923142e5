// SPDX-License-Identifier: Apache-2.0
// What a call on CUDA tensors needs around it: the device, the stream, the work space.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>

#include "bindings/tensor.h"
#include "via/device.h"
#include "via/workspace.h"

namespace via::python {

// True if the CUDA entry points serve this tensor. A simulated build sends CPU tensors there too.
inline bool runs_on_cuda(const Tensor& tensor) {
#ifdef VIA_SIMULATE
  return true;
#else
  return tensor.is_cuda();
#endif
}

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
