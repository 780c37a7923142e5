// SPDX-License-Identifier: Apache-2.0
// The arrays of a decoding run, by name.
#pragma once

#include <string>

#include "bindings/tensor.h"
#include "via/step.h"

namespace via::python {

// Reads `arrays` (name -> tensor) into `params`, sizes included, and returns the tensor that stands
// for their device. Every array is checked for dtype, shape, contiguity and device.
Tensor read_step_arrays(const py::dict& arrays, StepParams& params);

// StepAudit by its name.
StepAudit audit_of(const std::string& name);

}  // namespace via::python
