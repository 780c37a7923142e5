// SPDX-License-Identifier: Apache-2.0
// Tensors of the caller, seen through the DLPack C exchange API: no Torch, no copies, no ownership.
// What a wrong tensor could slip through is checked here, before any work.
#pragma once

#include <dlpack.h>
#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <initializer_list>

#include "bindings/errors.h"
#include "via/types.h"

namespace via::python {

inline constexpr std::array<DType, 3> kFloatTypes = {DType::kFloat32, DType::kFloat16,
                                                     DType::kBFloat16};
inline constexpr std::array<DType, 2> kIdTypes = {DType::kInt32, DType::kInt64};

// A borrowed tensor: valid while the Python object lives and is not resized.
struct Tensor {
  const DLPackExchangeAPI* api = nullptr;  // of the tensor's type
  Argument argument{};
  DLTensor dl{};
  DType dtype = DType::kFloat32;  // set by the check_* that accepts it

  char* data() const { return static_cast<char*>(dl.data) + dl.byte_offset; }
  std::int64_t size(int dim) const { return dl.shape[dim]; }
  std::int64_t item_bytes() const { return dl.dtype.bits / 8; }
  std::int64_t num_elements() const;
  bool is_cuda() const { return dl.device.device_type == kDLCUDA; }
  // The stream on which the tensor's framework works now, on this tensor's device (cudaStream_t);
  // null for the CPU. Inside a graph capture: the stream that is being recorded.
  void* current_stream() const;

  // TypeError unless the dtype is float32, float16 or bfloat16; int32 or int64; the one named.
  void check_float();
  void check_ids();
  void check_dtype(DType wanted, const char* name);
  // One byte per element: tiers (uint8) and escalate (bool) of a Verification.
  void check_byte(DLDataTypeCode code, const char* name) const;
  // ValueError unless the rank or the shape fits; `words` spells the shape, as "[B, N]".
  void check_rank(int rank, const char* words) const;
  void check_shape(std::initializer_list<std::int64_t> sizes, const char* words) const;
  void check_last_dim_contiguous() const;
  // Dense row-major, so that no two elements share memory.
  void check_contiguous() const;
  // For a tensor that is written: no two of its elements may share memory.
  void check_no_self_overlap() const;
  void check_same_device(const Tensor& other) const;
  // For the params structs. A one-dimensional tensor keeps its (unit) stride in stride[0].
  TensorView view() const;
};

// Reads one tensor argument. TypeError for anything that is not a dense tensor with memory of its
// own: no exchange API, FakeTensor, DTensor and other types that intercept dispatch, meta, sparse.
// ValueError for devices other than CPU and CUDA.
Tensor read_tensor(Argument argument, py::handle value);

// Memory from the first byte to one past the last, for overlap checks; empty if no elements.
struct Extent {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  bool overlaps(const Extent& other) const { return begin < other.end && other.begin < end; }
};
Extent extent(const Tensor& tensor);

}  // namespace via::python
