// SPDX-License-Identifier: Apache-2.0

#include "bindings/errors.h"

namespace via::python {
namespace {

constexpr std::size_t kMaxDescription = 60;

std::string text(Argument argument, const std::string& rule, const std::string& got) {
  return std::string(argument.op) + ": " + argument.name + " must " + rule + ", got " + got;
}

}  // namespace

void fail_type(Argument argument, const std::string& rule, const std::string& got) {
  throw py::type_error(text(argument, rule, got));
}

void fail_value(Argument argument, const std::string& rule, const std::string& got) {
  throw py::value_error(text(argument, rule, got));
}

void fail_type_from_pending(Argument argument, const std::string& rule, const std::string& got) {
  py::raise_from(PyExc_TypeError, text(argument, rule, got).c_str());
  throw py::error_already_set();
}

std::string describe(py::handle value) {
  std::string repr = py::repr(value);
  if (repr.size() > kMaxDescription) repr = repr.substr(0, kMaxDescription) + "...";
  return repr;
}

std::string describe(const std::int64_t* values, int count) {
  std::string list = "[";
  for (int i = 0; i < count; ++i) list += (i ? ", " : "") + std::to_string(values[i]);
  return list + "]";
}

std::string describe(DLDataType dtype) {
  std::string name = "an unnamed dtype";
  switch (dtype.code) {
    case kDLInt: name = "int"; break;
    case kDLUInt: name = "uint"; break;
    case kDLFloat: name = "float"; break;
    case kDLBfloat: name = "bfloat"; break;
    case kDLComplex: name = "complex"; break;
    case kDLBool: return "bool";
    default: return name;
  }
  return name + std::to_string(dtype.bits);
}

std::string describe(DLDevice device) {
  std::string name = "device type " + std::to_string(device.device_type);
  if (device.device_type == kDLCPU) return "cpu";
  if (device.device_type == kDLCUDA) name = "cuda";
  return name + ":" + std::to_string(device.device_id);
}

}  // namespace via::python
