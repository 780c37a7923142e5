// SPDX-License-Identifier: Apache-2.0
// One function per binding file; each adds its operation to the module.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace via::python {

// Elements read below which an operation keeps Python's lock: releasing it would cost more.
inline constexpr std::int64_t kShortWork = 1 << 16;

void bind_build_info(pybind11::module_& m);
void bind_compact_kv(pybind11::module_& m);
void bind_filtered_probs(pybind11::module_& m);
void bind_outputs(pybind11::module_& m);
void bind_persistent(pybind11::module_& m);
void bind_persistent_program(pybind11::module_& m);
void bind_step(pybind11::module_& m);
void bind_tree_attention(pybind11::module_& m);
void bind_verify(pybind11::module_& m);

}  // namespace via::python
