// SPDX-License-Identifier: Apache-2.0

#include "bindings/persistent_shape.h"

#include <string>

namespace via::python {
namespace {

constexpr int kNumFields = 11;

py::handle field(const char* op, const py::dict& sizes, const char* name) {
  if (!sizes.contains(name)) {
    fail_value({op, "shape"}, std::string("have a field ") + name, describe(sizes));
  }
  return sizes[name];
}

template <class Value>
Value cast(Argument argument, py::handle value, const char* rule) {
  try {
    return value.cast<Value>();
  } catch (const py::cast_error&) {
    fail_type(argument, rule, describe(value));
  }
}

std::int32_t read_int(const char* op, const py::dict& sizes, const char* name) {
  const py::handle value = field(op, sizes, name);
  const Argument argument{op, name};
  if (PyBool_Check(value.ptr()) || !PyIndex_Check(value.ptr())) {
    fail_type(argument, "be an int", describe(value));
  }
  try {
    return value.cast<std::int32_t>();
  } catch (const py::cast_error&) {
    fail_value(argument, "fit 32 bits", describe(value));
  }
}

bool read_bool(const char* op, const py::dict& sizes, const char* name) {
  const py::handle value = field(op, sizes, name);
  if (!PyBool_Check(value.ptr())) fail_type({op, name}, "be a bool", describe(value));
  return value.ptr() == Py_True;
}

void check_passes(Argument argument, const py::list& list) {
  if (list.size() == persistent::kNumPasses) return;
  fail_value(argument, "have one element per kind of pass, 4", std::to_string(list.size()));
}

}  // namespace

persistent::ModelShape read_shape(const char* op, const py::dict& sizes) {
  persistent::ModelShape shape;
  shape.hidden_size = read_int(op, sizes, "hidden_size");
  shape.num_layers = read_int(op, sizes, "num_layers");
  shape.num_heads = read_int(op, sizes, "num_heads");
  shape.num_kv_heads = read_int(op, sizes, "num_kv_heads");
  shape.head_dim = read_int(op, sizes, "head_dim");
  shape.intermediate_size = read_int(op, sizes, "intermediate_size");
  shape.vocab_size = read_int(op, sizes, "vocab_size");
  shape.has_head_norms = read_bool(op, sizes, "has_head_norms");
  shape.has_bias = read_bool(op, sizes, "has_bias");
  shape.is_tied = read_bool(op, sizes, "is_tied");
  shape.norm_epsilon =
      cast<float>({op, "norm_epsilon"}, field(op, sizes, "norm_epsilon"), "be a float");
  if (sizes.size() != kNumFields) {
    fail_value({op, "shape"}, "have the fields of a model's shape and no others", describe(sizes));
  }
  return shape;
}

void read_gates(const char* op, const py::list& words, persistent::Gates* gates) {
  const Argument argument{op, "gates"};
  check_passes(argument, words);
  for (int pass_idx = 0; pass_idx < persistent::kNumPasses; ++pass_idx) {
    const auto row = cast<py::list>(argument, words[pass_idx], "be lists of words");
    if (row.size() != persistent::kGateWords) {
      fail_value(argument, "have " + std::to_string(persistent::kGateWords) + " words per pass",
                 std::to_string(row.size()));
    }
    for (int word_idx = 0; word_idx < persistent::kGateWords; ++word_idx) {
      gates[pass_idx].words[word_idx] =
          cast<std::uint64_t>(argument, row[word_idx], "be words of 64 bits");
    }
  }
}

void read_ranges(const char* op, const py::list& ranges, persistent::PassRange* passes) {
  const Argument argument{op, "passes"};
  check_passes(argument, ranges);
  for (int pass_idx = 0; pass_idx < persistent::kNumPasses; ++pass_idx) {
    const auto pair = cast<py::tuple>(argument, ranges[pass_idx], "be pairs (first, last)");
    if (pair.size() != 2) fail_value(argument, "be pairs (first, last)", describe(pair));
    passes[pass_idx] = {cast<std::int32_t>(argument, pair[0], "be pairs of ints"),
                        cast<std::int32_t>(argument, pair[1], "be pairs of ints")};
  }
}

}  // namespace via::python
