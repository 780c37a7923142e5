// SPDX-License-Identifier: Apache-2.0
// ops.compact_kv: checks the caches and the accepted paths, then moves rows in place.

#include "via/compact_kv.h"

#include <pybind11/pybind11.h>

#include <limits>
#include <optional>
#include <string>

#include "bindings/bindings.h"
#include "bindings/cache_views.h"
#include "bindings/cuda_call.h"
#include "bindings/page_table.h"
#include "bindings/tensor.h"

namespace via::python {
namespace {

constexpr const char* kOp = "compact_kv";
constexpr std::int64_t kMaxSize = std::numeric_limits<std::int32_t>::max();

void compact_kv(py::handle caches, py::handle context_lens, py::handle path,
                py::handle num_accepted, py::handle page_table, int num_threads) {
  const CacheList list = read_caches(caches);
  const Tensor& first = list.first;
  CompactKvParams params;
  Tensor nodes = read_tensor({kOp, "path"}, path);
  nodes.check_ids();
  nodes.check_rank(2, "[B, N]");
  if (nodes.size(0) > kMaxSize || nodes.size(1) > kMaxNodes) {
    fail_value(nodes.argument, "have shape [B, N] with N <= 127", describe(nodes.dl.shape, 2));
  }
  nodes.check_last_dim_contiguous();
  nodes.check_same_device(first);
  params.path = nodes.view();
  params.batch_size = static_cast<std::int32_t>(nodes.size(0));
  params.num_nodes = static_cast<std::int32_t>(nodes.size(1));
  const auto per_row = [&](const char* name, py::handle value) {
    return read_ids({kOp, name}, value, {params.batch_size}, "[B]", first).view();
  };
  params.context_lens = per_row("context_lens", context_lens);
  params.num_accepted = per_row("num_accepted", num_accepted);
  if (page_table.is_none()) {
    if (first.size(0) != params.batch_size) {
      fail_value(first.argument,
                 "have one row per row of path, " + std::to_string(params.batch_size),
                 describe(first.dl.shape, 4));
    }
    params.capacity = first.size(1);
  } else {
    const Pages pages = read_pages(kOp, page_table, params.batch_size, first);
    params.page_table = pages.table;
    params.page_size = pages.page_size;
    params.num_pages = pages.num_pages;
    params.capacity = pages.capacity;
  }
  params.num_caches = static_cast<std::int32_t>(list.views.size());
  params.caches = list.views.data();
  params.num_threads = num_threads;
  if (params.batch_size == 0 || params.num_nodes == 0) return;
  if (runs_on_cuda(first)) {
    const CudaCall call(first);
    params.stream = call.stream;
    compact_kv_cuda(params);
    return;
  }

  std::optional<py::gil_scoped_release> release;
  const std::int64_t bytes = list.views[0].num_heads * list.views[0].head_bytes * params.num_caches;
  if (bytes * params.batch_size * params.num_nodes > kShortWork) release.emplace();
  compact_kv_cpu(params);
}

}  // namespace

void bind_compact_kv(py::module_& m) {
  m.def("compact_kv", &compact_kv, py::arg("caches"), py::arg("context_lens"), py::arg("path"),
        py::arg("num_accepted"), py::arg("page_table"), py::arg("num_threads"),
        "See via_ext.ops.compact_kv. Moves rows of `caches` in place.");
}

}  // namespace via::python
