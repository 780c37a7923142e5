// SPDX-License-Identifier: Apache-2.0
// The numbers, the tree and the outputs of ops.tree_attention.

#include <cmath>
#include <string>

#include "bindings/attention_inputs.h"
#include "bindings/page_table.h"

namespace via::python {
namespace {

constexpr const char* kOp = "tree_attention";

float read_positive(const char* name, py::handle value) {
  const Argument argument{kOp, name};
  const double number = PyBool_Check(value.ptr()) ? -1.0 : PyFloat_AsDouble(value.ptr());
  if (PyBool_Check(value.ptr()) || (number == -1.0 && PyErr_Occurred())) {
    PyErr_Clear();
    fail_type(argument, "be a number or None", describe(value));
  }
  const float result = static_cast<float>(number);
  if (!(result > 0.0f) || std::isinf(result)) {
    fail_value(argument, "be finite and > 0", describe(value));
  }
  return result;
}

std::int64_t read_window(py::handle value) {
  const Argument argument{kOp, "window"};
  if (!PyIndex_Check(value.ptr()) || PyBool_Check(value.ptr())) {
    fail_type(argument, "be an integer or None", describe(value));
  }
  // Clamps instead of raising on overflow: beyond any context a window is "off".
  const Py_ssize_t number = PyNumber_AsSsize_t(value.ptr(), nullptr);
  if (number < 1) fail_value(argument, "be >= 1", describe(value));
  return number;
}

void read_tree(TreeAttentionParams& params, const AttentionArguments& arguments,
               const Tensor& query) {
  const auto per_row = [&](const char* name, py::handle value) {
    return read_ids({kOp, name}, value, {params.batch_size}, "[B]", query).view();
  };
  params.context_lens = per_row("context_lens", arguments.context_lens);
  if (!arguments.num_tokens.is_none()) {
    params.token_counts = per_row("num_tokens", arguments.num_tokens);
  }
  if (arguments.parents.is_none()) return;
  const Argument argument{kOp, "parents"};
  constexpr const char* kShape = "[M] or [B, M]";
  if (read_tensor(argument, arguments.parents).dl.ndim == 1) {
    params.parents =
        read_ids(argument, arguments.parents, {params.num_tokens}, kShape, query).view();
    params.parents.stride[0] = 0;
    return;
  }
  params.parents =
      read_ids(argument, arguments.parents, {params.batch_size, params.num_tokens}, kShape, query)
          .view();
}

void read_outputs(TreeAttentionParams& params, const AttentionArguments& arguments,
                  const Tensor& query) {
  Tensor out = read_tensor({kOp, "out"}, arguments.out);
  out.check_dtype(query.dtype, "the dtype of query");
  out.check_shape({query.size(0), query.size(1), query.size(2), query.size(3)}, "[B, M, Hq, D]");
  out.check_contiguous();
  out.check_same_device(query);
  params.out = {out.data(), {out.dl.strides[0], out.dl.strides[1], out.dl.strides[2]}};
  if (arguments.lse.is_none()) return;
  Tensor lse = read_tensor({kOp, "lse"}, arguments.lse);
  lse.check_dtype(DType::kFloat32, "float32");
  lse.check_shape({query.size(0), query.size(1), query.size(2)}, "[B, M, Hq]");
  lse.check_contiguous();
  lse.check_same_device(query);
  params.lse = reinterpret_cast<float*>(lse.data());
}

}  // namespace

void read_attention_options(AttentionInputs& inputs, const AttentionArguments& arguments) {
  TreeAttentionParams& params = inputs.params;
  read_tree(params, arguments, inputs.query);
  params.scale = arguments.scale.is_none() ? 1.0f / std::sqrt(static_cast<float>(params.head_dim))
                                           : read_positive("scale", arguments.scale);
  if (!arguments.softcap.is_none()) params.softcap = read_positive("softcap", arguments.softcap);
  if (!arguments.window.is_none()) params.window = read_window(arguments.window);
  read_outputs(params, arguments, inputs.query);
}

}  // namespace via::python
