// SPDX-License-Identifier: Apache-2.0
// The module via_ext._C: the only C++ that knows Python.

#include <pybind11/pybind11.h>

#include "bindings/bindings.h"

// No mutable state besides the type cache of exchange_api.cpp, which is safe without the GIL.
PYBIND11_MODULE(_C, m, pybind11::mod_gil_not_used()) {
  m.doc() = "Native operations of via_ext. Use via_ext.ops.";
  via::python::bind_build_info(m);
  via::python::bind_filtered_probs(m);
  via::python::bind_outputs(m);
  via::python::bind_persistent(m);
  via::python::bind_persistent_program(m);
  via::python::bind_step(m);
  via::python::bind_verify(m);
  via::python::bind_compact_kv(m);
  via::python::bind_tree_attention(m);
}
