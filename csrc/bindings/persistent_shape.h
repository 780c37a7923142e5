// SPDX-License-Identifier: Apache-2.0
// The sizes of a model and its gates, as Python hands them over.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include "bindings/errors.h"
#include "via/persistent_program.h"

namespace via::python {

using Sizes = py::typing::Dict<py::str, py::object>;  // the fields of ModelShape by name
using GateWords = py::typing::List<py::typing::List<py::int_>>;
using Ranges = py::typing::List<py::typing::Tuple<py::int_, py::int_>>;

// Every field by its name, no other; ValueError or TypeError. Values are judged by the library.
persistent::ModelShape read_shape(const char* op, const py::dict& sizes);
// One list of words per kind of pass; `gates` has kNumPasses elements.
void read_gates(const char* op, const py::list& words, persistent::Gates* gates);
void read_ranges(const char* op, const py::list& ranges, persistent::PassRange* passes);

}  // namespace via::python
