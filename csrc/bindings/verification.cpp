// SPDX-License-Identifier: Apache-2.0

#include "bindings/verification.h"

#include <string>

namespace via::python {
namespace {

constexpr const char* kOp = "verify";

// Names in error texts: one row per place where a Verification may stand.
constexpr const char* kOutNames[kVerificationFields] = {
    "out.ratios",   "out.tiers",    "out.path",     "out.num_accepted", "out.next_token",
    "out.next_row", "out.escalate", "out.logprobs", "out.status"};
constexpr const char* kResumeNames[kVerificationFields] = {
    "resume.ratios",       "resume.tiers",      "resume.path",
    "resume.num_accepted", "resume.next_token", "resume.next_row",
    "resume.escalate",     "resume.logprobs",   "resume.status"};

}  // namespace

VerificationTensors read_verification(const char* name, py::handle value, std::int64_t batch_size,
                                      std::int64_t num_nodes, const Tensor& like) {
  if (!PyTuple_Check(value.ptr()) || PyTuple_GET_SIZE(value.ptr()) != kVerificationFields) {
    fail_type({kOp, name}, "be a Verification", describe(value));
  }
  const auto& names = name[0] == 'o' ? kOutNames : kResumeNames;
  VerificationTensors result;
  int index = 0;
  // Checks the next field and returns its memory.
  const auto next = [&](auto&& check_dtype, std::int64_t columns) -> char* {
    const Argument argument{kOp, names[index]};
    const py::handle item = PyTuple_GET_ITEM(value.ptr(), index);
    Tensor tensor = read_tensor(argument, item);
    check_dtype(tensor);
    if (columns < 0) {
      tensor.check_shape({batch_size}, "[B]");
    } else {
      tensor.check_shape({batch_size, columns}, columns == num_nodes ? "[B, N]" : "[B, N+1]");
    }
    tensor.check_contiguous();
    tensor.check_same_device(like);
    result.extents[index++] = extent(tensor);
    return tensor.data();
  };
  const auto float32 = [](Tensor& tensor) { tensor.check_dtype(DType::kFloat32, "float32"); };
  const auto int32 = [](Tensor& tensor) { tensor.check_dtype(DType::kInt32, "int32"); };
  const auto int64 = [](Tensor& tensor) { tensor.check_dtype(DType::kInt64, "int64"); };
  const auto uint8 = [](Tensor& tensor) { tensor.check_byte(kDLUInt, "uint8"); };
  const auto boolean = [](Tensor& tensor) { tensor.check_byte(kDLBool, "bool"); };
  constexpr std::int64_t kPerRow = -1;

  Verification& arrays = result.arrays;
  result.has_ratios = PyTuple_GET_ITEM(value.ptr(), 0) != Py_None;
  if (result.has_ratios) {
    arrays.ratios = reinterpret_cast<float*>(next(float32, num_nodes));
    arrays.tiers = reinterpret_cast<std::uint8_t*>(next(uint8, num_nodes));
  } else if (PyTuple_GET_ITEM(value.ptr(), 1) != Py_None) {
    fail_value({kOp, names[1]}, "be None where ratios is None", "a tensor");
  }
  index = 2;
  arrays.path = reinterpret_cast<std::int32_t*>(next(int32, num_nodes));
  arrays.num_accepted = reinterpret_cast<std::int32_t*>(next(int32, kPerRow));
  arrays.next_token = reinterpret_cast<std::int64_t*>(next(int64, kPerRow));
  arrays.next_row = reinterpret_cast<std::int32_t*>(next(int32, kPerRow));
  arrays.escalate = reinterpret_cast<bool*>(next(boolean, kPerRow));
  arrays.logprobs = reinterpret_cast<float*>(next(float32, num_nodes + 1));
  arrays.status = reinterpret_cast<std::int32_t*>(next(int32, kPerRow));
  return result;
}

void check_outputs_alone(const VerificationTensors& out, const std::vector<Extent>& inputs) {
  for (int i = 0; i < kVerificationFields; ++i) {
    bool alone = true;
    for (int j = 0; j < i; ++j) alone = alone && !out.extents[i].overlaps(out.extents[j]);
    for (const Extent& input : inputs) alone = alone && !out.extents[i].overlaps(input);
    if (!alone) fail_value({kOp, kOutNames[i]}, "have memory of its own", "shared memory");
  }
}

}  // namespace via::python
