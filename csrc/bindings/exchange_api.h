// SPDX-License-Identifier: Apache-2.0
// From a Python object to the DLPack function table of its type.
#pragma once

#include <dlpack.h>
#include <pybind11/pybind11.h>

namespace via::python {

// Result of the look-up for one type. `api` is null if its objects cannot be read; `why` then says
// what to do instead, as "<rule>" of an error text.
struct ExchangeApi {
  const DLPackExchangeAPI* api = nullptr;
  const char* why = nullptr;
};

// Cached per type. Refuses types that intercept torch dispatch (FakeTensor, DTensor, ...): they
// pass the C API with a null or a partial buffer.
ExchangeApi find_exchange_api(PyTypeObject* type);

}  // namespace via::python
