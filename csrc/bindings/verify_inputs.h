// SPDX-License-Identifier: Apache-2.0
// The input arguments of ops.verify, from Python objects to VerifyParams.
#pragma once

#include <vector>

#include "bindings/tensor.h"
#include "via/verify.h"

namespace via::python {

// As given by the caller; None where not given.
struct VerifyArguments {
  py::handle draft_token_ids, logits, rule, parents, num_nodes, resume;
  py::handle draft_logits, draft_probs, draft_to_target;
  py::handle accept_threshold, escalate_threshold, draft_threshold, router, draft_scores;
  py::handle temperature, top_k, top_p, min_p, allowed;
  py::handle uniform_samples, seed, position;
};

// The params without `resume`, `out` and `num_threads`.
struct VerifyInputs {
  VerifyParams params;
  Tensor logits;                // sets the device of the call
  std::vector<Extent> extents;  // memory of the tensors read, which outputs must not share

  Tensor read(const char* name, py::handle value);
  // The checks that every tensor shares, once its dtype and shape are accepted.
  TensorView finish(const Tensor& tensor) const;
};

// The parts of read_verify_inputs that stand in verify_options.cpp and verify_router.cpp.
void read_draft(VerifyInputs& inputs, const VerifyArguments& arguments);
void read_thresholds(VerifyInputs& inputs, const VerifyArguments& arguments);
void read_router_arguments(VerifyInputs& inputs, const VerifyArguments& arguments);
void read_masks_and_coins(VerifyInputs& inputs, const VerifyArguments& arguments);

// `extras` (None, or a tuple): other verifiers' layouts and rules, as VerifyParams has them, in the
// order logits_offsets, draft_offsets, logits_are_probs, threshold_single, threshold_acc, coins.
void read_extras(VerifyInputs& inputs, py::handle extras);

// Raises TypeError or ValueError for the first argument that breaks a rule.
VerifyInputs read_verify_inputs(const VerifyArguments& arguments);

}  // namespace via::python
