// SPDX-License-Identifier: Apache-2.0
// One form for every error text: `<op>: <argument> must <rule>, got <value>`.
#pragma once

#include <dlpack.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

namespace via::python {

namespace py = pybind11;

// Which argument of which operation is being read: the head of every error text.
struct Argument {
  const char* op;
  const char* name;
};

// TypeError for a dtype or an argument type; ValueError for shape, device or range.
[[noreturn]] void fail_type(Argument argument, const std::string& rule, const std::string& got);
[[noreturn]] void fail_value(Argument argument, const std::string& rule, const std::string& got);
// TypeError with the pending Python exception as its cause.
[[noreturn]] void fail_type_from_pending(Argument argument, const std::string& rule,
                                         const std::string& got);

// The <value> of an error text: Python's repr, shortened; "[2, 3]"; "int8"; "cuda:1".
std::string describe(py::handle value);
std::string describe(const std::int64_t* values, int count);
std::string describe(DLDataType dtype);
std::string describe(DLDevice device);

}  // namespace via::python
