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
inline void cp_async16_zfill(void* shared, const void* global, bool copy, VIA_SITE_ARG) {
  simt::async_copy(shared, global, 16, copy ? 16 : 0, VIA_SITE);
}
inline void cp_async_commit() { simt::async_commit(); }
template <int kGroupsLeft>
inline void cp_async_wait() {
  simt::async_wait(kGroupsLeft);
}

inline void ldmatrix_x4(std::uint32_t (&out)[4], const void* row, VIA_SITE_ARG) {
  struct Argument {
    std::uint32_t row[4], out[4];
  } argument;
  if ((reinterpret_cast<std::uintptr_t>(row) & 15u) != 0) {
    simt::fail("misaligned", VIA_SITE, "ldmatrix: row address %p is not 16-byte aligned", row);
  }
  // Every lane reads its own row here, so that the access counts as this lane's.
  for (int i = 0; i < 4; ++i) argument.row[i] = static_cast<const std::uint32_t*>(row)[i];
  const simt::Collective transpose = [](unsigned, void* const* lanes) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const auto* giver = static_cast<const Argument*>(lanes[i * 8 + lane / 4]);
        static_cast<Argument*>(lanes[lane])->out[i] = giver->row[lane % 4];
      }
    }
  };
  simt::collective({transpose, 0xffffffffu, &argument, true, "ldmatrix"}, VIA_SITE);
  for (int i = 0; i < 4; ++i) out[i] = argument.out[i];
}

inline float bf16_low(std::uint32_t pair) { return __uint_as_float(pair << 16); }
inline float bf16_high(std::uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

struct MmaArgument {
  float* c;
  const std::uint32_t *a, *b;
};

// Fragments of mma.m16n8k16 as in the PTX ISA; float32 sums in order of k.
inline void mma_warp(unsigned, void* const* lanes) {
  float a[16][16], b[16][8], c[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& own = *static_cast<const MmaArgument*>(lanes[lane]);
    const int group = lane >> 2, pair = (lane & 3) * 2;
    for (int i = 0; i < 4; ++i) {
      const int row = group + (i & 1) * 8, k = pair + (i >> 1) * 8;
      a[row][k] = bf16_low(own.a[i]);
      a[row][k + 1] = bf16_high(own.a[i]);
      c[group + (i >> 1) * 8][pair + (i & 1)] = own.c[i];
    }
    for (int i = 0; i < 2; ++i) {
      b[pair + i * 8][group] = bf16_low(own.b[i]);
      b[pair + i * 8 + 1][group] = bf16_high(own.b[i]);
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
inline void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                     VIA_SITE_ARG) {
  // Copies: the arguments of a caller may live in memory that the race build watches.
  float sums[4] = {c[0], c[1], c[2], c[3]};
  MmaArgument argument{sums, a, b};
  ++simt::stats.mma;
  simt::collective({mma_warp, 0xffffffffu, &argument, true, "mma.m16n8k16"}, VIA_SITE);
  for (int i = 0; i < 4; ++i) c[i] = sums[i];
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
  simt::shared_gap(free + used, padded - used + simt::kCarveGap);
  free += padded + simt::kCarveGap;
  return part;
}

}  // namespace via::prim
