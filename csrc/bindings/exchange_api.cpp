// SPDX-License-Identifier: Apache-2.0

#include "bindings/exchange_api.h"

#include <array>
#include <atomic>

namespace via::python {
namespace {

namespace py = pybind11;

constexpr const char* kDense = "be a dense tensor (torch >= 2.10)";
constexpr const char* kPlain =
    "be a plain tensor that owns memory (fake tensors have none; DTensor: pass .to_local() or "
    ".full_tensor())";

// Types seen so far, in order of appearance, never removed: a handful in practice (Tensor,
// Parameter). Entries are written once, then published by `type`, so readers take no lock.
struct CacheEntry {
  std::atomic<PyTypeObject*> type{nullptr};
  std::atomic<bool> claimed{false};
  ExchangeApi found;
};
constexpr int kCacheSize = 16;
std::array<CacheEntry, kCacheSize> cache;

// True if torch is loaded and `type` answers torch dispatch differently from torch.Tensor.
bool intercepts_dispatch(py::handle type) {
  const auto modules = py::reinterpret_borrow<py::dict>(PyImport_GetModuleDict());
  const py::object torch = modules.attr("get")("torch", py::none());
  if (torch.is_none() || !py::hasattr(type, "__torch_dispatch__")) return false;
  const py::object plain = torch.attr("Tensor").attr("__torch_dispatch__");
  return !plain.is(type.attr("__torch_dispatch__"));
}

ExchangeApi look_up(PyTypeObject* type) {
  const py::handle handle(reinterpret_cast<PyObject*>(type));
  if (!py::hasattr(handle, "__dlpack_c_exchange_api__")) return {nullptr, kDense};
  if (intercepts_dispatch(handle)) return {nullptr, kPlain};
  const py::object capsule = handle.attr("__dlpack_c_exchange_api__");
  const auto* api = static_cast<const DLPackExchangeAPI*>(
      PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (api == nullptr) throw py::error_already_set();
  // Another major version has another layout; an older table may be chained behind a newer one.
  while (api != nullptr && api->header.version.major != DLPACK_MAJOR_VERSION) {
    api = reinterpret_cast<const DLPackExchangeAPI*>(api->header.prev_api);
  }
  if (api == nullptr || api->dltensor_from_py_object_no_sync == nullptr) return {nullptr, kDense};
  return {api, nullptr};
}

}  // namespace

ExchangeApi find_exchange_api(PyTypeObject* type) {
  for (const CacheEntry& entry : cache) {
    PyTypeObject* const cached = entry.type.load(std::memory_order_acquire);
    if (cached == type) return entry.found;
    if (cached == nullptr) break;
  }
  const ExchangeApi found = look_up(type);
  if (found.api == nullptr) return found;  // a refusal ends in an error: no need to be quick
  for (CacheEntry& entry : cache) {
    if (entry.claimed.exchange(true)) continue;
    Py_INCREF(type);  // kept for good: a freed type's address could come back as another type
    entry.found = found;
    entry.type.store(type, std::memory_order_release);
    break;
  }
  return found;
}

}  // namespace via::python
