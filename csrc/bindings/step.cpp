// SPDX-License-Identifier: Apache-2.0
// _C.Step: the arrays of a decoding run, checked once, and the stages that work on them.

#include "via/step.h"

#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <string>
#include <utility>

#include "bindings/bindings.h"
#include "bindings/cuda_call.h"
#include "bindings/step_arrays.h"
#include "bindings/verification.h"

namespace via::python {
namespace {

constexpr std::pair<const char*, StepStage> kStages[] = {{"begin", StepStage::kBegin},
                                                         {"slim", StepStage::kSlim},
                                                         {"audit", StepStage::kAudit},
                                                         {"full", StepStage::kFull},
                                                         {"greedy", StepStage::kGreedy}};

StepStage stage_of(const std::string& name) {
  for (const auto& [known, stage] : kStages) {
    if (name == known) return stage;
  }
  fail_value({"step", "stage"}, "be one of begin, slim, audit, full, greedy", name);
}

using Arrays = py::typing::Dict<py::str, py::object>;
using Fields = py::typing::Tuple<py::object, py::ellipsis>;  // of a Verification

class Step {
 public:
  Step(Arrays arrays, Fields slim, Fields full, int max_backlog, int max_new_tokens,
       int min_new_tokens, bool has_slim, const std::string& audit)
      : arrays_(std::move(arrays)), slim_(std::move(slim)), full_(std::move(full)) {
    params_.max_backlog = max_backlog;
    params_.max_new_tokens = max_new_tokens;
    params_.min_new_tokens = min_new_tokens;
    params_.has_slim = has_slim;
    params_.audit = audit_of(audit);
    like_ = read_step_arrays(arrays_, params_);
    params_.slim = read(slim_, params_.num_nodes);
    params_.full = read(full_, params_.num_nodes);
  }

  void run(const std::string& name, py::handle audit_result) {
    const StepStage stage = stage_of(name);
    StepParams params = params_;
    if (!audit_result.is_none()) {
      const auto fields = py::reinterpret_borrow<py::tuple>(audit_result);
      const py::object path = fields[2];
      const Tensor nodes = read_tensor({"step", "audit_result"}, path);
      nodes.check_rank(2, "[B, C]");
      params.audit_nodes = static_cast<std::int32_t>(nodes.size(1));
      params.audit_result = read(audit_result, nodes.size(1));
    }
    if (!runs_on_cuda(like_)) return step_cpu(stage, params);
    const CudaCall call(like_);
    params.stream = call.stream;
    step_cuda(stage, params);
  }

 private:
  Verification read(py::handle value, std::int64_t num_nodes) const {
    return read_verification("out", value, params_.batch_size, num_nodes, like_).arrays;
  }

  // The arrays outlive the pointers that `params_` holds.
  py::dict arrays_;
  py::tuple slim_, full_;
  Tensor like_;
  StepParams params_;
};

}  // namespace

void bind_step(py::module_& m) {
  py::class_<Step>(m, "Step", "Bookkeeping of a decoding run. See via_ext.engines.")
      .def(py::init<Arrays, Fields, Fields, int, int, int, bool, const std::string&>(),
           py::arg("arrays"), py::arg("slim"), py::arg("full"), py::arg("max_backlog"),
           py::arg("max_new_tokens"), py::arg("min_new_tokens"), py::arg("has_slim"),
           py::arg("audit"))
      .def("run", &Step::run, py::arg("stage"), py::arg("audit_result") = py::none(),
           "Runs a stage on the current stream; no synchronisation on CUDA.");
}

}  // namespace via::python
