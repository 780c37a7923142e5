// SPDX-License-Identifier: Apache-2.0
// ops.verify: checks every argument, then runs the operation into `out`.

#include "via/verify.h"

#include <pybind11/pybind11.h>

#include <optional>

#include "bindings/bindings.h"
#include "bindings/cuda_call.h"
#include "bindings/verification.h"
#include "bindings/verify_inputs.h"

namespace via::python {
namespace {

void verify(py::handle draft_token_ids, py::handle logits, py::handle rule, py::handle parents,
            py::handle num_nodes, py::handle resume, py::handle draft_logits,
            py::handle draft_probs, py::handle draft_to_target, py::handle accept_threshold,
            py::handle escalate_threshold, py::handle draft_threshold, py::handle router,
            py::handle draft_scores, py::handle temperature, py::handle top_k, py::handle top_p,
            py::handle min_p, py::handle allowed, py::handle uniform_samples, py::handle seed,
            py::handle position, py::handle out, int num_threads, py::handle extras) {
  VerifyInputs inputs = read_verify_inputs({draft_token_ids,
                                            logits,
                                            rule,
                                            parents,
                                            num_nodes,
                                            resume,
                                            draft_logits,
                                            draft_probs,
                                            draft_to_target,
                                            accept_threshold,
                                            escalate_threshold,
                                            draft_threshold,
                                            router,
                                            draft_scores,
                                            temperature,
                                            top_k,
                                            top_p,
                                            min_p,
                                            allowed,
                                            uniform_samples,
                                            seed,
                                            position});
  VerifyParams& params = inputs.params;
  read_extras(inputs, extras);
  VerificationTensors resumed;
  if (!resume.is_none()) {
    resumed =
        read_verification("resume", resume, params.batch_size, params.num_nodes, inputs.logits);
    params.resume = &resumed.arrays;
    inputs.extents.insert(inputs.extents.end(), resumed.extents.begin(), resumed.extents.end());
  }
  const VerificationTensors results =
      read_verification("out", out, params.batch_size, params.num_nodes, inputs.logits);
  const bool ratios = params.rule == Rule::kRoute || resumed.has_ratios;
  if (results.has_ratios != ratios) {
    fail_value({"verify", "out.ratios"},
               ratios ? "be a tensor for rule 'route'" : "be None without ratios to report",
               results.has_ratios ? "a tensor" : "None");
  }
  check_outputs_alone(results, inputs.extents);
  params.out = results.arrays;
  if (runs_on_cuda(inputs.logits)) {
    const CudaCall call(inputs.logits);
    params.stream = call.stream;
    verify_cuda(params, call.workspace(verify_workspace_size(params)));
    return;
  }
  params.num_threads = num_threads;

  const std::int64_t work = std::int64_t{params.batch_size} * (params.num_nodes + 1);
  std::optional<py::gil_scoped_release> release;
  if (work * params.vocab_size > kShortWork) release.emplace();
  verify_cpu(params);
}

}  // namespace

void bind_verify(py::module_& m) {
  m.def("verify", &verify, py::arg("draft_token_ids"), py::arg("logits"), py::arg("rule"),
        py::arg("parents"), py::arg("num_nodes"), py::arg("resume"), py::arg("draft_logits"),
        py::arg("draft_probs"), py::arg("draft_to_target"), py::arg("accept_threshold"),
        py::arg("escalate_threshold"), py::arg("draft_threshold"), py::arg("router"),
        py::arg("draft_scores"), py::arg("temperature"), py::arg("top_k"), py::arg("top_p"),
        py::arg("min_p"), py::arg("allowed"), py::arg("uniform_samples"), py::arg("seed"),
        py::arg("position"), py::arg("out"), py::arg("num_threads"), py::arg("extras") = py::none(),
        "See via_ext.ops.verify. Writes into `out`.");
}

}  // namespace via::python
