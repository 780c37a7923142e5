// SPDX-License-Identifier: Apache-2.0
// Reading the caller's tensors: ids, counts, single logits and rows, whatever their dtype.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/filters.h"
#include "core/half.h"
#include "core/params.h"
#include "core/softmax.h"
#include "cpu/kernels.h"
#include "via/filter.h"
#include "via/types.h"

namespace via::cpu {

inline Filters read_filters(const FilterParams& params, int batch_idx) {
  return {read_param(params.temperature, batch_idx), read_param(params.top_k, batch_idx),
          read_param(params.top_p, batch_idx), read_param(params.min_p, batch_idx)};
}

inline std::size_t element_size(DType dtype) {
  if (dtype == DType::kInt64) return 8;
  return dtype == DType::kFloat32 || dtype == DType::kInt32 ? 4 : 2;
}

// A row of `size` elements, `offset` elements into the tensor.
inline RowView row_at(const TensorView& view, std::int64_t offset, std::int64_t size) {
  const char* const data = static_cast<const char*>(view.data);
  return {data + offset * static_cast<std::int64_t>(element_size(view.dtype)), nullptr, size,
          view.dtype};
}

// One element as float32, as it is.
inline float raw_value(const RowView& row, std::int64_t idx) {
  if (row.dtype == DType::kFloat32) return static_cast<const float*>(row.data)[idx];
  if (row.dtype == DType::kBFloat16) return to_float(static_cast<const BFloat16*>(row.data)[idx]);
  return to_float(static_cast<const Float16*>(row.data)[idx]);
}

// One logit after the grammar mask; NaN counts as -inf.
inline float logit_at(const RowView& row, std::int64_t token_id) {
  if (!is_allowed(row.allowed, token_id)) return kNegInf;
  const float logit = raw_value(row, token_id);
  return logit > kNegInf ? logit : kNegInf;
}

// Where a row without any mass ends: the lowest allowed id, else 0.
inline std::int64_t lowest_allowed(const RowView& row) {
  for (std::int64_t id = 0; id < row.size; ++id) {
    if (is_allowed(row.allowed, id)) return id;
  }
  return 0;
}

}  // namespace via::cpu
