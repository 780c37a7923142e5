// SPDX-License-Identifier: Apache-2.0
// Reading the caller's id tensors and per-request numbers, whatever their form.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "via/types.h"

namespace via {
VIA_CORE_BEGIN

// An int32 or int64 element; offset in elements.
VIA_HD std::int64_t read_int(const TensorView& view, std::int64_t offset) {
  if (view.dtype == DType::kInt64) return static_cast<const std::int64_t*>(view.data)[offset];
  return static_cast<const std::int32_t*>(view.data)[offset];
}

VIA_HD float read_param(const FloatParam& param, int batch_idx) {
  return param.data != nullptr ? param.data[batch_idx] : param.value;
}
VIA_HD std::int32_t read_param(const IntParam& param, int batch_idx) {
  return param.data != nullptr ? param.data[batch_idx] : param.value;
}

VIA_CORE_END
}  // namespace via
