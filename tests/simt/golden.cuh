// SPDX-License-Identifier: Apache-2.0
// Kernels that use one primitive each on fixed inputs. Their output depends on nothing but the
// meaning of the primitive, so the simulation and a GPU must write the same bytes.
// Warp intrinsics: every case writes one word per thread, out[case * blockDim.x + threadIdx.x].
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "device/prim.cuh"

namespace via::golden {

// A word that looks random and is a function of i alone (32-bit mixing by T. Ettinger's lowbias32).
VIA_HD std::uint32_t mix(std::uint32_t i) {
  i = (i ^ (i >> 16)) * 0x7feb352du;
  i = (i ^ (i >> 15)) * 0x846ca68bu;
  return i ^ (i >> 16);
}

VIA_HD unsigned odd_mask(int i) {
  const unsigned masks[] = {0x55555555u, 0x0ff0f00fu, 0xffff0000u, 0x80000001u};
  return masks[i];
}
inline constexpr int kWarpThreads = 64;

class CaseWriter {
 public:
  __device__ explicit CaseWriter(std::uint32_t* out) : out_(out + threadIdx.x) {}
  __device__ void put(std::uint32_t word) {
    *out_ = word;
    out_ += blockDim.x;
  }
  __device__ void put64(std::uint64_t word) {
    put(static_cast<std::uint32_t>(word));
    put(static_cast<std::uint32_t>(word >> 32));
  }

 private:
  std::uint32_t* out_;
};

// 5 widths x 4 shuffles, the same of 8-byte values for width 8, then one exchange per odd mask in
// which every source lane belongs to the mask.
inline constexpr int kShuffleCases = 5 * 4 + 4 * 2 + 4;
__global__ void shuffle_kernel(std::uint32_t* out /* [kShuffleCases, 64] */) {
  CaseWriter writer(out);
  constexpr unsigned kAll = 0xffffffffu;
  const std::uint32_t word = mix(threadIdx.x);
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int width = 2; width <= 32; width *= 2) {
    writer.put(__shfl_sync(kAll, word, lane * 3 + 1, width));
    writer.put(__shfl_up_sync(kAll, word, 1u + width / 4, width));
    writer.put(__shfl_down_sync(kAll, word, 1u + width / 4, width));
    writer.put(__shfl_xor_sync(kAll, word, width / 2 + 1, width));
  }
  const double real = static_cast<double>(word) * 1.25e-3;
  const long long wide = static_cast<long long>(word * 0x123456789ull);
  writer.put64(static_cast<std::uint64_t>(__shfl_sync(kAll, wide, 5, 8)));
  writer.put64(static_cast<std::uint64_t>(__shfl_down_sync(kAll, wide, 3, 8)));
  writer.put64(static_cast<std::uint64_t>(__double_as_longlong(__shfl_up_sync(kAll, real, 3, 8))));
  writer.put64(static_cast<std::uint64_t>(__double_as_longlong(__shfl_xor_sync(kAll, real, 6, 8))));
  const int sources[] = {(lane + 4) % 32, 15, 16 + (lane * 5 + 3) % 16, 31 - lane};
  for (int i = 0; i < 4; ++i) {
    std::uint32_t got = 0;
    if (odd_mask(i) >> lane & 1u) got = __shfl_sync(odd_mask(i), word, sources[i]);
    __syncwarp();
    writer.put(got);
  }
}

// Ballot, any, all: of the whole warp for three predicates, then per odd mask; block votes last.
inline constexpr int kVoteCases = 3 * 3 + 4 * 3 + 3;
__global__ void vote_kernel(std::uint32_t* out /* [kVoteCases, 64] */) {
  CaseWriter writer(out);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int predicates[] = {static_cast<int>(mix(threadIdx.x) & 1u), 1, 0};
  for (const int predicate : predicates) {
    writer.put(__ballot_sync(0xffffffffu, predicate));
    writer.put(static_cast<std::uint32_t>(__any_sync(0xffffffffu, predicate)));
    writer.put(static_cast<std::uint32_t>(__all_sync(0xffffffffu, predicate)));
  }
  for (int i = 0; i < 4; ++i) {
    std::uint32_t votes[3] = {0, 0, 0};
    if (odd_mask(i) >> lane & 1u) {
      votes[0] = __ballot_sync(odd_mask(i), predicates[0]);
      votes[1] = static_cast<std::uint32_t>(__any_sync(odd_mask(i), lane == 31));
      votes[2] = static_cast<std::uint32_t>(__all_sync(odd_mask(i), lane != 12));
    }
    __syncwarp();
    for (const std::uint32_t vote : votes) writer.put(vote);
  }
  writer.put(static_cast<std::uint32_t>(__syncthreads_count(predicates[0])));
  writer.put(static_cast<std::uint32_t>(__syncthreads_and(threadIdx.x < 64)));
  writer.put(static_cast<std::uint32_t>(__syncthreads_or(threadIdx.x == 63)));
}

inline constexpr int kReduceSyncCases = 5 * 8;
__global__ void reduce_sync_kernel(std::uint32_t* out /* [kReduceSyncCases, 64] */) {
  CaseWriter writer(out);
  const std::uint32_t word = mix(threadIdx.x + 100);
  const int number = static_cast<int>(word);
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int i = 0; i < 5; ++i) {
    const unsigned mask = i == 0 ? 0xffffffffu : odd_mask(i - 1);
    std::uint32_t got[8] = {};
    if (mask >> lane & 1u) {
      got[0] = __reduce_add_sync(mask, word);
      got[1] = __reduce_min_sync(mask, word);
      got[2] = __reduce_max_sync(mask, word);
      got[3] = __reduce_and_sync(mask, word);
      got[4] = __reduce_or_sync(mask, word);
      got[5] = __reduce_xor_sync(mask, word);
      got[6] = static_cast<std::uint32_t>(__reduce_min_sync(mask, number));
      got[7] = static_cast<std::uint32_t>(__reduce_max_sync(mask, number));
    }
    __syncwarp();
    for (const std::uint32_t value : got) writer.put(value);
  }
}

inline constexpr int kBitCases = 16;
__global__ void bits_kernel(std::uint32_t* out /* [kBitCases, blockDim.x] */) {
  CaseWriter writer(out);
  const std::uint32_t i = threadIdx.x;
  // Zero, all ones, single bits, and noise.
  const std::uint32_t a = i == 0 ? 0u : i == 1 ? ~0u : i < 34 ? 1u << (i - 2) : mix(i);
  const std::uint32_t b = mix(i + 1000);
  const std::uint64_t wide = static_cast<std::uint64_t>(a) << (i % 33);
  writer.put(static_cast<std::uint32_t>(__popc(a)));
  writer.put(static_cast<std::uint32_t>(__clz(static_cast<int>(a))));
  writer.put(static_cast<std::uint32_t>(__ffs(static_cast<int>(a))));
  writer.put(static_cast<std::uint32_t>(__popcll(wide)));
  writer.put(static_cast<std::uint32_t>(__clzll(static_cast<long long>(wide))));
  writer.put(static_cast<std::uint32_t>(__ffsll(static_cast<long long>(wide))));
  writer.put(__brev(a));
  writer.put64(__brevll(wide));
  writer.put(__umulhi(a, b));
  writer.put(__funnelshift_l(a, b, i));
  writer.put(__funnelshift_r(a, b, i));
  writer.put(__byte_perm(a, b, mix(i + 2000)));
  writer.put(static_cast<std::uint32_t>(__float_as_int(__uint_as_float(a))));
  writer.put64(static_cast<std::uint64_t>(
      __double_as_longlong(__longlong_as_double(static_cast<long long>(wide)))));
}

// All threads of all blocks on the same ten counters; the results do not depend on the order.
inline constexpr int kAtomicWords = 10;
__global__ void atomics_kernel(std::uint32_t* words /* [kAtomicWords] */,
                               unsigned long long* wide /* [2] */, int* numbers /* [2] */) {
  const std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  const std::uint32_t word = mix(i + 7);
  atomicAdd(&words[0], word);
  atomicSub(&words[1], word);
  atomicMax(&words[2], word);
  atomicMin(&words[3], word);
  atomicAnd(&words[4], word | 0x00ff00ffu);
  atomicOr(&words[5], word & 0x0f0f0f0fu);
  atomicXor(&words[6], word);
  atomicInc(&words[7], 99u);
  atomicExch(&words[8], 0xabcdef01u);
  // Compare-and-swap as a loop: a product mod 2^32 of odd factors.
  std::uint32_t seen = atomicAdd(&words[9], 0u), expected;
  do {
    expected = seen;
    seen = atomicCAS(&words[9], expected, expected * (word | 1u));
  } while (seen != expected);
  atomicAdd(&wide[0], static_cast<unsigned long long>(word) << 20);
  atomicMax(&wide[1], static_cast<unsigned long long>(word) << 13);
  atomicMax(&numbers[0], static_cast<int>(word));
  atomicMin(&numbers[1], static_cast<int>(word));
}

}  // namespace via::golden
