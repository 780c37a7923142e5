// SPDX-License-Identifier: Apache-2.0
// ops.tree_attention: checks every argument, writes the caches, then attends into `out`.

#include "via/tree_attention.h"

#include <pybind11/pybind11.h>

#include <optional>

#include "bindings/attention_inputs.h"
#include "bindings/bindings.h"
#include "bindings/cuda_call.h"

namespace via::python {
namespace {

void tree_attention(py::handle query, py::handle key, py::handle value, py::handle key_cache,
                    py::handle value_cache, py::handle context_lens, py::handle parents,
                    py::handle num_tokens, py::handle scale, py::handle softcap, py::handle window,
                    py::handle page_table, py::handle out, py::handle lse, int num_threads) {
  const AttentionArguments arguments = {
      query,      key,   value,   key_cache, value_cache, context_lens, parents,
      num_tokens, scale, softcap, window,    page_table,  out,          lse};
  AttentionInputs inputs = read_attention_tensors(arguments);
  read_attention_options(inputs, arguments);
  TreeAttentionParams& params = inputs.params;
  if (params.batch_size == 0 || params.num_tokens == 0 || params.num_heads == 0) return;
  if (runs_on_cuda(inputs.query)) {
    const CudaCall call(inputs.query);
    params.stream = call.stream;
    tree_attention_cuda(params, call.workspace(tree_attention_workspace_size(params)));
    return;
  }
  params.num_threads = num_threads;

  // The lengths of the contexts are not known here; the new tokens alone say little.
  const std::int64_t work = params.batch_size * params.capacity * params.num_kv_heads;
  std::optional<py::gil_scoped_release> release;
  if (work * params.head_dim > kShortWork) release.emplace();
  tree_attention_cpu(params);
}

}  // namespace

void bind_tree_attention(py::module_& m) {
  m.def("tree_attention", &tree_attention, py::arg("query"), py::arg("key"), py::arg("value"),
        py::arg("key_cache"), py::arg("value_cache"), py::arg("context_lens"), py::arg("parents"),
        py::arg("num_tokens"), py::arg("scale"), py::arg("softcap"), py::arg("window"),
        py::arg("page_table"), py::arg("out"), py::arg("lse"), py::arg("num_threads"),
        "See via_ext.ops.tree_attention. Writes into the caches, `out` and `lse`.");
}

}  // namespace via::python
