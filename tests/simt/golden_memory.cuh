// SPDX-License-Identifier: Apache-2.0
// Golden kernels of asynchronous copies, tensor cores, shared memory and order between blocks.
#pragma once

#include "device/reduce.cuh"
#include "device/watchdog.cuh"
#include "golden.cuh"

namespace via::golden {

// 64 threads copy 16 bytes each; every third one asks for zeros.
inline constexpr int kCopyWords = 64 * 4;
__global__ void cp_async_kernel(const std::uint32_t* in /* [kCopyWords] */,
                                std::uint32_t* out /* [2, kCopyWords] */) {
  DYN_SMEM(memory);
  unsigned char* free = memory;
  auto* plain = prim::carve<std::uint32_t>(free, kCopyWords);
  auto* filled = prim::carve<std::uint32_t>(free, kCopyWords);
  const int at = static_cast<int>(threadIdx.x) * 4;
  prim::cp_async16(plain + at, in + at);
  prim::cp_async_commit();
  prim::cp_async16_zfill(filled + at, in + at, threadIdx.x % 3 != 0);
  prim::cp_async_commit();
  prim::cp_async_wait<1>();
  __syncthreads();
  for (int i = threadIdx.x; i < kCopyWords; i += blockDim.x) out[i] = plain[kCopyWords - 1 - i];
  prim::cp_async_wait<0>();
  __syncthreads();
  for (int i = threadIdx.x; i < kCopyWords; i += blockDim.x) {
    out[kCopyWords + i] = filled[kCopyWords - 1 - i];
  }
}

// Four 8x8 matrices of 16-bit elements, element e of row r of matrix m being 64 m + 8 r + e.
template <bool kTransposed>
__global__ void ldmatrix_kernel(std::uint32_t* out /* [32, 4] */) {
  SMEM(uint4, rows, [32]);
  const std::uint32_t first = threadIdx.x * 8;
  const auto pair = [first](std::uint32_t i) { return (first + i) | (first + i + 1) << 16; };
  rows[threadIdx.x] = make_uint4(pair(0), pair(2), pair(4), pair(6));
  __syncwarp();
  std::uint32_t got[4];
  if constexpr (kTransposed) {
    prim::ldmatrix_x4_trans(got, &rows[threadIdx.x]);
  } else {
    prim::ldmatrix_x4(got, &rows[threadIdx.x]);
  }
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = got[i];
}

// One product; a [16, 16] and b [8, 16] (one row per column) in bfloat16 or half, c [16, 8].
template <bool kHalf>
__global__ void mma_kernel(const std::uint32_t* a, const std::uint32_t* b, const float* c,
                           float* out /* [16, 8] */) {
  const int group = static_cast<int>(threadIdx.x) / 4, pair = static_cast<int>(threadIdx.x) % 4;
  std::uint32_t a_words[4], b_words[2];
  float sums[4];
  for (int i = 0; i < 4; ++i) a_words[i] = a[(group + i % 2 * 8) * 8 + pair + i / 2 * 4];
  for (int i = 0; i < 2; ++i) b_words[i] = b[group * 8 + pair + i * 4];
  for (int i = 0; i < 4; ++i) sums[i] = c[(group + i / 2 * 8) * 8 + pair * 2 + i % 2];
  if constexpr (kHalf) {
    prim::mma_f16(sums, a_words, b_words);
  } else {
    prim::mma_bf16(sums, a_words, b_words);
  }
  for (int i = 0; i < 4; ++i) out[(group + i / 2 * 8) * 8 + pair * 2 + i % 2] = sums[i];
}

// Thread 0 brings tiles through a ring of two stages; warp 1 to 4 add their place to each word.
inline constexpr int kTiles = 5, kTileWords = 256, kRingThreads = 160;
__global__ void bulk_kernel(const std::uint32_t* in /* [kTiles, kTileWords] */,
                            std::uint32_t* out /* [kTiles, kTileWords] */) {
  DYN_SMEM(memory);
  unsigned char* free = memory;
  std::uint32_t* stages[2] = {prim::carve<std::uint32_t>(free, kTileWords),
                              prim::carve<std::uint32_t>(free, kTileWords)};
  SMEM(prim::mbar_t, full, [2]);
  SMEM(prim::mbar_t, empty, [2]);
  if (threadIdx.x == 0) {
    for (int s = 0; s < 2; ++s) {
      prim::mbar_init(&full[s], 1);
      prim::mbar_init(&empty[s], 4);
    }
    prim::mbar_fence_init();
  }
  __syncthreads();
  for (int tile = 0; tile < kTiles; ++tile) {
    const int s = tile % 2;
    const unsigned parity = tile / 2 % 2;
    if (threadIdx.x == 0) {
      prim::mbar_wait(&empty[s], parity ^ 1u);
      prim::mbar_arrive_tx(&full[s], kTileWords * 4);
      prim::bulk_load(stages[s], in + tile * kTileWords, kTileWords * 4, &full[s]);
    }
    if (threadIdx.x >= 32) {
      prim::mbar_wait(&full[s], parity);
      for (int i = static_cast<int>(threadIdx.x) - 32; i < kTileWords; i += 128) {
        out[tile * kTileWords + i] = stages[s][i] + static_cast<std::uint32_t>(i);
      }
      __syncwarp();
      if (threadIdx.x % 32 == 0) prim::mbar_arrive(&empty[s]);
    }
  }
}

__global__ void exp2_approx_kernel(const float* in, float* out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) out[i] = prim::exp2_approx(in[i]);
}

__global__ void load_stream_kernel(const uint4* in, uint4* out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) out[i] = prim::load_stream16(&in[count - 1 - i]);
}

// Block b waits for block b - 1, takes its row, changes it and passes it on; the block that
// arrives last at the counter adds the rows up.
inline constexpr int kChainThreads = 64;
__global__ void handoff_kernel(std::uint32_t* rows /* [gridDim.x, 64] */,
                               std::uint32_t* sums /* [64] */, unsigned* flag /* [1] */,
                               unsigned* arrived /* [1] */) {
  SMEM(unsigned, is_last, [1]);
  const unsigned block = blockIdx.x;
  if (threadIdx.x == 0) {
    Watchdog watchdog{2'000'000'000ull};
    watchdog.start();
    while (prim::ld_acquire(flag) != block) watchdog.poll();
  }
  __syncthreads();
  const std::uint32_t before = block == 0 ? 1u : rows[(block - 1) * kChainThreads + threadIdx.x];
  rows[block * kChainThreads + threadIdx.x] = mix(before + block + threadIdx.x);
  __syncthreads();
  if (threadIdx.x == 0) {
    prim::st_release(flag, block + 1);
    is_last[0] = prim::add_acq_rel(arrived, 1) == gridDim.x - 1 ? 1u : 0u;
  }
  __syncthreads();
  if (is_last[0] != 0) {
    std::uint32_t sum = 0;
    for (unsigned row = 0; row < gridDim.x; ++row) sum += rows[row * kChainThreads + threadIdx.x];
    sums[threadIdx.x] = sum;
  }
}

// Parts of odd sizes, each filled by all threads and read back in another order; the last word
// counts parts that are not 128-byte aligned.
inline constexpr int kCarveWords = 5 + 3 + 33 + 1;
__global__ void carve_kernel(std::uint32_t* out /* [kCarveWords] */) {
  DYN_SMEM(memory);
  unsigned char* free = memory;
  auto* words = prim::carve<std::uint32_t>(free, 5);
  auto* longs = prim::carve<unsigned long long>(free, 3);
  auto* bytes = prim::carve<unsigned char>(free, 33);
  const std::uint32_t i = threadIdx.x;
  if (i < 5) words[i] = mix(i);
  if (i < 3) longs[i] = static_cast<unsigned long long>(mix(i + 10)) << 8;
  if (i < 33) bytes[i] = static_cast<unsigned char>(mix(i + 20));
  __syncthreads();
  if (i < 5) out[i] = words[4 - i];
  if (i < 3) out[5 + i] = static_cast<std::uint32_t>(longs[2 - i] >> 8);
  if (i < 33) out[8 + i] = bytes[32 - i];
  if (i == 0) {
    const auto misaligned = [](const void* p) {
      return reinterpret_cast<std::uintptr_t>(p) % 128 != 0 ? 1u : 0u;
    };
    out[41] = misaligned(words) + misaligned(longs) + misaligned(bytes);
  }
}

// The two halves of the block exchange rows twice, each half with a barrier of its own.
__global__ void named_barrier_kernel(std::uint32_t* out /* [2, 128] */) {
  SMEM(std::uint32_t, row, [128]);
  const int half = static_cast<int>(threadIdx.x) / 64, place = static_cast<int>(threadIdx.x) % 64;
  for (int turn = 0; turn < 2; ++turn) {
    row[threadIdx.x] = mix(threadIdx.x * 2 + turn);
    prim::bar_named(1 + half, 64);
    out[turn * 128 + threadIdx.x] = row[half * 64 + 63 - place];
    prim::bar_named(1 + half, 64);
  }
}

// Reductions of one block of 128 threads over values with NaNs, signs and unequal magnitudes.
inline constexpr int kReduceThreads = 128, kReduceCases = 13;
__global__ void reduce_kernel(std::uint64_t* out /* [kReduceCases, 128] */) {
  using Block = BlockReduce<kReduceThreads>;
  SMEM(double, doubles, [Block::kWords]);
  SMEM(float, floats, [Block::kWords]);
  SMEM(int, ints, [Block::kWords]);
  const int word = static_cast<int>(mix(threadIdx.x + 300));
  // Named, so that no compiler fuses the product with the first addition.
  const double real = __dmul_rn(static_cast<double>(word), threadIdx.x % 5 == 0 ? 1e-9 : 3e-4);
  const float single = static_cast<float>(real);
  const float with_nan = threadIdx.x % 7 == 3 ? __int_as_float(0x7fc00000) : single;
  const auto bits = [](double value) {
    return static_cast<std::uint64_t>(__double_as_longlong(value));
  };
  std::uint64_t* to = out + threadIdx.x;
  double total = 0.0;
  int total_int = 0;
  const std::uint64_t results[kReduceCases] = {
      bits(warp_sum(real)),
      bits(static_cast<double>(warp_sum(single))),
      static_cast<std::uint64_t>(warp_sum(word % 1000 + 1000)),
      bits(static_cast<double>(warp_max(with_nan))),
      bits(static_cast<double>(warp_min(with_nan))),
      bits(warp_inclusive_sum(real)),
      bits(Block::sum(real, doubles)),
      bits(static_cast<double>(Block::sum(single, floats))),
      bits(static_cast<double>(Block::max(with_nan, floats))),
      bits(static_cast<double>(Block::min(with_nan, floats))),
      bits(Block::exclusive_sum(real, doubles, total)),
      static_cast<std::uint64_t>(Block::exclusive_sum(word % 1000 + 1000, ints, total_int)),
      bits(total + total_int),
  };
  for (int i = 0; i < kReduceCases; ++i) to[i * kReduceThreads] = results[i];
}

}  // namespace via::golden
