// SPDX-License-Identifier: Apache-2.0
#include "cpu/attention_row.h"

#include "core/params.h"
#include "cpu/view.h"

namespace via::cpu {
namespace {

std::int64_t page_of(const TreeAttentionParams& params, int batch_idx, std::int64_t slot) {
  return read_int(params.page_table, batch_idx * params.page_table.stride[0] + slot);
}

// Pages that the row's tokens see or write. Those behind every window may be gone.
bool pages_are_valid(const TreeAttentionParams& params, int batch_idx, std::int64_t context,
                     int count) {
  if (params.page_table.data == nullptr || count == 0) return true;
  const std::int64_t last = (context + count - 1) / params.page_size;
  for (std::int64_t slot = first_seen(context, params.window) / params.page_size; slot <= last;
       ++slot) {
    const std::int64_t page = page_of(params, batch_idx, slot);
    if (page < 0 || page >= params.num_pages) return false;
  }
  return true;
}

}  // namespace

AttentionRow::AttentionRow(const TreeAttentionParams& params, int batch_idx) {
  const std::int64_t length =
      read_int(params.context_lens, batch_idx * params.context_lens.stride[0]);
  const std::int64_t count =
      params.token_counts.data == nullptr
          ? params.num_tokens
          : read_int(params.token_counts, batch_idx * params.token_counts.stride[0]);
  if (count < 0 || count > params.num_tokens || length < 0) return;
  // Not length + count > capacity: the sum may exceed int64.
  if (length > params.capacity - count) return;
  if (!read_tree(params, batch_idx, static_cast<int>(count))) return;
  if (!pages_are_valid(params, batch_idx, length, static_cast<int>(count))) return;
  context = length;
  num_tokens = static_cast<int>(count);
}

bool AttentionRow::read_tree(const TreeAttentionParams& params, int batch_idx, int count) {
  for (int i = 0; i < count; ++i) {
    const std::int64_t parent =
        params.parents.data == nullptr
            ? i - 1
            : read_int(params.parents, batch_idx * params.parents.stride[0] + i);
    if (!parent_is_valid(parent, i)) return false;
    depth[i] = parent < 0 ? 0 : depth[parent] + 1;
    path[i] = extend_path(parent < 0 ? NodeSet{} : path[parent], i);
  }
  return true;
}

char* locate(const TreeAttentionParams& params, const TokenTensor& cache, int batch_idx,
             std::int64_t position, int head) {
  std::int64_t block = batch_idx;
  if (params.page_table.data != nullptr) {
    block = page_of(params, batch_idx, position / params.page_size);
    position %= params.page_size;
  }
  const std::int64_t offset =
      block * cache.stride[0] + position * cache.stride[1] + head * cache.stride[2];
  return static_cast<char*>(cache.data) + offset * static_cast<int>(element_size(params.dtype));
}

char* token_data(const TreeAttentionParams& params, const TokenTensor& tensor, int batch_idx,
                 int token, int head) {
  const std::int64_t offset =
      batch_idx * tensor.stride[0] + token * tensor.stride[1] + head * tensor.stride[2];
  return static_cast<char*>(tensor.data) + offset * static_cast<int>(element_size(params.dtype));
}

}  // namespace via::cpu
