// SPDX-License-Identifier: Apache-2.0
// Attention of query rows to a block of keys: scores, online softmax, weighted values (csrc/cpu/
// attention.h). Compiled once per instruction set. Per block and row 2 D kAttentionBlock fused
// multiply-adds; keys and values are read once per kQuads (scores) or kRowsAtOnce (values) rows.
#include "core/softmax.h"
#include "cpu/attention.h"
#include "cpu/kernels_dots.h"
#include "cpu/kernels_lanes.h"

namespace via::cpu::VIA_ISA_NAMESPACE {
namespace {

constexpr float kLog2E = 0x1.715476p+0f;
constexpr int kBlockVectors = kAttentionBlock / kVectorLanes;
// Accumulators of the weighted values: kRowsAtOnce rows by kColumns vectors, all in registers.
constexpr int kRowsAtOnce = 4;
constexpr int kColumns = kVectorBytes == 64 ? 4 : 2;

// tanh to 2 units in the last place: a polynomial near 0 (Cephes tanhf), 1 - 2 / (e^2x + 1) beyond.
VIA_HD VecF tanh_of(VecF x) {
  const VecF size = bits_as<VecF>(bits_as<VecU>(x) & 0x7fffffffu);
  const VecF square = x * x;
  constexpr float kCoefficients[] = {0x1.52269cp-6f, -0x1.b83c5ap-5f, 0x1.110726p-3f,
                                     -0x1.555532p-2f};
  VecF p = splat(-0x1.75e1d4p-8f);
  for (const float coefficient : kCoefficients) p = fused(p, square, splat(coefficient));
  const VecF near = fused(p * square, x, x);
  // Above 20 it is 1; a NaN stays in `near`.
  VecF power[1] = {size < splat(20.0f) ? size * splat(2.0f * kLog2E) : splat(60.0f)};
  exp2_of<VectorOps, 1>(power);
  const VecF far = splat(1.0f) - splat(2.0f) / (power[0] + splat(1.0f));
  const VecU sign = bits_as<VecU>(x) & 0x80000000u;
  return size > splat(0.625f) ? bits_as<VecF>(bits_as<VecU>(far) | sign) : near;
}

// Weights 2^(score * scale - reference); too small ones and those of -inf are 0, a NaN stays.
VIA_HD void weigh(VecF (&values)[kBlockVectors], float scale, float reference) {
  const VecF factor = splat(scale);
  VecF exponent[kBlockVectors];
  for (int v = 0; v < kBlockVectors; ++v) {
    exponent[v] = fused(values[v], factor, splat(-reference));
  }
  if (reference < kMaxReference && reference > -kMaxReference) {
    exp2_weights<VectorOps, kBlockVectors>(values, factor, splat(kRoundToInteger - reference));
  } else {
    for (int v = 0; v < kBlockVectors; ++v) values[v] = exponent[v];
    exp2_of<VectorOps, kBlockVectors>(values);
  }
  for (int v = 0; v < kBlockVectors; ++v) {
    values[v] = exponent[v] < splat(kMinExponent) ? splat(0.0f) : values[v];
  }
}

// Scores of one row become weights; returns the factor that its older sums shrink by.
float softmax_row(const AttentionQueries& queries, int count, float* scores, float& reference,
                  float& sum) {
  VecF values[kBlockVectors];
  for (int v = 0; v < kBlockVectors; ++v) values[v] = load(scores + v * kVectorLanes);
  float scale = queries.scale * kLog2E;
  if (queries.softcap > 0.0f) {
    const VecF factor = splat(queries.scale / queries.softcap);
    for (int v = 0; v < kBlockVectors; ++v) values[v] = tanh_of(values[v] * factor);
    scale = queries.softcap * kLog2E;
  }
  if (count < kAttentionBlock) {
    for (int v = 0; v < kBlockVectors; ++v) store(scores + v * kVectorLanes, values[v]);
    for (int j = count; j < kAttentionBlock; ++j) scores[j] = kNegInf;
    for (int v = 0; v < kBlockVectors; ++v) values[v] = load(scores + v * kVectorLanes);
  }
  VecF largest = splat(kNegInf);
  for (int v = 0; v < kBlockVectors; ++v) largest = maximum(values[v], largest);
  const float top = __builtin_rintf(max_lanes(largest) * scale);
  const float old = reference;
  // Without a score above -inf there is no reference to speak of.
  if (top > reference) reference = top;
  weigh(values, scale, reference > kNegInf ? reference : 0.0f);
  VecF total = {};
  for (int v = 0; v < kBlockVectors; ++v) {
    total += values[v];
    store(scores + v * kVectorLanes, values[v]);
  }
  float lane[kVectorLanes];
  __builtin_memcpy(lane, &total, sizeof(lane));
  for (int half = kVectorLanes / 2; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) lane[j] += lane[j + half];
  }
  const float shrink = old == reference ? 1.0f : __builtin_exp2f(old - reference);
  sum = sum * shrink + lane[0];
  return shrink;
}

// acc[r] = acc[r] * shrink[r] + sum_j weights[r][j] values[j], for kCount vectors of the columns.
template <int kRows, int kCount>
VIA_HD void add_values(const AttentionBlock& block, const float* weights, const float* shrink,
                       int dim, int column, float* acc) {
  VecF sums[kRows][kCount];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kCount; ++c) {
      sums[r][c] = load(acc + r * dim + column + c * kVectorLanes) * splat(shrink[r]);
    }
  }
  for (int j = 0; j < block.count; ++j) {
    VecF value[kCount];
#pragma GCC unroll 4
    for (int c = 0; c < kCount; ++c) value[c] = load(block.values[j] + column + c * kVectorLanes);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const VecF weight = splat(weights[r * kAttentionBlock + j]);
#pragma GCC unroll 4
      for (int c = 0; c < kCount; ++c) sums[r][c] = fused(weight, value[c], sums[r][c]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kCount; ++c) {
      store(acc + r * dim + column + c * kVectorLanes, sums[r][c]);
    }
  }
}

template <int kRows>
VIA_HD void add_all_values(const AttentionBlock& block, const float* weights, const float* shrink,
                           int dim, float* acc) {
  constexpr int kWidth = kColumns * kVectorLanes;
  int column = 0;
  for (; column + kWidth <= dim; column += kWidth) {
    add_values<kRows, kColumns>(block, weights, shrink, dim, column, acc);
  }
  for (; column < dim; column += kVectorLanes) {
    add_values<kRows, 1>(block, weights, shrink, dim, column, acc);
  }
}

// The part of `ahead` that goes with keys [begin, end): at once they would overrun the processor.
VIA_HD void fetch_ahead(const AttentionBlock& block, int begin, int end) {
  constexpr int kLineBytes = 64;
  const int last = end < block.count ? block.ahead_count * end / block.count : block.ahead_count;
  for (int i = block.ahead_count * begin / block.count; i < last; ++i) {
    for (int byte = 0; byte < block.ahead_bytes; byte += kLineBytes) {
      __builtin_prefetch(block.ahead[i] + byte, 0, 2);
    }
  }
}

void attend(const AttentionQueries& queries, const AttentionBlock& block,
            const AttentionState& state, float* scores) {
  const int dim = queries.dim;
  const int rows = queries.rows;
  int row = 0;
  for (; kQuads > 1 && row + kQuads <= rows; row += kQuads) {
    for (int j = 0; j < block.count; j += 4) {
      if (row == 0) fetch_ahead(block, j, j + 4);
      dot_rows(queries.data + row * dim, dim, block.keys + j, scores + row * kAttentionBlock + j,
               kAttentionBlock);
    }
  }
  for (; row < rows; ++row) {
    for (int j = 0; j < block.count; j += kVectorLanes) {
      if (row == 0) fetch_ahead(block, j, j + kVectorLanes);
      dot_keys(queries.data + row * dim, dim, block.keys + j, scores + row * kAttentionBlock + j);
    }
  }
  for (row = 0; row < rows; row += kRowsAtOnce) {
    const int count = rows - row < kRowsAtOnce ? rows - row : kRowsAtOnce;
    float* const weights = scores + row * kAttentionBlock;
    float shrink[kRowsAtOnce];
    for (int r = 0; r < count; ++r) {
      shrink[r] = softmax_row(queries, block.count, weights + r * kAttentionBlock,
                              state.reference[row + r], state.sum[row + r]);
    }
    float* const acc = state.acc + row * dim;
    if (count == kRowsAtOnce) {
      add_all_values<kRowsAtOnce>(block, weights, shrink, dim, acc);
      continue;
    }
    for (int r = 0; r < count; ++r) {
      add_all_values<1>(block, weights + r * kAttentionBlock, shrink + r, dim, acc + r * dim);
    }
  }
}

void merge(int rows, int dim, const AttentionState& into, const AttentionState& next) {
  for (int row = 0; row < rows; ++row) {
    const float top =
        next.reference[row] > into.reference[row] ? next.reference[row] : into.reference[row];
    const auto factor = [top](float reference) {
      return reference == top ? 1.0f : __builtin_exp2f(reference - top);
    };
    const float old = factor(into.reference[row]);
    const float added = factor(next.reference[row]);
    into.reference[row] = top;
    into.sum[row] = into.sum[row] * old + next.sum[row] * added;
    float* const acc = into.acc + row * dim;
    const float* const more = next.acc + row * dim;
#pragma omp simd
    for (int d = 0; d < dim; ++d) acc[d] = acc[d] * old + more[d] * added;
  }
}

template <typename T>
void widen_as(const void* from, int count, float* to) {
  for (int i = 0; i < count; i += kVectorLanes) {
    store(to + i, load(static_cast<const T*>(from) + i));
  }
}

void widen(const void* from, DType dtype, int count, float* to) {
  if (dtype == DType::kFloat32) return widen_as<float>(from, count, to);
  if (dtype == DType::kBFloat16) return widen_as<BFloat16>(from, count, to);
  widen_as<Float16>(from, count, to);
}

template <typename T>
void narrow_as(const float* from, float divisor, int count, void* to) {
#pragma omp simd
  for (int i = 0; i < count; ++i) narrow(from[i] / divisor, static_cast<T*>(to)[i]);
}

void narrow_row(const float* from, float divisor, int count, DType dtype, void* to) {
  if (dtype == DType::kFloat32) return narrow_as<float>(from, divisor, count, to);
  if (dtype == DType::kBFloat16) return narrow_as<BFloat16>(from, divisor, count, to);
  narrow_as<Float16>(from, divisor, count, to);
}

}  // namespace

void fill_attention(AttentionKernels& table) { table = {attend, merge, widen, narrow_row}; }

}  // namespace via::cpu::VIA_ISA_NAMESPACE
