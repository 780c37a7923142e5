// SPDX-License-Identifier: Apache-2.0
// The nine tensors of a Verification, as outputs (`out`) and as inputs (`resume`).
#pragma once

#include <array>
#include <vector>

#include "bindings/tensor.h"
#include "via/verify.h"

namespace via::python {

inline constexpr int kVerificationFields = 9;

// Raw arrays, and the memory they cover (empty where a field is None).
struct VerificationTensors {
  Verification arrays;
  std::array<Extent, kVerificationFields> extents;
  bool has_ratios = false;
};

// Reads a tuple of tensors in the order of the Python NamedTuple: dtype, shape, contiguity, device.
// `name` is the argument that holds it, for error texts.
VerificationTensors read_verification(const char* name, py::handle value, std::int64_t batch_size,
                                      std::int64_t num_nodes, const Tensor& like);

// ValueError if an output shares memory with another output or with an input.
void check_outputs_alone(const VerificationTensors& out, const std::vector<Extent>& inputs);

}  // namespace via::python
