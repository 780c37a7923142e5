// SPDX-License-Identifier: Apache-2.0

#include "bindings/verify_inputs.h"

#include <limits>
#include <string>

namespace via::python {
namespace {

constexpr const char* kOp = "verify";
constexpr int kMaxTensors = 32;  // more than the op has arguments
constexpr std::int64_t kMaxSize = std::numeric_limits<std::int32_t>::max();

Rule read_rule(py::handle value, bool resuming) {
  const Argument argument{kOp, "rule"};
  if (!PyUnicode_Check(value.ptr())) fail_type(argument, "be a string", describe(value));
  const auto is = [&](const char* name) {
    return PyUnicode_CompareWithASCIIString(value.ptr(), name) == 0;
  };
  if (is("greedy")) return Rule::kGreedy;
  if (is("sample")) return Rule::kSample;
  if (!is("route")) fail_value(argument, "be 'route', 'greedy' or 'sample'", describe(value));
  if (resuming) fail_value(argument, "be 'greedy' or 'sample' with resume", "'route'");
  return Rule::kRoute;
}

void read_tokens_and_logits(VerifyInputs& inputs, const VerifyArguments& arguments) {
  VerifyParams& params = inputs.params;
  Tensor tokens = inputs.read("draft_token_ids", arguments.draft_token_ids);
  tokens.check_ids();
  tokens.check_rank(2, "[B, N]");
  Tensor& logits = inputs.logits = inputs.read("logits", arguments.logits);
  logits.check_float();
  logits.check_rank(3, "[B, N+1, V]");
  const std::int64_t batch_size = tokens.size(0);
  const std::int64_t num_nodes = tokens.size(1);
  if (batch_size < 1 || batch_size > kMaxSize || num_nodes > kMaxNodes) {
    fail_value(tokens.argument, "have shape [B, N] with B >= 1 and N <= 127",
               describe(tokens.dl.shape, 2));
  }
  const std::int64_t vocab_size = logits.size(2);
  if (vocab_size < 1 || vocab_size > kMaxSize) {
    fail_value(logits.argument, "have shape [B, N+1, V] with V >= 1", describe(logits.dl.shape, 3));
  }
  logits.check_shape({batch_size, num_nodes + 1, vocab_size}, "[B, N+1, V]");
  params.batch_size = static_cast<std::int32_t>(batch_size);
  params.num_nodes = static_cast<std::int32_t>(num_nodes);
  params.vocab_size = static_cast<std::int32_t>(vocab_size);
  params.draft_token_ids = inputs.finish(tokens);
  params.logits = inputs.finish(logits);
}

void read_tree(VerifyInputs& inputs, const VerifyArguments& arguments) {
  VerifyParams& params = inputs.params;
  if (!arguments.parents.is_none()) {
    Tensor parents = inputs.read("parents", arguments.parents);
    parents.check_ids();
    const bool shared = parents.dl.ndim == 1;
    if (shared) {
      parents.check_shape({params.num_nodes}, "[N] or [B, N]");
    } else {
      parents.check_shape({params.batch_size, params.num_nodes}, "[N] or [B, N]");
    }
    params.parents = inputs.finish(parents);
    if (shared) params.parents.stride[0] = 0;
  }
  if (!arguments.num_nodes.is_none()) {
    Tensor counts = inputs.read("num_nodes", arguments.num_nodes);
    counts.check_ids();
    counts.check_shape({params.batch_size}, "[B]");
    params.node_counts = inputs.finish(counts);
  }
}

}  // namespace

Tensor VerifyInputs::read(const char* name, py::handle value) {
  const Tensor tensor = read_tensor({kOp, name}, value);
  extents.push_back(extent(tensor));
  return tensor;
}

TensorView VerifyInputs::finish(const Tensor& tensor) const {
  tensor.check_last_dim_contiguous();
  tensor.check_same_device(logits);
  return tensor.view();
}

VerifyInputs read_verify_inputs(const VerifyArguments& arguments) {
  VerifyInputs inputs;
  inputs.extents.reserve(kMaxTensors);
  inputs.params.rule = read_rule(arguments.rule, !arguments.resume.is_none());
  read_tokens_and_logits(inputs, arguments);
  read_tree(inputs, arguments);
  read_draft(inputs, arguments);
  read_thresholds(inputs, arguments);
  read_router_arguments(inputs, arguments);
  read_masks_and_coins(inputs, arguments);
  return inputs;
}

}  // namespace via::python
