// SPDX-License-Identifier: Apache-2.0

#include "bindings/tensor.h"

#include <string>

#include "bindings/exchange_api.h"

namespace via::python {
namespace {

bool same_type(DLDataType type, DType dtype) {
  constexpr std::uint8_t kCodes[] = {kDLFloat, kDLFloat, kDLBfloat, kDLInt, kDLInt};
  constexpr std::uint8_t kBits[] = {32, 16, 16, 32, 64};
  const auto index = static_cast<int>(dtype);
  return type.lanes == 1 && type.code == kCodes[index] && type.bits == kBits[index];
}

template <std::size_t kCount>
void check_one_of(Tensor& tensor, const std::array<DType, kCount>& allowed, const char* words) {
  for (const DType candidate : allowed) {
    if (!same_type(tensor.dl.dtype, candidate)) continue;
    tensor.dtype = candidate;
    return;
  }
  fail_type(tensor.argument, words, describe(tensor.dl.dtype));
}

}  // namespace

Tensor read_tensor(Argument argument, py::handle value) {
  PyTypeObject* const type = Py_TYPE(value.ptr());
  const ExchangeApi found = find_exchange_api(type);
  if (found.api == nullptr) fail_type(argument, found.why, type->tp_name);
  Tensor tensor;
  tensor.api = found.api;
  tensor.argument = argument;
  if (found.api->dltensor_from_py_object_no_sync(value.ptr(), &tensor.dl) != 0) {
    fail_type_from_pending(argument, "be a dense tensor with memory", type->tp_name);
  }
  const DLDevice device = tensor.dl.device;
  if (device.device_type != kDLCPU && device.device_type != kDLCUDA) {
    fail_value(argument, "be on the CPU or a CUDA device", describe(device));
  }
  if (tensor.dl.data == nullptr && tensor.num_elements() > 0) {
    fail_type(argument, "be a dense tensor with memory", type->tp_name);
  }
  return tensor;
}

std::int64_t Tensor::num_elements() const {
  std::int64_t count = 1;
  for (int i = 0; i < dl.ndim; ++i) count *= dl.shape[i];
  return count;
}

void* Tensor::current_stream() const {
  if (!is_cuda()) return nullptr;
  void* stream = nullptr;
  const auto device_type = dl.device.device_type;
  if (api->current_work_stream(device_type, dl.device.device_id, &stream) != 0) {
    throw py::error_already_set();
  }
  return stream;
}

void Tensor::check_float() { check_one_of(*this, kFloatTypes, "be float32, float16 or bfloat16"); }

void Tensor::check_ids() { check_one_of(*this, kIdTypes, "be int32 or int64"); }

void Tensor::check_dtype(DType wanted, const char* name) {
  if (!same_type(dl.dtype, wanted)) {
    fail_type(argument, std::string("be ") + name, describe(dl.dtype));
  }
  dtype = wanted;
}

void Tensor::check_byte(DLDataTypeCode code, const char* name) const {
  if (dl.dtype.lanes == 1 && dl.dtype.bits == 8 && dl.dtype.code == code) return;
  fail_type(argument, std::string("be ") + name, describe(dl.dtype));
}

void Tensor::check_rank(int rank, const char* words) const {
  if (dl.ndim == rank) return;
  fail_value(argument, std::string("have shape ") + words, describe(dl.shape, dl.ndim));
}

TensorView Tensor::view() const {
  TensorView result;
  result.data = data();
  result.dtype = dtype;
  if (dl.ndim == 1) result.stride[0] = 1;
  for (int i = 0; i < dl.ndim - 1; ++i) result.stride[i] = dl.strides[i];
  return result;
}

}  // namespace via::python
