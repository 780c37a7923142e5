// SPDX-License-Identifier: Apache-2.0
// The optional arguments of ops.verify: draft distribution, thresholds, filters, mask, coins.

#include <limits>
#include <string>

#include "bindings/scalars.h"
#include "bindings/verify_inputs.h"

namespace via::python {
namespace {

constexpr const char* kOp = "verify";
constexpr std::int64_t kMaxSize = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaskBits = 32;  // vocabulary entries per word of `allowed`

}  // namespace

void read_draft(VerifyInputs& inputs, const VerifyArguments& arguments) {
  VerifyParams& params = inputs.params;
  params.draft_vocab_size = params.vocab_size;
  params.draft_probs_are_logits = !arguments.draft_logits.is_none();
  if (params.draft_probs_are_logits && !arguments.draft_probs.is_none()) {
    fail_value({kOp, "draft_probs"}, "be None where draft_logits is given", "both");
  }
  const bool mapped = !arguments.draft_to_target.is_none();
  const py::handle given =
      params.draft_probs_are_logits ? arguments.draft_logits : arguments.draft_probs;
  if (given.is_none()) {
    if (!mapped) return;
    fail_value({kOp, "draft_to_target"}, "come with draft_logits or draft_probs", "neither");
  }
  if (mapped) {
    Tensor map = inputs.read("draft_to_target", arguments.draft_to_target);
    map.check_ids();
    map.check_rank(1, "[V_draft]");
    if (map.size(0) < 1 || map.size(0) > kMaxSize) {
      fail_value(map.argument, "have shape [V_draft] with V_draft >= 1", describe(map.dl.shape, 1));
    }
    params.draft_vocab_size = static_cast<std::int32_t>(map.size(0));
    params.draft_to_target = inputs.finish(map);
  }
  Tensor draft = inputs.read(params.draft_probs_are_logits ? "draft_logits" : "draft_probs", given);
  draft.check_float();
  draft.check_shape({params.batch_size, params.num_nodes, params.draft_vocab_size},
                    mapped ? "[B, N, V_draft]" : "[B, N, V]");
  params.draft_probs = inputs.finish(draft);
}

void read_thresholds(VerifyInputs& inputs, const VerifyArguments& arguments) {
  VerifyParams& params = inputs.params;
  const auto threshold = [&](const char* name, py::handle value) {
    return read_float({kOp, name}, value, Range::kNonNegative, params.batch_size, inputs.logits);
  };
  params.accept_threshold = threshold("accept_threshold", arguments.accept_threshold);
  params.escalate_threshold = threshold("escalate_threshold", arguments.escalate_threshold);
  const bool numbers = !params.accept_threshold.data && !params.escalate_threshold.data;
  if (numbers && params.escalate_threshold.value > params.accept_threshold.value) {
    fail_value({kOp, "escalate_threshold"},
               "be <= accept_threshold = " + describe(arguments.accept_threshold),
               describe(arguments.escalate_threshold));
  }
  if (arguments.draft_threshold.is_none()) return;
  if (arguments.draft_logits.is_none() && arguments.draft_probs.is_none()) {
    fail_value({kOp, "draft_threshold"}, "come with draft_logits or draft_probs", "neither");
  }
  params.draft_threshold = threshold("draft_threshold", arguments.draft_threshold);
  params.use_draft_threshold = true;
}

void read_masks_and_coins(VerifyInputs& inputs, const VerifyArguments& arguments) {
  VerifyParams& params = inputs.params;
  if (!arguments.allowed.is_none()) {
    Tensor allowed = inputs.read("allowed", arguments.allowed);
    allowed.check_dtype(DType::kInt32, "int32");
    allowed.check_shape(
        {params.batch_size, params.num_nodes + 1, (params.vocab_size + kMaskBits - 1) / kMaskBits},
        "[B, N+1, ceil(V/32)]");
    params.allowed = inputs.finish(allowed);
  }
  if (!arguments.uniform_samples.is_none()) {
    Tensor coins = inputs.read("uniform_samples", arguments.uniform_samples);
    coins.check_dtype(DType::kFloat32, "float32");
    coins.check_shape({params.batch_size, params.num_nodes + 1}, "[B, N+1]");
    params.uniform_samples = inputs.finish(coins);
  }
  params.filter = read_filter(kOp, arguments.temperature, arguments.top_k, arguments.top_p,
                              arguments.min_p, params.batch_size, inputs.logits);
  const SeedViews views =
      read_seed(kOp, arguments.seed, arguments.position, params.batch_size, inputs.logits);
  params.seed = views.seed;
  params.position = views.position;
  const bool draws = params.rule == Rule::kSample || may_draw(params.filter);
  if (draws && arguments.uniform_samples.is_none() && arguments.seed.is_none()) {
    fail_value({kOp, "uniform_samples"},
               "be given, or seed and position, for rule 'sample' or temperature > 0", "None");
  }
}

}  // namespace via::python
