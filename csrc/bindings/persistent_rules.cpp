// SPDX-License-Identifier: Apache-2.0
// The verify calls of a step of _C.Persistent: rules, filters, distributions.

#include "bindings/persistent_arguments.h"
#include "bindings/step_arrays.h"

namespace via::python {
namespace {

Rule rule_of(const std::string& name) {
  if (name == "route") return Rule::kRoute;
  if (name == "greedy") return Rule::kGreedy;
  if (name == "sample") return Rule::kSample;
  fail_value({kPersistent, "rule"}, "be one of route, greedy, sample", name);
}

FloatParam number(const py::dict& settings, const char* name) {
  FloatParam param;
  param.value = setting<float>(settings, name);
  return param;
}

FilterParams read_filters(const py::dict& settings) {
  FilterParams filter;
  filter.temperature = number(settings, "temperature");
  filter.top_k.value = setting<std::int32_t>(settings, "top_k");
  filter.top_p = number(settings, "top_p");
  filter.min_p = number(settings, "min_p");
  return filter;
}

// The distribution that every node was drawn from, with its id map.
void read_draft_probs(const ArrayReader& reader, std::int64_t num_nodes, VerifyParams& params) {
  if (reader.has("draft_to_target")) {
    Tensor map = reader.read("draft_to_target");
    map.check_dtype(DType::kInt64, "int64");
    map.check_rank(1, "[V_draft]");
    map.check_same_device(reader.like());
    params.draft_vocab_size = static_cast<std::int32_t>(map.size(0));
    params.draft_to_target = map.view();
  }
  Tensor probs = reader.read("draft_probs");
  probs.check_float();
  probs.check_shape({params.batch_size, num_nodes, params.draft_vocab_size}, "[B, N, V_draft]");
  probs.check_last_dim_contiguous();
  probs.check_same_device(reader.like());
  params.draft_probs = probs.view();
}

VerifyParams read_rule(const ArrayReader& reader, const py::dict& rule, const FilterParams& filter,
                       const persistent::StepLaunch& launch) {
  VerifyParams params;
  params.batch_size = launch.model.batch_size;
  params.vocab_size = params.draft_vocab_size = launch.model.shape.vocab_size;
  params.rule = rule_of(setting<std::string>(rule, "rule"));
  params.filter = filter;
  if (params.rule == Rule::kRoute) {
    params.accept_threshold = number(rule, "accept_threshold");
    params.escalate_threshold = number(rule, "escalate_threshold");
  }
  params.use_draft_threshold = rule.contains("draft_threshold");
  if (params.use_draft_threshold) params.draft_threshold = number(rule, "draft_threshold");
  if (setting<bool>(rule, "uses_probs")) {
    read_draft_probs(reader, launch.step.num_nodes, params);
  }
  if (filter.temperature.value > 0.0f) {
    Tensor seed = reader.read("seed");
    seed.check_dtype(DType::kInt64, "int64");
    seed.check_shape({params.batch_size}, "[B]");
    seed.check_same_device(reader.like());
    params.seed = seed.view();
  }
  return params;
}

}  // namespace

void read_step_settings(const py::dict& settings, StepParams& step) {
  step.max_backlog = setting<std::int32_t>(settings, "max_backlog");
  step.max_new_tokens = setting<std::int32_t>(settings, "max_new_tokens");
  step.min_new_tokens = setting<std::int32_t>(settings, "min_new_tokens");
  step.has_slim = setting<bool>(settings, "has_slim");
  step.audit = audit_of(setting<std::string>(settings, "audit"));
}

void read_rules(const ArrayReader& reader, const py::dict& settings,
                persistent::StepLaunch& launch) {
  const py::dict rules = setting<py::dict>(settings, "rules");
  const FilterParams filter = read_filters(settings);
  const auto read = [&](const char* name, VerifyParams& params) {
    params = read_rule(reader, setting<py::dict>(rules, name), filter, launch);
  };
  read("slim", launch.slim);
  read("full", launch.full);
  if (launch.step.audit != StepAudit::kNone) read("audit", launch.audit);
  const std::int64_t vocab_size = launch.model.shape.vocab_size;
  if (reader.has("held_words")) {
    const std::int32_t* words = nullptr;
    reader.set(words, "held_words", {(vocab_size + 31) / 32});
    launch.held_words = reinterpret_cast<const std::uint32_t*>(words);
  }
  if (reader.has("slim_rows")) {
    reader.set(launch.slim_rows, "slim_rows",
               {launch.model.batch_size, launch.step.max_backlog + 1, vocab_size});
  }
  launch.notes_path = setting<bool>(settings, "notes_path");
  launch.moves = setting<bool>(settings, "moves");
  reader.set_structs(launch.caches, "cache_views", 2 * launch.model.shape.num_layers);
  launch.grid = setting<int>(settings, "grid");
}

}  // namespace via::python
