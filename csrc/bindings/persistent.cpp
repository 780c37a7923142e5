// SPDX-License-Identifier: Apache-2.0
// _C.Persistent: the memory of a decoding run, checked once, and its launches.

#include "via/persistent.h"

#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <string>
#include <utility>

#include "bindings/bindings.h"
#include "bindings/cuda_call.h"
#include "bindings/persistent_arguments.h"
#include "bindings/persistent_shape.h"
#include "bindings/step_arrays.h"
#include "bindings/verification.h"

namespace via::python {
namespace {

using Arrays = py::typing::Dict<py::str, py::object>;
using Fields = py::typing::Tuple<py::object, py::ellipsis>;  // of a Verification

class Persistent {
 public:
  Persistent(Sizes shape, Arrays arrays, Arrays tensors, Fields slim, py::object audit, Fields full,
             Arrays settings)
      : arrays_(std::move(arrays)),
        tensors_(std::move(tensors)),
        results_(py::make_tuple(slim, audit, full)) {
    StepParams& step = launch_.step;
    read_step_settings(settings, step);
    like_ = read_step_arrays(arrays_, step);
    if (!runs_on_cuda(like_)) {
      fail_value({kPersistent, "tokens"}, "be on a CUDA device", describe(like_.dl.device));
    }
    step.slim = read(slim, step.num_nodes);
    step.full = read(full, step.num_nodes);
    if (step.audit != StepAudit::kNone) {
      step.audit_nodes = step.max_backlog;
      if (step.audit == StepAudit::kGreedy) step.audit_nodes += step.num_nodes;
      step.audit_result = read(audit, step.audit_nodes);
    }
    launch_.model.shape = read_shape(kPersistent, shape);
    launch_.model.batch_size = step.batch_size;
    const ArrayReader reader(kPersistent, tensors_, "packed");
    reader.like().check_same_device(like_);
    read_model(reader, settings, launch_.model);
    read_rules(reader, settings, launch_);
  }

  std::size_t workspace_bytes() const {
    const CudaCall call(like_);
    return persistent::workspace_size(launch_);
  }

  void set_workspace(const py::object& value) {
    const Tensor memory = read_tensor({kPersistent, "workspace"}, value);
    memory.check_byte(kDLUInt, "uint8");
    memory.check_rank(1, "[n]");
    memory.check_same_device(like_);
    const std::size_t bytes = workspace_bytes();
    if (static_cast<std::size_t>(memory.size(0)) < bytes) {
      fail_value(memory.argument, "have " + std::to_string(bytes) + " bytes",
                 std::to_string(memory.size(0)));
    }
    workspace_ = value;
    launch_.model.buffers.workspace = memory.data();
  }

  void launch_step() {
    if (workspace_.is_none()) fail_value({kPersistent, "workspace"}, "be set", "None");
    const CudaCall call(like_);
    launch_.stream = call.stream;
    persistent::step_cuda(launch_);
  }

  void forward(const std::string& name, const Arrays& inputs, int width) {
    if (workspace_.is_none()) fail_value({kPersistent, "workspace"}, "be set", "None");
    const persistent::PassKind pass = read_pass_kind(name);
    const int rows = launch_.model.batch_size;
    if (width < 1 || rows * width > launch_.model.buffers.rows) {
      fail_value({kPersistent, "width"}, "fit the buffers", std::to_string(width));
    }
    const persistent::PassInput input = read_pass(inputs, rows, width, "counts");
    const CudaCall call(like_);
    persistent::pass_cuda(launch_.model, pass, input, launch_.grid, call.stream);
  }

 private:
  Verification read(py::handle value, std::int64_t num_nodes) const {
    return read_verification("out", value, launch_.step.batch_size, num_nodes, like_).arrays;
  }

  // They outlive the pointers that `launch_` holds.
  py::dict arrays_, tensors_;
  py::tuple results_;
  py::object workspace_ = py::none();
  Tensor like_;
  persistent::StepLaunch launch_;
};

}  // namespace

void bind_persistent(py::module_& m) {
  py::class_<Persistent>(m, "Persistent", "Launches of a decoding run. See via_ext.engines.")
      .def(py::init<Sizes, Arrays, Arrays, Fields, py::object, Fields, Arrays>(), py::arg("shape"),
           py::arg("arrays"), py::arg("tensors"), py::arg("slim"), py::arg("audit"),
           py::arg("full"), py::arg("settings"))
      .def_property_readonly("workspace_bytes", &Persistent::workspace_bytes)
      .def("set_workspace", &Persistent::set_workspace, py::arg("workspace"), "Zero memory.")
      .def("step", &Persistent::launch_step, "Queues one step on the current stream.")
      .def("forward", &Persistent::forward, py::arg("name"), py::arg("inputs"), py::arg("width"),
           "Queues one pass alone; its logits are in the buffers.");
  bind_persistent_tables(m);
}

}  // namespace via::python
