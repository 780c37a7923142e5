// SPDX-License-Identifier: Apache-2.0
// The router of ops.verify and the drafter's scores for it.

#include "bindings/verify_inputs.h"

namespace via::python {
namespace {

constexpr const char* kOp = "verify";

// A tuple is what via_ext.ops makes of a Router: numbers that need no memory on the device.
RouterParam read_router_param(VerifyInputs& inputs, py::handle value) {
  RouterParam param;
  if (PyTuple_Check(value.ptr())) {
    if (PyTuple_GET_SIZE(value.ptr()) != kRouterSize) {
      fail_value({kOp, "router"}, "hold 27 numbers", describe(value));
    }
    for (int i = 0; i < kRouterSize; ++i) {
      param.values[i] = static_cast<float>(PyFloat_AsDouble(PyTuple_GET_ITEM(value.ptr(), i)));
    }
    if (PyErr_Occurred()) fail_type_from_pending({kOp, "router"}, "hold numbers", describe(value));
    return param;
  }
  Tensor packed = inputs.read("router", value);
  packed.check_dtype(DType::kFloat32, "float32");
  const bool shared = packed.dl.ndim == 1;
  if (shared) {
    packed.check_shape({kRouterSize}, "[27] or [B, 27]");
  } else {
    packed.check_shape({inputs.params.batch_size, kRouterSize}, "[27] or [B, 27]");
  }
  const TensorView view = inputs.finish(packed);
  param.data = static_cast<const float*>(view.data);
  param.stride = shared ? 0 : view.stride[0];
  return param;
}

}  // namespace

void read_router_arguments(VerifyInputs& inputs, const VerifyArguments& arguments) {
  VerifyParams& params = inputs.params;
  if (arguments.router.is_none()) {
    if (arguments.draft_scores.is_none()) return;
    fail_value({kOp, "draft_scores"}, "come with router", "no router");
  }
  if (params.rule != Rule::kRoute) {
    fail_value({kOp, "router"}, "be None for rules 'greedy' and 'sample'", "a router");
  }
  if (!arguments.draft_threshold.is_none()) {
    fail_value({kOp, "draft_threshold"}, "be None with router",
               describe(arguments.draft_threshold));
  }
  params.router = read_router_param(inputs, arguments.router);
  params.use_router = true;
  if (arguments.draft_scores.is_none()) return;
  Tensor scores = inputs.read("draft_scores", arguments.draft_scores);
  scores.check_dtype(DType::kFloat32, "float32");
  scores.check_shape({params.batch_size, params.num_nodes, 2}, "[B, N, 2]");
  params.draft_scores = inputs.finish(scores);
}

}  // namespace via::python
