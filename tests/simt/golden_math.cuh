// SPDX-License-Identifier: Apache-2.0
// Golden kernels of the rules in csrc/core, one thread per input. What uses no function of the
// mathematical library, and no sum that a compiler may fuse with a product, must agree bit by bit;
// the rest ("approx") is compared with a tolerance.
#pragma once

#include "core/accept.h"
#include "core/exp2.h"
#include "core/filters.h"
#include "core/half.h"
#include "core/philox.h"
#include "core/residual.h"
#include "core/route.h"
#include "core/router.h"
#include "core/softmax.h"
#include "golden.cuh"

namespace via::golden {

// A float of either sign with an exponent between 2^-20 and 2^11; every 16th is a special value.
VIA_HD float sample_float(std::uint32_t i) {
  const std::uint32_t bits = mix(i);
  if (i % 16 == 5) {
    const std::uint32_t special[] = {0x7f800000u, 0xff800000u, 0x7fc00000u, 0u, 0x80000000u, 1u};
    return bits_as<float>(special[i / 16 % 6]);
  }
  return bits_as<float>((bits & 0x807fffffu) | (107u + (bits >> 23 & 31u)) << 23);
}
// A multiple of 2^-24 in [0, 1).
VIA_HD float sample_uniform(std::uint32_t i) { return static_cast<float>(mix(i) >> 8) * 0x1p-24f; }

// offset + factor * x, rounded twice: nvcc would fuse the two, and the inputs would differ.
__device__ __forceinline__ float affine(float offset, float factor, float x) {
  return __fadd_rn(offset, __fmul_rn(factor, x));
}

VIA_HD std::uint32_t float_bits(float value) { return bits_as<std::uint32_t>(value); }

__device__ __forceinline__ std::uint32_t global_index() {
  return blockIdx.x * blockDim.x + threadIdx.x;
}

// Known-answer counters and keys first (all zero, all ones), then noise; then uniforms.
inline constexpr int kPhiloxCount = 256;
__global__ void philox_kernel(std::uint32_t* words /* [256, 4] */, float* uniforms /* [256] */) {
  const std::uint32_t i = global_index();
  std::uint32_t input[6];
  for (std::uint32_t k = 0; k < 6; ++k) input[k] = i == 0 ? 0u : i == 1 ? ~0u : mix(6 * i + k);
  const PhiloxWords counter = {{input[0], input[1], input[2], input[3]}};
  const PhiloxWords random = philox4x32_10(input[4], input[5], counter);
  for (int k = 0; k < 4; ++k) words[4 * i + k] = random.word[k];
  const auto seed = static_cast<std::int64_t>(std::uint64_t{mix(i)} << 32 | mix(i + 1));
  uniforms[i] = philox_uniform(seed, static_cast<std::int64_t>(i) - 100, mix(i + 2), i % 3);
}

// All 65536 patterns of both 16-bit formats, two per thread.
inline constexpr std::uint32_t kPatterns = 65536;
__global__ void half_kernel(std::uint32_t* out /* [2, kPatterns] */) {
  for (std::uint32_t i = global_index(); i < kPatterns; i += kPatterns / 2) {
    const auto bits = static_cast<std::uint16_t>(i);
    out[i] = float_bits(to_float(BFloat16{bits}));
    out[kPatterns + i] = float_bits(to_float(Float16{bits}));
  }
}

// Weights 2^(l * scale - reference) of four logits per thread, and 2^y.
inline constexpr int kExp2Count = 1024;
__global__ void exp2_kernel(float* weights /* [1024, 4] */, float* powers /* [1024, 4] */) {
  const std::uint32_t i = global_index();
  const float scale = affine(0.25f, 3.0f, sample_uniform(i + 1));
  float values[4], exponents[4];
  for (std::uint32_t k = 0; k < 4; ++k) {
    const float uniform = sample_uniform(4 * i + k + 5000);
    values[k] = affine(-18.0f, 36.0f, uniform);
    exponents[k] = affine(0.0f, kMinExponent, uniform);
  }
  const float reference = static_cast<float>(static_cast<int>(mix(i) % 60)) - 10.0f;
  exp2_weights<ScalarOps, 4>(values, scale, kRoundToInteger - reference);
  exp2_of<ScalarOps, 4>(exponents);
  for (int k = 0; k < 4; ++k) {
    weights[4 * i + k] = values[k];
    powers[4 * i + k] = exponents[k];
  }
}

// Decisions: tier, acceptance, one-hot walk over four children, nucleus, cut, clamped uniform, the
// router's features and tier.
inline constexpr int kRuleCount = 4096, kRuleWords = 15;
__global__ void rules_kernel(std::uint32_t* out /* [4096, kRuleWords] */) {
  const std::uint32_t i = global_index();
  std::uint32_t* row = out + i * kRuleWords;
  const float uniform = sample_uniform(i), a = sample_float(2 * i + 1), b = sample_float(2 * i);
  const float p = sample_uniform(i + 9000), q = sample_uniform(i + 18000);
  const RouteThresholds tau = {0.7f, 0.5f, 0.8f, i % 2 == 1};
  row[0] = static_cast<std::uint32_t>(route_tier(i % 7 == 0 ? a : q, p, tau));
  row[1] = accept_token(uniform, i % 5 == 0 ? a : p, q) ? 1u : 0u;
  OneHotWalk walk;
  std::uint32_t accepted = 0;
  for (std::uint32_t child = 0; child < 4; ++child) {
    const double probability = static_cast<double>(sample_uniform(i + 100 * child)) * 0.5;
    accepted |= (walk.accept(uniform, probability) ? 1u : 0u) << child;
  }
  row[2] = accepted;
  row[3] = float_bits(residual_weight(a, b));
  row[4] = float_bits(clamp_uniform(a));
  row[5] = top_p_keeps(static_cast<double>(p), q, 1.5) ? 1u : 0u;
  const FilterCut cut = stricter_cut({a, static_cast<std::int32_t>(i % 9)}, {b, 4});
  row[6] = float_bits(cut.logit);
  row[7] = static_cast<std::uint32_t>(cut.last_id);
  row[8] = cut.keeps(b, static_cast<std::int64_t>(i % 11)) ? 1u : 0u;
  row[9] = float_bits(exponent_scale(p + 0.01f));
  RouteCandidate candidate;
  for (std::uint32_t k = 0; k < 5; ++k) {
    candidate.offer(static_cast<int>(k), static_cast<double>(mix(i + k) % 4));
  }
  row[10] = static_cast<std::uint32_t>(candidate.node_idx);
  InverseCdf cdf;
  cdf.target = static_cast<double>(uniform) * 3.0;
  std::uint32_t drawn = 99;
  for (std::uint32_t id = 0; id < 6 && drawn == 99; ++id) {
    // Weights are exact multiples of 2^-24: sums do not round.
    if (cdf.step(id, static_cast<double>(sample_uniform(i + 31 * id)))) drawn = id;
  }
  row[11] = drawn;
  RouterParam router;
  for (std::uint32_t k = 0; k < kRouterSize; ++k) {
    router.values[k] = sample_uniform(i + 57 * k) - 0.5f;
  }
  const float temperature = p + 0.01f, scores[2] = {a, b};
  const RowFeatures features = row_features(b, a, -static_cast<double>(q), temperature);
  const float ratio_log = log_ratio(a, i % 3, b, i % 2, temperature);
  const RowRouter packed = read_router(router, 0);
  row[12] = float_bits(features.margin);
  row[13] = float_bits(ratio_log);
  row[14] = static_cast<std::uint32_t>(routed_tier(
      packed, uniform, node_features(ratio_log, features, scores, static_cast<int>(i % 9), false)));
  row[14] |= packed.holds_numbers() ? 8u : 0u;
}

// Values through exp, log and exp2 in float64.
inline constexpr int kApproxColumns = 7;
__global__ void approx_kernel(double* out /* [kApproxColumns, 4096] */) {
  const std::uint32_t i = global_index();
  const float logit = affine(-20.0f, 40.0f, sample_uniform(i));
  const float max = affine(logit, 20.0f, sample_uniform(i + 1));
  const float temperature = affine(0.1f, 2.0f, sample_uniform(i + 2));
  const float scale = exponent_scale(temperature);
  const double sum = 1.0 + static_cast<double>(sample_uniform(i + 3)) * 100.0;
  const double exponent = exponent_of(max, scale);
  SoftmaxStats into, next;
  into.max = logit;
  into.sum = sum;
  into.exponent = static_cast<double>(static_cast<int>(mix(i) % 40));
  into.argmax = 1;
  next.max = max;
  next.sum = sum * 0.7;
  next.exponent = into.exponent + static_cast<double>(sample_uniform(i + 4) * 8.0f - 4.0f);
  next.argmax = 2;
  merge_stats(into, next);
  const double columns[kApproxColumns] = {
      draft_ratio(logit, 3, max, 5, temperature),
      static_cast<double>(min_p_cut(sample_uniform(i + 5), max, temperature).logit),
      probability(logit, scale, sum, exponent),
      log_probability(logit, scale, sum, exponent),
      top_p_floor(sample_uniform(i + 6), sum, 1000),
      into.sum,
      into.exponent + static_cast<double>(into.argmax),
  };
  for (int k = 0; k < kApproxColumns; ++k) out[k * kRuleCount + i] = columns[k];
}

}  // namespace via::golden
