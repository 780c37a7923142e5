// SPDX-License-Identifier: Apache-2.0
// The final draw: the smallest id t with cumsum(w)[t] > u * sum(w), over a row's kept weights or a
// residual (core/residual.h InverseCdf). Whole chunks are passed by their masses; the chunk that
// holds the target is read again and walked in id order, eight tokens a thread.
// Numerics: float32 weights, running sums in float64. Where rounding leaves a gap at the end, the
// last token with mass.
#pragma once

#include <cstdint>

#include "cuda/verify_filter.cuh"
#include "cuda/verify_residual.cuh"

namespace via::cuda {

// Tokens left out of a draw, and where they lie in the chunk that a warp reads.
struct Excluded {
  int count;
  std::int32_t token[kRows];
  unsigned bits[kWarps][kChunk / 32];
};

struct DrawState {
  double before;  // mass before the chosen chunk
  int chunk;
  double scratch[kWarps];
};

struct ChosenChunk {
  int chunk;      // -1: there is no mass
  double before;  // mass before it
};

// The chunk in which the running mass passes `target`. Where rounding leaves a gap at the end, the
// last chunk with mass, and nothing counts as passed: its last token is taken.
template <typename Mass>
VIA_DEVICE ChosenChunk choose_chunk(int chunks, double target, DrawState& state, Mass mass) {
  int last = -1;
  if (threadIdx.x == 0) state.chunk = -1;
  double passed = 0.0;
  for (int tile = 0; tile < chunks; tile += kThreads) {
    const int c = tile + static_cast<int>(threadIdx.x);
    const double own = c < chunks ? mass(c) : 0.0;
    if (own > 0.0) last = c;
    // Its barriers also put the assignment above before the one below.
    const auto scan = block_scan(own, state.scratch);
    const double before = passed + scan.before;
    if (own > 0.0 && before <= target && before + own > target) {
      state.chunk = c;
      state.before = before;
    }
    passed += scan.total;
  }
  last = Block::max(last, reinterpret_cast<int*>(state.scratch));
  if (state.chunk < 0) return {last, 0.0};
  return {state.chunk, state.before};
}

// The token of a chunk at which the running sum passes `target`; weights of eight consecutive
// tokens a thread.
VIA_DEVICE std::int32_t choose_token(int chunk_idx, double target, double before, double factor,
                                     const float (&weights)[kTokensPerThread], double* scratch) {
  double sum = 0.0;
#pragma unroll
  for (int i = 0; i < kTokensPerThread; ++i) sum += static_cast<double>(weights[i]) * factor;
  const auto scan = block_scan(sum, scratch);
  double passed = before + scan.before;
  const std::int32_t first =
      chunk_idx * kChunk + static_cast<std::int32_t>(threadIdx.x) * kTokensPerThread;
  std::int32_t crossing = 0x7fffffff, last = -1;
#pragma unroll
  for (int i = 0; i < kTokensPerThread; ++i) {
    passed += static_cast<double>(weights[i]) * factor;
    if (!(weights[i] > 0.0f)) continue;
    last = first + i;
    if (passed > target && crossing > first + i) crossing = first + i;
  }
  int* const ints = reinterpret_cast<int*>(scratch);
  crossing = Block::min(crossing, ints);
  last = Block::max(last, ints);
  return crossing < 0x7fffffff ? crossing : last;
}

// Sums the chunks that hold an excluded token anew, without the first `count` of them: subtracting
// would leave rounding noise where nothing is left.
VIA_DEVICE_CALL void leave_out(const Law& law, ChunkRecord* records, int count,
                               Excluded& excluded) {
  const int warp_idx = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane_idx = static_cast<int>(threadIdx.x) % kWarpSize;
  unsigned* const bits = excluded.bits[warp_idx];
  for (int c = warp_idx; c < law.chunks; c += kWarps) {
    bool is_touched = false;
    for (int i = lane_idx; i < excluded.count; i += kWarpSize) {
      is_touched |= excluded.token[i] / kChunk == c;
    }
    if (!__any_sync(kFullMask, is_touched)) continue;
    for (int i = lane_idx; i < kChunk / 32; i += kWarpSize) bits[i] = 0;
    __syncwarp();
    for (int i = lane_idx; i < count; i += kWarpSize) {
      const int local = excluded.token[i] - c * kChunk;
      if (local >= 0 && local < kChunk) atomicOr(&bits[local / 32], 1u << (local % 32));
    }
    __syncwarp();
    const float max = records[c].max;
    float sum = 0.0f;
    for_each_logit(law.row, c, lane_idx, [&](std::int32_t id, float logit) {
      const int local = id % kChunk;
      const bool is_left_out = ((bits[local / 32] >> (local % 32)) & 1u) != 0;
      if (!is_left_out && law.record.cut.keeps(logit, id)) sum += weight_of(logit, max, law.scale);
    });
    sum = warp_sum(sum);
    __syncwarp();
    if (lane_idx == 0) records[c].sum = sum;
  }
  __syncthreads();
}

VIA_DEVICE bool is_left_out(const Excluded& excluded, int count, std::int64_t id) {
  bool found = false;
  for (int i = 0; i < count; ++i) found |= excluded.token[i] == id;
  return found;
}

// Where a row without any mass ends: the lowest allowed id, else 0.
VIA_DEVICE std::int32_t lowest_allowed(const Row& row, int* scratch) {
  int lowest = 0x7fffffff;
  for (std::int64_t id = threadIdx.x; id < row.size && lowest == 0x7fffffff; id += kThreads) {
    if (is_allowed(row.allowed, id)) lowest = static_cast<int>(id);
  }
  lowest = Block::min(lowest, scratch);
  return lowest < 0x7fffffff ? lowest : 0;
}

// Draws from a row's law without the first `count` excluded tokens; -1 if nothing is left. Changes
// the sums in `records`.
VIA_DEVICE_CALL std::int32_t draw_without(const Law& law, ChunkRecord* records, int count,
                                          float uniform, Excluded& excluded, DrawState& state) {
  if (law.is_one_hot()) {
    return is_left_out(excluded, count, law.record.argmax) ? -1 : law.record.argmax;
  }
  if (excluded.count > 0) leave_out(law, records, count, excluded);
  const double exponent = exponent_of(law.record.max, law.scale);
  const auto mass = [&](int c) { return chunk_mass(records[c], law.scale, exponent); };
  const double total = sum_chunks(records, law.chunks, law.record.max, law.scale, state.scratch);
  const double target = static_cast<double>(uniform) * total;
  const ChosenChunk chosen = choose_chunk(law.chunks, target, state, mass);
  const int c = chosen.chunk;
  if (c < 0) return -1;
  const float max = records[c].max;
  float weights[kTokensPerThread];
  for (int i = 0; i < kTokensPerThread; ++i) {
    const std::int64_t id =
        std::int64_t{c} * kChunk + static_cast<int>(threadIdx.x) * kTokensPerThread + i;
    weights[i] = 0.0f;
    if (id >= law.row.size || is_left_out(excluded, count, id)) continue;
    const float logit = logit_at(law.row, id);
    if (law.record.cut.keeps(logit, id)) weights[i] = weight_of(logit, max, law.scale);
  }
  const double factor = rescale(exponent_of(max, law.scale), exponent);
  return choose_token(c, target, chosen.before, factor, weights, state.scratch);
}

// The final draw of one-hot drafts. A child whose removal would leave no mass (rounding) stays.
VIA_DEVICE_CALL std::int32_t draw_from_law(const Law& law, ChunkRecord* records, float uniform,
                                           Excluded& excluded, DrawState& state) {
  std::int32_t token = draw_without(law, records, excluded.count, uniform, excluded, state);
  if (token >= 0 || excluded.count == 0) return token;
  token = draw_without(law, records, 0, uniform, excluded, state);
  int removed = 0;
  for (int i = 0; i < excluded.count; ++i) {
    __syncthreads();
    if (threadIdx.x == 0) {
      const std::int32_t tried = excluded.token[i];
      excluded.token[i] = excluded.token[removed];
      excluded.token[removed] = tried;
    }
    __syncthreads();
    const std::int32_t next = draw_without(law, records, removed + 1, uniform, excluded, state);
    if (next < 0) continue;
    token = next;
    ++removed;
  }
  return token;
}

// Draws from the residual that `rejected` (at least one, each with mass) leaves.
VIA_DEVICE_CALL std::int32_t draw_from_residual(const VerifyArgs& args, int batch_idx,
                                                const Request& request, const Law& law,
                                                const Rejections& rejected, float uniform,
                                                unsigned long long* fixed, DrawState& state) {
  const double* const masses = residual_masses(args, batch_idx, residual_buffer(rejected.count));
  const int last = rejected.node[rejected.count - 1];
  const double total = row_record(args, batch_idx, args.draft_slot(last)).residual;
  const double target = static_cast<double>(uniform) * total;
  const ChosenChunk chosen =
      choose_chunk(law.chunks, target, state, [&](int c) { return masses[c]; });
  if (chosen.chunk < 0) return -1;
  float weights[kTokensPerThread];
  residual_weights(args, batch_idx, request, law, rejected, chosen.chunk, kTokensPerThread, 1,
                   fixed, weights);
  return choose_token(chosen.chunk, target, chosen.before, 1.0, weights, state.scratch);
}

}  // namespace via::cuda
