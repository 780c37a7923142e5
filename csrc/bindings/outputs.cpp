// SPDX-License-Identifier: Apache-2.0
// Host tensors for the nine results of verify, in one allocation.
//
// Nine calls of torch.empty take longer than the rest of a small verify. Here one block of memory
// holds the data and the DLPack records of all results; each becomes a tensor of the caller's
// framework, and the last one to die frees the block.

#include <dlpack.h>
#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <cstdlib>
#include <new>

#include "bindings/bindings.h"
#include "bindings/exchange_api.h"
#include "bindings/host_block.h"
#include "bindings/verification.h"

namespace via::python {
namespace {

// Columns of a field: per node, per node and root, or one number per row.
enum class Columns { kNodes, kNodesAndRoot, kNone };

struct Field {
  DLDataType dtype;
  Columns columns;
};

constexpr Field kFields[kVerificationFields] = {
    {{kDLFloat, 32, 1}, Columns::kNodes},         // ratios
    {{kDLUInt, 8, 1}, Columns::kNodes},           // tiers
    {{kDLInt, 32, 1}, Columns::kNodes},           // path
    {{kDLInt, 32, 1}, Columns::kNone},            // num_accepted
    {{kDLInt, 64, 1}, Columns::kNone},            // next_token
    {{kDLInt, 32, 1}, Columns::kNone},            // next_row
    {{kDLBool, 8, 1}, Columns::kNone},            // escalate
    {{kDLFloat, 32, 1}, Columns::kNodesAndRoot},  // logprobs
    {{kDLInt, 32, 1}, Columns::kNone},            // status
};

// Fills the record of one field and returns the bytes of its data.
std::size_t describe_piece(Piece& piece, Block* block, const Field& field, std::int64_t batch_size,
                           std::int64_t num_nodes) {
  const std::int64_t columns = num_nodes + (field.columns == Columns::kNodesAndRoot ? 1 : 0);
  piece.block = block;
  piece.shape[0] = batch_size;
  piece.shape[1] = columns;
  piece.strides[0] = field.columns == Columns::kNone ? 1 : columns;
  piece.strides[1] = 1;
  piece.managed = {};
  piece.managed.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
  piece.managed.manager_ctx = &piece;
  piece.managed.deleter = release_piece;
  DLTensor& tensor = piece.managed.dl_tensor;
  tensor.device = {kDLCPU, 0};
  tensor.ndim = field.columns == Columns::kNone ? 1 : 2;
  tensor.dtype = field.dtype;
  tensor.shape = piece.shape;
  tensor.strides = piece.strides;
  return aligned(batch_size * (tensor.ndim == 1 ? 1 : columns) * field.dtype.bits / 8);
}

py::typing::Tuple<py::object, py::ellipsis> empty_verification(py::type type,
                                                               std::uint32_t batch_size,
                                                               std::uint32_t num_nodes,
                                                               bool ratios) {
  const ExchangeApi found = find_exchange_api(reinterpret_cast<PyTypeObject*>(type.ptr()));
  if (found.api == nullptr) fail_type({"verify", "type"}, found.why, describe(type));
  const std::size_t bytes_per_row = 9 * sizeof(std::int64_t) + 13 * std::size_t{num_nodes};
  const std::size_t bytes = aligned(sizeof(Block)) + kVerificationFields * kAlignment +
                            aligned(std::size_t{batch_size} * bytes_per_row);
  auto* const block = static_cast<Block*>(std::aligned_alloc(kAlignment, bytes));
  if (block == nullptr) throw std::bad_alloc();
  new (&block->references) std::atomic<int>(1);  // this function's own, until it is done

  char* data = reinterpret_cast<char*>(block) + aligned(sizeof(Block));
  py::tuple results(kVerificationFields);
  for (int i = 0; i < kVerificationFields; ++i) {
    if (i < 2 && !ratios) {
      results[i] = py::none();
      continue;
    }
    Piece& piece = block->pieces[i];
    const std::size_t size = describe_piece(piece, block, kFields[i], batch_size, num_nodes);
    piece.managed.dl_tensor.data = data;
    data += size;
    block->references.fetch_add(1, std::memory_order_relaxed);
    void* tensor = nullptr;
    if (found.api->managed_tensor_to_py_object_no_sync(&piece.managed, &tensor) != 0) {
      release(block);  // the failed piece stays counted: whether it was taken is unknown
      throw py::error_already_set();
    }
    results[i] = py::reinterpret_steal<py::object>(static_cast<PyObject*>(tensor));
  }
  release(block);
  return py::typing::Tuple<py::object, py::ellipsis>(results);
}

}  // namespace

void bind_outputs(py::module_& m) {
  m.def("empty_verification", &empty_verification, py::arg("type"), py::arg("batch_size"),
        py::arg("num_nodes"), py::arg("ratios"),
        "Uninitialised host tensors of `type` for the fields of a Verification.");
}

}  // namespace via::python
