// SPDX-License-Identifier: Apache-2.0
// The primitives of device/prim.cuh in the simulation: same names, same meaning; prim.cuh says what
// each does. Included by prim.cuh where the compiler is not nvcc.
#pragma once

#include "simt.h"

// An own heap block per array and resident block: exact red zones under AddressSanitizer.
#define SMEM(type, name, dims)                                  \
  typedef type name##_shared_type dims;                         \
  static const char name##_shared_key = 0;                      \
  name##_shared_type& name = *static_cast<name##_shared_type*>( \
      ::via::simt::static_shared(&name##_shared_key, sizeof(name##_shared_type)))
#define DYN_SMEM(name) \
  unsigned char* name = static_cast<unsigned char*>(::via::simt::dynamic_shared())
#define VIA_SIMT_LAUNCH(kernel, grid, block, smem, stream, coop, ...)                            \
  ((void)(stream),                                                                               \
   ::via::simt::launch({dim3(grid), dim3(block), static_cast<std::size_t>(smem), coop, #kernel}, \
                       [&] { kernel(__VA_ARGS__); }))
#define LAUNCH(kernel, grid, block, smem, stream, ...) \
  VIA_SIMT_LAUNCH(kernel, grid, block, smem, stream, false, __VA_ARGS__)
#define LAUNCH_COOP(kernel, grid, block, smem, stream, ...) \
  VIA_SIMT_LAUNCH(kernel, grid, block, smem, stream, true, __VA_ARGS__)

namespace via::prim {

using Stream = void*;

inline void cp_async16(void* shared, const void* global, VIA_SITE_ARG) {
  simt::async_copy(shared, global, 16, 16, VIA_SITE);
}
using CachePolicy = std::uint64_t;
inline CachePolicy evict_first() { return 0; }
inline void cp_async16(void* shared, const void* global, CachePolicy, VIA_SITE_ARG) {
  simt::async_copy(shared, global, 16, 16, VIA_SITE);
}
inline void cp_async16_zfill(void* shared, const void* global, bool copy, VIA_SITE_ARG) {
  simt::async_copy(shared, global, 16, copy ? 16 : 0, VIA_SITE);
}
inline void cp_async_commit() { simt::async_commit(); }
template <int kGroupsLeft>
inline void cp_async_wait() {
  simt::async_wait(kGroupsLeft);
}

// What lane l receives of matrix i is given by lanes 8 i + row, where row is l / 4, or, transposed,
// 2 (l % 4) and the next.
template <bool kTransposed>
inline void ldmatrix_warp(std::uint32_t (&out)[4], const void* row, simt::Site site) {
  struct Argument {
    std::uint32_t row[4], out[4];
  } argument;
  if ((reinterpret_cast<std::uintptr_t>(row) & 15u) != 0) {
    simt::fail("misaligned", site, "ldmatrix: row address %p is not 16-byte aligned", row);
  }
  // Every lane reads its own row here, so that the access counts as this lane's.
  for (int i = 0; i < 4; ++i) argument.row[i] = static_cast<const std::uint32_t*>(row)[i];
  const simt::Collective exchange = [](unsigned, void* const* lanes) {
    const auto element = [lanes](int giver, int column) {
      const std::uint32_t pair = static_cast<const Argument*>(lanes[giver])->row[column / 2];
      return column % 2 != 0 ? pair >> 16 : pair & 0xffffu;
    };
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane / 4, pair = lane % 4 * 2;
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t low =
            kTransposed ? element(8 * i + pair, group) : element(8 * i + group, pair);
        const std::uint32_t high =
            kTransposed ? element(8 * i + pair + 1, group) : element(8 * i + group, pair + 1);
        static_cast<Argument*>(lanes[lane])->out[i] = low | high << 16;
      }
    }
  };
  const char* const name = kTransposed ? "ldmatrix.trans" : "ldmatrix";
  simt::collective({exchange, 0xffffffffu, &argument, true, name}, site);
  for (int i = 0; i < 4; ++i) out[i] = argument.out[i];
}
inline void ldmatrix_x4(std::uint32_t (&out)[4], const void* row, VIA_SITE_ARG) {
  ldmatrix_warp<false>(out, row, VIA_SITE);
}
inline void ldmatrix_x4_trans(std::uint32_t (&out)[4], const void* row, VIA_SITE_ARG) {
  ldmatrix_warp<true>(out, row, VIA_SITE);
}

inline float half_to_float(std::uint16_t bits) {
  __half_raw raw;
  raw.x = bits;
  return __half2float(__half(raw));
}
// The low and the high element of a register of two.
struct Bf16Pair {
  static float low(std::uint32_t pair) { return __uint_as_float(pair << 16); }
  static float high(std::uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
};
struct HalfPair {
  static float low(std::uint32_t pair) { return half_to_float(pair & 0xffffu); }
  static float high(std::uint32_t pair) { return half_to_float(pair >> 16); }
};

struct MmaArgument {
  float* c;
  const std::uint32_t *a, *b;
};

// Fragments of mma.m16n8k16 as in the PTX ISA; float32 sums in order of k.
template <typename Pair>
inline void mma_warp(unsigned, void* const* lanes) {
  float a[16][16], b[16][8], c[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& own = *static_cast<const MmaArgument*>(lanes[lane]);
    const int group = lane >> 2, pair = (lane & 3) * 2;
    for (int i = 0; i < 4; ++i) {
      const int row = group + (i & 1) * 8, k = pair + (i >> 1) * 8;
      a[row][k] = Pair::low(own.a[i]);
      a[row][k + 1] = Pair::high(own.a[i]);
      c[group + (i >> 1) * 8][pair + (i & 1)] = own.c[i];
    }
    for (int i = 0; i < 2; ++i) {
      b[pair + i * 8][group] = Pair::low(own.b[i]);
      b[pair + i * 8 + 1][group] = Pair::high(own.b[i]);
    }
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) c[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const auto& own = *static_cast<const MmaArgument*>(lanes[lane]);
    const int group = lane >> 2, pair = (lane & 3) * 2;
    for (int i = 0; i < 4; ++i) own.c[i] = c[group + (i >> 1) * 8][pair + (i & 1)];
  }
}
template <typename Pair>
inline void mma(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                simt::Site site) {
  // Copies: the arguments of a caller may live in memory that the race build watches.
  float sums[4] = {c[0], c[1], c[2], c[3]};
  MmaArgument argument{sums, a, b};
  ++simt::stats.mma;
  simt::collective({mma_warp<Pair>, 0xffffffffu, &argument, true, "mma.m16n8k16"}, site);
  for (int i = 0; i < 4; ++i) c[i] = sums[i];
}
inline void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                     VIA_SITE_ARG) {
  mma<Bf16Pair>(c, a, b, VIA_SITE);
}
inline void mma_f16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                    VIA_SITE_ARG) {
  mma<HalfPair>(c, a, b, VIA_SITE);
}

inline unsigned ld_acquire(const unsigned* pointer, VIA_SITE_ARG) {
  auto* word = const_cast<unsigned*>(pointer);
  simt::atomic_before(word, 4, simt::kAcquire, false, VIA_SITE);
  const unsigned value = simt::unrecorded_load(word);
  simt::atomic_after(word, 4, simt::kAcquire, false);
  return value;
}
inline void st_release(unsigned* pointer, unsigned value, VIA_SITE_ARG) {
  simt::atomic_update(pointer, [value](unsigned) { return value; }, simt::kRelease, VIA_SITE);
}
inline unsigned add_acq_rel(unsigned* pointer, unsigned value, VIA_SITE_ARG) {
  return simt::atomic_update(
      pointer, [value](unsigned old) { return old + value; }, simt::kAcqRel, VIA_SITE);
}
inline void bar_named(int id, int threads, VIA_SITE_ARG) {
  simt::barrier(id, threads, simt::Vote::kNone, 0, VIA_SITE);
}
inline void spin(VIA_SITE_ARG) { simt::yield_spin(VIA_SITE); }
inline unsigned long long global_timer_ns() { return simt::timer_ns(); }
inline void trap(VIA_SITE_ARG) { simt::fail("trap", VIA_SITE, "prim::trap() was called"); }
inline float exp2_approx(float x) { return exp2f(x); }

inline uint4 load_stream16(const void* pointer, VIA_SITE_ARG) {
  if ((reinterpret_cast<std::uintptr_t>(pointer) & 15u) != 0) {
    simt::fail("misaligned", VIA_SITE, "load_stream16: %p is not 16-byte aligned", pointer);
  }
  return *static_cast<const uint4*>(pointer);
}

inline void forget(uint4&) {}

using mbar_t = unsigned long long;
inline void mbar_init(mbar_t* barrier, unsigned arrivals, VIA_SITE_ARG) {
  simt::mbarrier_init(barrier, arrivals, VIA_SITE);
}
inline void mbar_fence_init() { simt::mbarrier_fence_init(); }
inline void mbar_arrive(mbar_t* barrier, VIA_SITE_ARG) {
  simt::mbarrier_arrive(barrier, 0, VIA_SITE);
}
inline void mbar_arrive_tx(mbar_t* barrier, unsigned bytes, VIA_SITE_ARG) {
  simt::mbarrier_arrive(barrier, bytes, VIA_SITE);
}
inline void mbar_wait(mbar_t* barrier, unsigned parity, VIA_SITE_ARG) {
  while (!simt::mbarrier_try_wait(barrier, parity, VIA_SITE)) simt::yield_spin(VIA_SITE);
}
inline void bulk_load(void* shared, const void* global, unsigned bytes, mbar_t* barrier,
                      VIA_SITE_ARG) {
  simt::bulk_copy(shared, global, bytes, barrier, VIA_SITE);
}
inline void fence_proxy_async() { simt::fence_proxy_async(); }

template <typename T>
inline T* carve(unsigned char*& free, std::size_t count) {
  T* part = reinterpret_cast<T*>(free);
  const std::size_t used = count * sizeof(T), padded = (used + 127) & ~std::size_t{127};
  simt::shared_part(free, used, padded - used + simt::kCarveGap);
  free += padded + simt::kCarveGap;
  return part;
}

}  // namespace via::prim
