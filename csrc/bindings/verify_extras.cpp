// SPDX-License-Identifier: Apache-2.0
// What via_ext.compat adds to a verify call. No user reaches it: names in errors are internal.

#include "bindings/verify_inputs.h"

namespace via::python {
namespace {

constexpr const char* kOp = "verify";
constexpr int kNumExtras = 6;

// Memory of a dense [B, columns] tensor, or null for None.
char* read_rows(VerifyInputs& inputs, const char* name, py::handle value, DType dtype,
                std::int64_t columns) {
  if (value.is_none()) return nullptr;
  Tensor tensor = inputs.read(name, value);
  tensor.check_dtype(dtype, dtype == DType::kInt64 ? "int64" : "float32");
  tensor.check_shape({inputs.params.batch_size, columns}, "[B, columns]");
  tensor.check_contiguous();
  tensor.check_same_device(inputs.logits);
  return tensor.data();
}

}  // namespace

void read_extras(VerifyInputs& inputs, py::handle extras) {
  if (extras.is_none()) return;
  if (!PyTuple_Check(extras.ptr()) || PyTuple_GET_SIZE(extras.ptr()) != kNumExtras) {
    fail_type({kOp, "extras"}, "be a tuple of 6", describe(extras));
  }
  const auto item = [&](int index) -> py::handle { return PyTuple_GET_ITEM(extras.ptr(), index); };
  VerifyParams& params = inputs.params;
  const std::int64_t nodes = params.num_nodes;
  params.logits_offsets = reinterpret_cast<const std::int64_t*>(
      read_rows(inputs, "logits_offsets", item(0), DType::kInt64, nodes + 1));
  params.draft_offsets = reinterpret_cast<const std::int64_t*>(
      read_rows(inputs, "draft_offsets", item(1), DType::kInt64, nodes));
  params.logits_are_probs = item(2).cast<bool>();
  params.threshold_single = item(3).cast<float>();
  params.threshold_acc = item(4).cast<float>();
  params.coins =
      reinterpret_cast<float*>(read_rows(inputs, "coins", item(5), DType::kFloat32, nodes + 1));
}

}  // namespace via::python
