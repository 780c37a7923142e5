// SPDX-License-Identifier: Apache-2.0
// Around _C.Persistent: the size of a launch, the tables of the cache, the inputs of one pass.

#include <pybind11/typing.h>

#include <iterator>
#include <vector>

#include "bindings/cache_views.h"
#include "bindings/cuda_call.h"
#include "bindings/persistent_arguments.h"
#include "bindings/persistent_shape.h"

namespace via::python {
namespace {

using Tensors = py::typing::List<py::object>;

int persistent_blocks(const Sizes& sizes, int batch_size, const py::object& like) {
  const Tensor tensor = read_tensor({"Decoder", "engine"}, like);
  if (!runs_on_cuda(tensor)) {
    fail_value(tensor.argument, "be 'torch' or 'auto' where the model is not on a CUDA device",
               "'persistent' with a model on " + describe(tensor.dl.device));
  }
  const persistent::ModelShape shape = read_shape(kPersistent, sizes);
  const CudaCall call(tensor);
  return persistent::resident_blocks(shape, batch_size);
}

py::typing::Tuple<py::bytes, py::bytes> persistent_cache_tables(const Tensors& keys,
                                                                const Tensors& values) {
  if (keys.size() != values.size()) {
    fail_value({kPersistent, "values"}, "have one tensor per layer", std::to_string(values.size()));
  }
  py::list all;
  for (const py::list& tensors : {keys, values}) {
    for (const py::handle tensor : tensors) all.append(tensor);
  }
  const std::vector<CacheView> views = read_caches(all).views;
  std::vector<persistent::LayerCache> layers;
  for (std::size_t layer = 0; layer < keys.size(); ++layer) {
    layers.push_back({views[layer].data, views[keys.size() + layer].data});
  }
  const auto bytes = [](const auto& items) {
    return py::bytes(reinterpret_cast<const char*>(items.data()), items.size() * sizeof(items[0]));
  };
  return py::make_tuple(bytes(layers), bytes(views));
}

}  // namespace

persistent::PassKind read_pass_kind(const std::string& name) {
  constexpr const char* kNames[] = {"slim", "prefix", "tail", "full"};
  static_assert(std::size(kNames) == persistent::kNumPasses);
  for (int pass = 0; pass < persistent::kNumPasses; ++pass) {
    if (name == kNames[pass]) return static_cast<persistent::PassKind>(pass);
  }
  fail_value({kPersistent, "pass"}, "be one of slim, prefix, tail, full", name);
}

persistent::PassInput read_pass(const py::dict& inputs, int batch_size, int width,
                                const char* like) {
  const ArrayReader reader(kPersistent, inputs, like);
  persistent::PassInput input;
  input.width = width;
  if (reader.has("token_ids")) reader.set(input.token_ids, "token_ids", {batch_size, width});
  if (reader.has("hidden_index")) {
    reader.set(input.hidden_index, "hidden_index", {batch_size, width});
  }
  reader.set(input.counts, "counts", {batch_size});
  reader.set(input.contexts, "contexts", {batch_size});
  reader.set(input.parents, "parents", {batch_size, width});
  reader.set(input.depths, "depths", {batch_size, width});
  return input;
}

void bind_persistent_tables(py::module_& m) {
  m.def("persistent_blocks", &persistent_blocks, py::arg("shape"), py::arg("batch_size"),
        py::arg("like"), "Blocks that one launch may have on the device of `like`.");
  m.def("persistent_cache_tables", &persistent_cache_tables, py::arg("keys"), py::arg("values"),
        "LayerCache of every layer and CacheView of every tensor, as bytes.");
}

}  // namespace via::python
