// SPDX-License-Identifier: Apache-2.0

#include "bindings/scalars.h"

#include <cmath>
#include <limits>
#include <string>

#include "bindings/exchange_api.h"

namespace via::python {
namespace {

bool is_tensor(py::handle value) {
  PyObject* const object = value.ptr();
  if (PyFloat_CheckExact(object) || PyLong_CheckExact(object)) return false;
  return py::hasattr(value, "__dlpack_c_exchange_api__");
}

// One value per row, unit stride.
Tensor read_rows(Argument argument, py::handle value, DType dtype, const char* dtype_name,
                 std::int64_t rows, const Tensor& like) {
  Tensor tensor = read_tensor(argument, value);
  tensor.check_dtype(dtype, dtype_name);
  tensor.check_shape({rows}, "[B]");
  tensor.check_last_dim_contiguous();
  tensor.check_same_device(like);
  return tensor;
}

const char* rule_words(Range range) {
  switch (range) {
    case Range::kNonNegative: return "be >= 0";
    case Range::kFiniteNonNegative: return "be finite and >= 0";
    case Range::kUnit: return "be in [0, 1]";
    case Range::kUnitAboveZero: return "be in (0, 1]";
  }
  return "";
}

// False for NaN, whatever the range.
bool in_range(float value, Range range) {
  switch (range) {
    case Range::kNonNegative: return value >= 0.0f;
    case Range::kFiniteNonNegative: return value >= 0.0f && !std::isinf(value);
    case Range::kUnit: return value >= 0.0f && value <= 1.0f;
    case Range::kUnitAboveZero: return value > 0.0f && value <= 1.0f;
  }
  return false;
}

}  // namespace

FloatParam read_float(Argument argument, py::handle value, Range range, std::int64_t rows,
                      const Tensor& like) {
  FloatParam param;
  if (is_tensor(value)) {
    const Tensor tensor = read_rows(argument, value, DType::kFloat32, "float32", rows, like);
    param.data = reinterpret_cast<const float*>(tensor.data());
    return param;
  }
  const double number = PyBool_Check(value.ptr()) ? -1.0 : PyFloat_AsDouble(value.ptr());
  if (PyBool_Check(value.ptr()) || (number == -1.0 && PyErr_Occurred())) {
    PyErr_Clear();
    fail_type(argument, "be a number or a float32 tensor of shape [B]", describe(value));
  }
  param.value = static_cast<float>(number);
  if (!in_range(param.value, range)) fail_value(argument, rule_words(range), describe(value));
  return param;
}

IntParam read_count(Argument argument, py::handle value, std::int64_t rows, const Tensor& like) {
  IntParam param;
  if (is_tensor(value)) {
    const Tensor tensor = read_rows(argument, value, DType::kInt32, "int32", rows, like);
    param.data = reinterpret_cast<const std::int32_t*>(tensor.data());
    return param;
  }
  if (!PyIndex_Check(value.ptr()) || PyBool_Check(value.ptr())) {
    fail_type(argument, "be an integer or an int32 tensor of shape [B]", describe(value));
  }
  // Clamps instead of raising on overflow: a top-k beyond any vocabulary is "off".
  const Py_ssize_t number = PyNumber_AsSsize_t(value.ptr(), nullptr);
  if (number < 0) fail_value(argument, "be >= 0", describe(value));
  constexpr Py_ssize_t kMax = std::numeric_limits<std::int32_t>::max();
  param.value = static_cast<std::int32_t>(number < kMax ? number : kMax);
  return param;
}

FilterParams read_filter(const char* op, py::handle temperature, py::handle top_k, py::handle top_p,
                         py::handle min_p, std::int64_t rows, const Tensor& like) {
  FilterParams filter;
  filter.temperature =
      read_float({op, "temperature"}, temperature, Range::kFiniteNonNegative, rows, like);
  filter.top_k = read_count({op, "top_k"}, top_k, rows, like);
  filter.top_p = read_float({op, "top_p"}, top_p, Range::kUnitAboveZero, rows, like);
  filter.min_p = read_float({op, "min_p"}, min_p, Range::kUnit, rows, like);
  return filter;
}

SeedViews read_seed(const char* op, py::handle seed, py::handle position, std::int64_t rows,
                    const Tensor& like) {
  if (seed.is_none() && position.is_none()) return {};
  if (position.is_none()) fail_value({op, "position"}, "be given with seed", "None");
  if (seed.is_none()) fail_value({op, "seed"}, "be given with position", "None");
  return {read_rows({op, "seed"}, seed, DType::kInt64, "int64", rows, like).view(),
          read_rows({op, "position"}, position, DType::kInt64, "int64", rows, like).view()};
}

}  // namespace via::python
