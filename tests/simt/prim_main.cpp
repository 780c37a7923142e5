// SPDX-License-Identifier: Apache-2.0
// Every primitive of device/prim.cuh, and the intrinsics that kernels use, against values computed
// on the host. Bulk copies and mbarriers: planted/ring.cuh.

#include <algorithm>
#include <cmath>
#include <random>

#include "gpu_or_simt.h"

namespace via {
namespace {

using testing::Checker;
using testing::DeviceBuffer;

constexpr unsigned kAll = 0xffffffffu;

__global__ void copy_kernel(const float* in /* [128] */, float* out /* [128] */) {
  SMEM(float4, tile, [32]);
  const int lane = static_cast<int>(threadIdx.x);
  if (lane % 3 == 1) {
    prim::cp_async16(&tile[lane], in + 4 * lane, prim::evict_first());
  } else {
    prim::cp_async16_zfill(&tile[lane], in + 4 * lane, lane % 3 != 0);
  }
  prim::cp_async_commit();
  prim::cp_async_wait<0>();
  __syncthreads();
  const float4 other = tile[31 - lane];
  reinterpret_cast<float4*>(out)[31 - lane] = other;
}

void check_copy(Checker& checker) {
  DeviceBuffer<float> in(128), out(128);
  for (int i = 0; i < 128; ++i) in[i] = static_cast<float>(i + 1);
  LAUNCH(copy_kernel, 1, 32, 0, nullptr, in.data(), out.data());
  testing::device_sync();
  for (int i = 0; i < 128; ++i) {
    const float expected = i / 4 % 3 != 0 ? in[i] : 0.0f;
    checker.expect(out[i] == expected, "copy: out[%d] = %g", i, double{out[i]});
  }
}

// c[16x8] = a[16x16] b[16x8], a by ldmatrix, b and c by the layout of the PTX ISA.
__global__ void mma_kernel(const __nv_bfloat16* a, const __nv_bfloat16* b /* transposed [8, 16] */,
                           float* c) {
  SMEM(__nv_bfloat16, tile, [16 * 16]);
  const int lane = static_cast<int>(threadIdx.x), group = lane / 4, pair = lane % 4 * 2;
  for (int i = lane; i < 16 * 16; i += 32) tile[i] = a[i];
  __syncwarp();
  std::uint32_t left[4], right[2];
  prim::ldmatrix_x4(left, tile + (lane % 16) * 16 + lane / 16 * 8);
  for (int i = 0; i < 2; ++i) {
    right[i] = *reinterpret_cast<const std::uint32_t*>(b + group * 16 + pair + 8 * i);
  }
  float sums[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  prim::mma_bf16(sums, left, right);
  for (int i = 0; i < 4; ++i) c[(group + i / 2 * 8) * 8 + pair + i % 2] = sums[i];
}

void check_mma(Checker& checker) {
  std::mt19937 bits(1);
  DeviceBuffer<__nv_bfloat16> a(256), b(128);
  DeviceBuffer<float> c(128);
  // Small integers: every order of summation is exact.
  for (auto& value : a) value = __float2bfloat16(static_cast<float>(bits() % 17) - 8.0f);
  for (auto& value : b) value = __float2bfloat16(static_cast<float>(bits() % 17) - 8.0f);
  LAUNCH(mma_kernel, 1, 32, 0, nullptr, a.data(), b.data(), c.data());
  testing::device_sync();
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      float sum = 1.0f;
      for (int k = 0; k < 16; ++k) {
        sum += __bfloat162float(a[row * 16 + k]) * __bfloat162float(b[column * 16 + k]);
      }
      const float got = c[row * 8 + column];
      checker.expect(got == sum, "mma[%d][%d] = %g, not %g", row, column, double{got}, double{sum});
    }
  }
}

// Block 0 publishes, the others wait; two halves of a block meet at a named barrier.
__global__ void order_kernel(int* data, unsigned* flag, unsigned* done, int* out,
                             unsigned long long* times) {
  SMEM(int, halves, [2]);
  const int thread = static_cast<int>(threadIdx.x), half = thread / 32;
  if (blockIdx.x == 0) {
    if (thread == 0) {
      *data = 42;
      prim::st_release(flag, 1u);
    }
  } else {
    times[2 * (blockIdx.x * 64 + thread)] = prim::global_timer_ns();
    while (prim::ld_acquire(flag) == 0u) prim::spin();
    if (thread % 32 == 0) halves[half] = *data + half;
    prim::bar_named(1 + half, 32);
    out[blockIdx.x * 64 + thread] = halves[half];
    times[2 * (blockIdx.x * 64 + thread) + 1] = prim::global_timer_ns();
  }
  __syncthreads();
  if (thread == 0 && prim::add_acq_rel(done, 1u) == gridDim.x - 1) out[0] = out[64] + out[96];
}

void check_order(Checker& checker) {
  constexpr int kBlocks = 3;
  DeviceBuffer<int> data(1, 0), out(kBlocks * 64, 0);
  DeviceBuffer<unsigned> flag(1, 0u), done(1, 0u);
  DeviceBuffer<unsigned long long> times(2 * kBlocks * 64, 0ull);
  LAUNCH_COOP(order_kernel, kBlocks, 64, 0, nullptr, data.data(), flag.data(), done.data(),
              out.data(), times.data());
  testing::device_sync();
  checker.expect(out[0] == 42 + 43, "the last block read %d", out[0]);
  for (int i = 64; i < kBlocks * 64; ++i) {
    checker.expect(out[i] == 42 + i / 32 % 2, "message %d", out[i]);
    checker.expect(times[2 * i + 1] >= times[2 * i], "the timer runs backwards");
  }
}

struct Lane {
  double shuffled;
  unsigned long long shuffled_up, funnel;
  int shuffled_down, segment, any, all, count, first, high, first_long, high_long;
  unsigned ballot, add, bits_or, bits_and, bits_xor, low, high_word, reversed, bytes;
  int smallest, largest, positive;
  float exponential;
  uint4 stream;
};

__global__ void lane_kernel(const unsigned* in /* [32] */, Lane* out /* [32] */, unsigned* words) {
  const int lane = static_cast<int>(threadIdx.x);
  const unsigned value = __ldg(in + lane);
  const int number = static_cast<int>(value);
  Lane result;
  result.shuffled = __shfl_xor_sync(kAll, value * 0.5, 5);
  result.shuffled_up = __shfl_up_sync(kAll, static_cast<unsigned long long>(value) << 20, 3u);
  result.shuffled_down = __shfl_down_sync(kAll, number, 4u, 16);
  result.segment = __shfl_sync(kAll, number, 2, 8);
  result.ballot = __ballot_sync(kAll, value & 1u);
  result.any = __any_sync(kAll, value == in[7]);
  result.all = __all_sync(kAll, value != in[7]);
  result.count = __syncthreads_count(static_cast<int>(value & 1u));
  result.add = __reduce_add_sync(kAll, value);
  result.bits_or = __reduce_or_sync(kAll, value);
  result.bits_and = __reduce_and_sync(kAll, value);
  result.bits_xor = __reduce_xor_sync(kAll, value);
  result.low = __reduce_min_sync(kAll, value);
  result.high_word = __reduce_max_sync(kAll, value);
  result.smallest = __reduce_min_sync(kAll, number);
  result.largest = __reduce_max_sync(kAll, number);
  result.positive = __popc(value) + __popcll(static_cast<unsigned long long>(value) << 7);
  result.first = __ffs(number);
  result.high = __clz(number);
  result.first_long = __ffsll(static_cast<long long>(value) << 30);
  result.high_long = __clzll(static_cast<long long>(value));
  result.reversed = __brev(value);
  result.bytes = __byte_perm(value, ~value, 0x2715);
  result.funnel = __funnelshift_r(value, ~value, 9);
  result.exponential = prim::exp2_approx(static_cast<float>(lane) * 0.25f - 4.0f);
  result.stream = prim::load_stream16(in + lane / 4 * 4);
  out[lane] = result;
  atomicAdd(words, value);
  atomicMax(words + 1, value);
  atomicMin(words + 2, value);
  atomicOr(words + 3, 1u << lane);
  atomicAnd(words + 4, ~(1u << lane));
  atomicCAS(words + 5, 0u, value);
  atomicExch(words + 6, 7u);
}

template <typename Visit>
unsigned fold(DeviceBuffer<unsigned>& in, Visit visit) {
  unsigned result = in[0];
  for (int i = 1; i < 32; ++i) result = visit(result, in[i]);
  return result;
}

void check_lanes(Checker& checker) {
  std::mt19937 bits(2);
  DeviceBuffer<unsigned> in(32), words(7, 0u);
  DeviceBuffer<Lane> out(32);
  for (unsigned& value : in) value = bits() | 0x100u;
  words[2] = words[4] = kAll;
  LAUNCH(lane_kernel, 1, 32, 0, nullptr, in.data(), out.data(), words.data());
  testing::device_sync();
  unsigned odd = 0;
  int smallest = 0x7fffffff, largest = -0x7fffffff - 1;
  for (int i = 0; i < 32; ++i) {
    odd |= (in[i] & 1u) << i;
    smallest = std::min(smallest, static_cast<int>(in[i]));
    largest = std::max(largest, static_cast<int>(in[i]));
  }
  const unsigned sum = fold(in, [](unsigned a, unsigned b) { return a + b; });
  const unsigned low = fold(in, [](unsigned a, unsigned b) { return std::min(a, b); });
  const unsigned high = fold(in, [](unsigned a, unsigned b) { return std::max(a, b); });
  for (int i = 0; i < 32; ++i) {
    const Lane& lane = out[i];
    const unsigned value = in[i];
    checker.expect(lane.shuffled == in[i ^ 5] * 0.5, "xor shuffle of lane %d", i);
    const unsigned up = in[i >= 3 ? i - 3 : i];
    checker.expect(lane.shuffled_up == static_cast<unsigned long long>(up) << 20, "up, lane %d", i);
    const unsigned down = in[i % 16 + 4 < 16 ? i + 4 : i];
    checker.expect(lane.shuffled_down == static_cast<int>(down), "down, lane %d", i);
    checker.expect(lane.segment == static_cast<int>(in[i / 8 * 8 + 2]), "segment, lane %d", i);
    checker.expect(lane.ballot == odd && lane.count == __builtin_popcount(odd), "ballot %d", i);
    checker.expect(lane.any == 1 && lane.all == 0, "votes of lane %d", i);
    checker.expect(lane.add == sum && lane.low == low && lane.high_word == high, "reduce %d", i);
    checker.expect(lane.smallest == smallest && lane.largest == largest, "signed reduce %d", i);
    checker.expect(lane.bits_or == fold(in, [](unsigned a, unsigned b) { return a | b; }) &&
                       lane.bits_and == fold(in, [](unsigned a, unsigned b) { return a & b; }) &&
                       lane.bits_xor == fold(in, [](unsigned a, unsigned b) { return a ^ b; }),
                   "bit reduce %d", i);
    checker.expect(lane.positive == 2 * __builtin_popcount(value), "popc of lane %d", i);
    const int lowest = __builtin_ctz(value), above = __builtin_clz(value);
    checker.expect(lane.first == lowest + 1 && lane.first_long == lowest + 31, "ffs %d", i);
    checker.expect(lane.high == above && lane.high_long == above + 32, "clz %d", i);
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; ++bit) reversed = reversed << 1 | (value >> bit & 1u);
    checker.expect(lane.reversed == reversed, "brev of lane %d", i);
    const unsigned bytes = (~value >> 8 & 255u) | (value >> 8 & 255u) << 8 | (~value >> 24) << 16 |
                           (value >> 16 & 255u) << 24;
    checker.expect(lane.bytes == bytes, "byte_perm %08x, not %08x", lane.bytes, bytes);
    checker.expect(lane.funnel == (value >> 9 | ~value << 23), "funnel shift of lane %d", i);
    const double power = std::exp2(i * 0.25 - 4.0);
    checker.expect(std::fabs(lane.exponential - power) < 1e-6 * power, "exp2 of lane %d", i);
    const unsigned* stream = in.data() + i / 4 * 4;
    checker.expect(lane.stream.x == stream[0] && lane.stream.w == stream[3], "stream %d", i);
  }
  checker.expect(words[0] == sum && words[1] == high && words[2] == low && words[3] == kAll &&
                     words[4] == 0 && words[6] == 7,
                 "atomics: %u %u %u", words[0], words[1], words[2]);
  bool found = false;
  for (unsigned value : in) found |= value == words[5];
  checker.expect(found, "compare and swap kept %u", words[5]);
}

int run() {
  Checker checker;
  check_copy(checker);
  check_mma(checker);
  check_order(checker);
  check_lanes(checker);
  return checker.status();
}

}  // namespace
}  // namespace via

int main() { return via::run(); }
