// SPDX-License-Identifier: Apache-2.0
// What _C.Persistent is made of, from Python objects to a StepLaunch.
#pragma once

#include <string>

#include "bindings/array_reader.h"
#include "bindings/tensor.h"
#include "via/persistent.h"

namespace via::python {

inline constexpr const char* kPersistent = "persistent";

// A number, a bool or a string of `settings`. ValueError if it is missing, TypeError for its type.
template <typename T>
T setting(const py::dict& settings, const char* name) {
  if (!settings.contains(name)) fail_value({kPersistent, name}, "be given", "no such setting");
  const py::object value = settings[name];
  try {
    return value.cast<T>();
  } catch (const py::cast_error&) {
    fail_type({kPersistent, name}, "have the type of this setting", describe(value));
  }
}

// Lengths and audit of a run.
void read_step_settings(const py::dict& settings, StepParams& step);

// Weights, cache, buffers, program and control. `model.shape` and `model.batch_size` are set.
void read_model(const ArrayReader& tensors, const py::dict& settings, persistent::ModelArgs& model);

// Rules, filters, distributions and masks of the step's verify calls. `launch.model` and
// `launch.step` are set.
void read_rules(const ArrayReader& tensors, const py::dict& settings,
                persistent::StepLaunch& launch);

persistent::PassKind read_pass_kind(const std::string& name);
// Arrays of one pass over `width` tokens a row.
persistent::PassInput read_pass(const py::dict& inputs, int batch_size, int width,
                                const char* like);

void bind_persistent_tables(py::module_& m);

}  // namespace via::python
