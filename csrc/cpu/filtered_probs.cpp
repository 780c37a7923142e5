// SPDX-License-Identifier: Apache-2.0
// filtered_probs on the CPU: probs[r] = filtered softmax(logits[r]), and one draw per row from the
// drafter's own random stream (purpose 2). One pass over the logits, one more for filters, one
// write of the probabilities; a draw alone re-reads one chunk. Rows are tasks.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/philox.h"
#include "cpu/law.h"
#include "cpu/thread_pool.h"
#include "cpu/view.h"
#include "via/filter.h"

namespace via {
namespace cpu {
namespace {

Law& buffer() {
  thread_local Law law;
  return law;
}

void write_one_hot(std::int64_t token_id, std::int64_t size, float* probs) {
  std::fill_n(probs, size, 0.0f);
  probs[token_id] = 1.0f;
}

void write_probs(const Law& law, float* probs) {
  const std::int64_t count = num_chunks(law.row.size);
  for_each_part(static_cast<int>(count), [&](int part) {
    alignas(64) float chunk[kChunk];
    law.chunk_probs(part, chunk);
    const std::int64_t begin = part * kChunk;
    std::copy_n(chunk, std::min(kChunk, law.row.size - begin), probs + begin);
  });
}

void run_row(const FilteredProbsParams& params, int row_idx) {
  const std::int64_t size = params.vocab_size;
  const std::int64_t target = params.probs_rows != nullptr ? params.probs_rows[row_idx] : row_idx;
  if (target < 0) return;
  RowView row = row_at(params.logits, row_idx * params.logits.stride[0], size);
  if (params.allowed.data != nullptr &&
      (params.allowed_rows == nullptr || params.allowed_rows[row_idx])) {
    row.allowed =
        static_cast<const std::uint32_t*>(params.allowed.data) + row_idx * params.allowed.stride[0];
  }
  Filters filters = read_filters(params.filter, row_idx);
  if (!filters_are_valid(filters)) filters = {};
  const std::int64_t stride = params.probs_stride != 0 ? params.probs_stride : size;
  float* const probs = params.probs != nullptr ? params.probs + target * stride : nullptr;
  std::int64_t* const token_id =
      params.token_ids != nullptr ? params.token_ids + row_idx * params.token_ids_stride : nullptr;

  Law& law = buffer();
  const bool is_greedy = !(filters.temperature > 0.0f);
  if (is_greedy) {
    scan_max(row, law);
  } else {
    scan_softmax(row, filters.temperature, law);
  }
  if (is_greedy || !law.has_mass() || law.is_one_hot()) {
    const std::int64_t token = law.has_mass() ? law.stats.argmax : lowest_allowed(row);
    if (probs != nullptr) write_one_hot(token, size, probs);
    if (token_id != nullptr) *token_id = token;
    return;
  }
  apply_filters(filters, law);
  if (probs != nullptr) write_probs(law, probs);
  if (token_id == nullptr) return;
  float uniform = 0.0f;
  if (params.seed != nullptr && params.position != nullptr) {
    uniform = philox_uniform(params.seed[row_idx], params.position[row_idx],
                             static_cast<std::uint32_t>(params.column), kPurposeDrafter);
  }
  *token_id = draw(law, uniform, nullptr, 0);
}

}  // namespace
}  // namespace cpu

void filtered_probs_cpu(const FilteredProbsParams& params) {
  const double element = static_cast<double>(cpu::element_size(params.logits.dtype)) +
                         (params.probs != nullptr ? sizeof(float) : 0);
  const double bytes = element * params.num_rows * params.vocab_size;
  const int threads = cpu::useful_threads(params.num_threads, bytes);
  cpu::for_each_task(threads, params.num_rows, [&](int row_idx) { cpu::run_row(params, row_idx); });
}

}  // namespace via
