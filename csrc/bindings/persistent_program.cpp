// SPDX-License-Identifier: Apache-2.0
// Program and weight map of the persistent engine: host work, no device.

#include <cstring>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/persistent_shape.h"

namespace via::python {
namespace {

constexpr const char* kOp = "PersistentEngine";

py::dict layer_offsets(const persistent::LayerMap& layer) {
  py::dict offsets;
  offsets["qkv"] = layer.qkv;
  offsets["output"] = layer.output;
  offsets["gate_up"] = layer.gate_up;
  offsets["down"] = layer.down;
  offsets["attention_norm"] = layer.attention_norm;
  offsets["mlp_norm"] = layer.mlp_norm;
  offsets["bias"] = layer.bias;
  offsets["head_norms"] = layer.head_norms;
  return offsets;
}

Sizes weight_map(const Sizes& sizes) {
  const persistent::WeightMap map = persistent::weight_map(read_shape(kOp, sizes));
  py::list layers;
  for (const persistent::LayerMap& layer : map.layers) layers.append(layer_offsets(layer));
  py::dict offsets;
  offsets["layers"] = layers;
  offsets["head"] = map.head;
  offsets["final_norm"] = map.final_norm;
  offsets["packed_size"] = map.packed_size;
  offsets["vectors_size"] = map.vectors_size;
  return Sizes(offsets);
}

py::typing::Tuple<py::bytes, Ranges> program(const Sizes& sizes, int shared_prefix) {
  const persistent::Program built =
      persistent::build_program(read_shape(kOp, sizes), shared_prefix);
  const auto* table = reinterpret_cast<const char*>(built.phases.data());
  py::list ranges;
  for (const persistent::PassRange& range : built.passes) {
    ranges.append(py::make_tuple(range.first, range.last));
  }
  return py::typing::Tuple<py::bytes, Ranges>(
      py::make_tuple(py::bytes(table, built.phases.size() * sizeof(persistent::Phase)), ranges));
}

std::string validate(const Sizes& sizes, const py::bytes& phases, const Ranges& passes,
                     const GateWords& gates, int batch_size, int grid) {
  const persistent::ModelShape shape = read_shape(kOp, sizes);
  const std::string table = phases;
  if (table.size() % sizeof(persistent::Phase) != 0) {
    fail_value({kOp, "phases"}, "have a multiple of 56 bytes", std::to_string(table.size()));
  }
  persistent::Program program;
  program.phases.resize(table.size() / sizeof(persistent::Phase));
  if (!table.empty()) std::memcpy(program.phases.data(), table.data(), table.size());
  read_ranges(kOp, passes, program.passes);
  persistent::Gates words[persistent::kNumPasses];
  read_gates(kOp, gates, words);
  const py::gil_scoped_release release;
  return persistent::validate_program(shape, program, words, batch_size, grid);
}

}  // namespace

void bind_persistent_program(py::module_& m) {
  m.def("persistent_weight_map", &weight_map, py::arg("shape"),
        "Offsets of every matrix and vector of a model in its packed weights.");
  m.def("persistent_program", &program, py::arg("shape"), py::arg("shared_prefix"),
        "The table of phases, 56 bytes each, and the range of each kind of pass in it.");
  m.def("persistent_validate", &validate, py::arg("shape"), py::arg("phases"), py::arg("passes"),
        py::arg("gates"), py::arg("batch_size"), py::arg("grid"),
        "What is wrong with a program on a grid of blocks; empty if nothing.");
}

}  // namespace via::python
