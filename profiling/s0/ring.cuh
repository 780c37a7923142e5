// SPDX-License-Identifier: Apache-2.0
// Streams through global memory whose bytes are checked: word i of the source holds
// i * kFillFactor + kFillOffset (mod 2^32), so the sum of any run of words is known in closed form.
//
// ring_kernel: one producer warp per CTA fills a ring of shared-memory stages by bulk copies, eight
// consumer warps read them. The n-th chunk of reader b is chunk n * step_n + b * step_b of the
// source, wrapped. A reader is a CTA, or a cluster of two: each then copies half of every chunk
// into both. plain_kernel: the same chunks by 16-byte loads that bypass L1.
#pragma once

#include <cstdint>

#include "bench.cuh"
#include "ptx.cuh"

namespace via::s0 {

inline constexpr std::uint32_t kFillFactor = 2654435761u;
inline constexpr std::uint32_t kFillOffset = 12345u;
inline constexpr int kConsumerThreads = 256;
inline constexpr int kRingThreads = kConsumerThreads + 32;
inline constexpr int kMaxStages = 64;

struct StreamArgs {
  const unsigned char* source;
  std::uint32_t chunk_bytes;  // also one stage of the ring
  std::uint32_t num_chunks;   // in the source
  std::uint32_t per_cta;      // chunks that one reader takes
  std::uint32_t step_n, step_b;
  int stages;
  bool read_all;        // false: consumers touch one 16-byte vector per thread
  std::uint32_t* sums;  // [gridDim.x] sum of the words read
};

// The chunks of one reader, in order. step_n < num_chunks.
class ChunkWalk {
 public:
  __host__ __device__ __forceinline__ ChunkWalk(const StreamArgs& args, std::uint32_t reader)
      : args_(args), index_(reader * args.step_b % args.num_chunks) {}
  __host__ __device__ __forceinline__ std::uint32_t next() {
    const std::uint32_t current = index_;
    index_ += args_.step_n;
    if (index_ >= args_.num_chunks) index_ -= args_.num_chunks;
    return current;
  }

 private:
  const StreamArgs& args_;
  std::uint32_t index_;
};

__device__ __forceinline__ std::uint32_t sum_of(uint4 v) { return v.x + v.y + v.z + v.w; }

// Block sum by one atomic per warp; sums start at zero.
__device__ __forceinline__ void add_to_sum(std::uint32_t* sum, std::uint32_t value) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  if (threadIdx.x % 32 == 0) atomicAdd(sum, value);
}

static __global__ void fill_kernel(std::uint32_t* words, std::size_t count) {
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    words[i] = static_cast<std::uint32_t>(i) * kFillFactor + kFillOffset;
  }
}

// Expected sum of the words of one chunk, mod 2^32.
inline std::uint32_t chunk_sum(std::uint32_t chunk, std::uint32_t chunk_bytes) {
  const std::uint64_t count = chunk_bytes / 4;
  const std::uint64_t first = chunk * count;
  const std::uint64_t index_sum = count * first + count * (count - 1) / 2;
  return static_cast<std::uint32_t>(index_sum * kFillFactor + count * kFillOffset);
}

inline void check_sums(const StreamArgs& args, const Buffer<std::uint32_t>& sums,
                       const std::string& parameters, int grid, int cluster = 1) {
  const std::vector<std::uint32_t> host = sums.copy();
  for (int b = 0; b < grid; ++b) {
    std::uint32_t expected = 0;
    ChunkWalk walk(args, static_cast<std::uint32_t>(b / cluster));
    for (std::uint32_t n = 0; n < args.per_cta; ++n) {
      expected += chunk_sum(walk.next(), args.chunk_bytes);
    }
    if (host[b] != expected) fail(parameters, "wrong sum in CTA " + std::to_string(b));
  }
}

template <int kCluster>
__global__ void __launch_bounds__(kRingThreads, 1) ring_kernel(const StreamArgs args) {
#if S0_HAS_BULK
  extern __shared__ __align__(1024) unsigned char ring[];
  __shared__ Mbar full[kMaxStages], empty[kMaxStages];
  constexpr unsigned kConsumerWarps = kConsumerThreads / 32;
  if (threadIdx.x == 0) {
    for (int s = 0; s < args.stages; ++s) {
      prim::mbar_init(&full[s], 1);
      prim::mbar_init(&empty[s], kConsumerWarps * kCluster);
    }
    prim::mbar_fence_init();
  }
  __syncthreads();
  unsigned rank = 0;
  if constexpr (kCluster > 1) {
    rank = cluster_rank();
    cluster_sync();  // the peer's barriers exist
  }
  std::uint32_t sum = 0;
  if (threadIdx.x >= kConsumerThreads) {
    if (threadIdx.x == kConsumerThreads) {
      int stage = 0;
      unsigned parity = 1;  // the first round finds every stage free
      ChunkWalk walk(args, blockIdx.x / kCluster);
      for (std::uint32_t n = 0; n < args.per_cta; ++n) {
        const unsigned char* source =
            args.source + static_cast<std::size_t>(walk.next()) * args.chunk_bytes;
        unsigned char* target = ring + static_cast<std::size_t>(stage) * args.chunk_bytes;
        mbar_wait(&empty[stage], parity);
        prim::mbar_arrive_tx(&full[stage], args.chunk_bytes);
        if constexpr (kCluster == 1) {
          prim::bulk_load(target, source, args.chunk_bytes, &full[stage]);
        } else {
          const std::uint32_t part = args.chunk_bytes / kCluster;
          bulk_load_multicast(target + rank * part, source + rank * part, part, &full[stage],
                              static_cast<std::uint16_t>((1u << kCluster) - 1u));
        }
        if (++stage == args.stages) {
          stage = 0;
          parity ^= 1u;
        }
      }
    }
  } else {
    int stage = 0;
    unsigned parity = 0;
    const std::uint32_t bytes = args.read_all ? args.chunk_bytes : kConsumerThreads * 16u;
    for (std::uint32_t n = 0; n < args.per_cta; ++n) {
      mbar_wait(&full[stage], parity);
      const unsigned char* chunk = ring + static_cast<std::size_t>(stage) * args.chunk_bytes;
#pragma unroll 4
      for (std::uint32_t at = threadIdx.x * 16u; at < bytes; at += kConsumerThreads * 16u) {
        sum += sum_of(*reinterpret_cast<const uint4*>(chunk + at));
      }
      __syncwarp();
      if constexpr (kCluster == 1) {
        if (threadIdx.x % 32 == 0) prim::mbar_arrive(&empty[stage]);
      } else {
        if (threadIdx.x % 32 < kCluster) mbar_arrive_at(&empty[stage], threadIdx.x % 32);
      }
      if (++stage == args.stages) {
        stage = 0;
        parity ^= 1u;
      }
    }
    add_to_sum(&args.sums[blockIdx.x], sum);
  }
  if constexpr (kCluster > 1) {
    __syncwarp();
    cluster_sync();  // no CTA leaves while its peer can still arrive at its barriers
  }
#endif
}

// kVectors loads in flight per thread; a chunk is one block-wide round of them.
template <int kVectors, int kCtasPerSm>
__global__ void __launch_bounds__(kConsumerThreads, kCtasPerSm)
    plain_kernel(const StreamArgs args) {
  std::uint32_t sum = 0;
  ChunkWalk walk(args, blockIdx.x);
  for (std::uint32_t n = 0; n < args.per_cta; ++n) {
    const unsigned char* chunk =
        args.source + static_cast<std::size_t>(walk.next()) * args.chunk_bytes;
    uint4 data[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      data[i] = prim::load_stream16(chunk + (threadIdx.x + i * kConsumerThreads) * 16);
    }
#pragma unroll
    for (int i = 0; i < kVectors; ++i) sum += sum_of(data[i]);
  }
  add_to_sum(&args.sums[blockIdx.x], sum);
}

}  // namespace via::s0
