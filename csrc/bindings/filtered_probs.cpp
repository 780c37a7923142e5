// SPDX-License-Identifier: Apache-2.0
// ops.filtered_probs and ops.draft_sample: one operation with one or two outputs.

#include <pybind11/pybind11.h>

#include <limits>
#include <optional>
#include <string>

#include "bindings/bindings.h"
#include "bindings/cuda_call.h"
#include "bindings/scalars.h"
#include "via/filter.h"

namespace via::python {
namespace {

constexpr std::int64_t kMaxSize = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaskBits = 32;  // vocabulary entries per word of `allowed`

// An output in memory of its own, with rows at any distance from each other.
Tensor read_output(Argument argument, py::handle value, DType dtype, const char* dtype_name,
                   std::initializer_list<std::int64_t> sizes, const Tensor& logits) {
  Tensor tensor = read_tensor(argument, value);
  tensor.check_dtype(dtype, dtype_name);
  tensor.check_shape(sizes, sizes.size() == 1 ? "[R]" : "[R, V]");
  if (sizes.size() == 2) tensor.check_last_dim_contiguous();
  const std::int64_t row = sizes.size() == 2 ? tensor.size(1) : 1;
  if (tensor.size(0) > 1 && tensor.dl.strides[0] < row) {
    fail_value(argument, "have rows in order without overlap",
               "strides " + describe(tensor.dl.strides, tensor.dl.ndim));
  }
  tensor.check_same_device(logits);
  if (extent(tensor).overlaps(extent(logits))) {
    fail_value(argument, "have memory of its own", "shared memory");
  }
  return tensor;
}

// `op` names the caller in error texts: filtered_probs or draft_sample (then token_ids is given).
void filtered_probs(const char* op, py::handle logits, py::handle temperature, py::handle top_k,
                    py::handle top_p, py::handle min_p, py::handle allowed, py::handle seed,
                    py::handle position, int column, py::handle probs, py::handle token_ids,
                    int num_threads) {
  FilteredProbsParams params;
  Tensor rows = read_tensor({op, "logits"}, logits);
  rows.check_float();
  rows.check_rank(2, "[R, V]");
  if (rows.size(0) > kMaxSize || rows.size(1) < 1 || rows.size(1) > kMaxSize) {
    fail_value(rows.argument, "have shape [R, V] with V >= 1", describe(rows.dl.shape, 2));
  }
  rows.check_last_dim_contiguous();
  params.num_rows = static_cast<std::int32_t>(rows.size(0));
  params.vocab_size = static_cast<std::int32_t>(rows.size(1));
  params.logits = rows.view();
  params.filter = read_filter(op, temperature, top_k, top_p, min_p, params.num_rows, rows);
  if (!allowed.is_none()) {
    Tensor mask = read_tensor({op, "allowed"}, allowed);
    mask.check_dtype(DType::kInt32, "int32");
    mask.check_shape({params.num_rows, (params.vocab_size + kMaskBits - 1) / kMaskBits},
                     "[R, ceil(V/32)]");
    mask.check_last_dim_contiguous();
    mask.check_same_device(rows);
    params.allowed = mask.view();
  }
  const SeedViews views = read_seed(op, seed, position, params.num_rows, rows);
  params.seed = static_cast<const std::int64_t*>(views.seed.data);
  params.position = static_cast<const std::int64_t*>(views.position.data);
  if (!token_ids.is_none() && may_draw(params.filter) && seed.is_none()) {
    fail_value({op, "seed"}, "be given for temperature > 0", "None");
  }
  if (column < 0) fail_value({op, "column"}, "be >= 0", std::to_string(column));
  params.column = column;
  if (!probs.is_none()) {
    const Argument argument = {op, token_ids.is_none() ? "out" : "out[1]"};
    const Tensor out = read_output(argument, probs, DType::kFloat32, "float32",
                                   {params.num_rows, params.vocab_size}, rows);
    params.probs = reinterpret_cast<float*>(out.data());
    if (params.num_rows > 1) params.probs_stride = out.dl.strides[0];
  }
  if (!token_ids.is_none()) {
    const Tensor out =
        read_output({op, "out[0]"}, token_ids, DType::kInt64, "int64", {params.num_rows}, rows);
    params.token_ids = reinterpret_cast<std::int64_t*>(out.data());
    if (params.num_rows > 1) params.token_ids_stride = out.dl.strides[0];
  }
  if (params.num_rows == 0) return;
  if (runs_on_cuda(rows)) {
    const CudaCall call(rows);
    params.stream = call.stream;
    filtered_probs_cuda(params, call.workspace(filtered_probs_workspace_size(params)));
    return;
  }
  params.num_threads = num_threads;

  std::optional<py::gil_scoped_release> release;
  if (std::int64_t{params.num_rows} * params.vocab_size > kShortWork) release.emplace();
  filtered_probs_cpu(params);
}

}  // namespace

void bind_filtered_probs(py::module_& m) {
  m.def("filtered_probs", &filtered_probs, py::arg("op"), py::arg("logits"), py::arg("temperature"),
        py::arg("top_k"), py::arg("top_p"), py::arg("min_p"), py::arg("allowed"), py::arg("seed"),
        py::arg("position"), py::arg("column"), py::arg("probs"), py::arg("token_ids"),
        py::arg("num_threads"),
        "See via_ext.ops.filtered_probs and draft_sample. Writes into `probs` and `token_ids`.");
}

}  // namespace via::python
