// SPDX-License-Identifier: Apache-2.0
// Arithmetic, bit and load/store intrinsics under their CUDA names. The approximate ones (__expf)
// are exact here: results are compared with tolerances, never bit by bit with a GPU. Included by
// simt.h.
#pragma once

using std::max;
using std::min;

namespace via::simt {
template <typename To, typename From>
inline To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To out;
  __builtin_memcpy(&out, &value, sizeof(To));
  return out;
}
}  // namespace via::simt

inline float __expf(float x) { return expf(x); }
inline float __exp2f(float x) { return exp2f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }

inline float __double2float_rn(double x) { return static_cast<float>(x); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline double __uint2double_rn(unsigned x) { return x; }
inline double __int2double_rn(int x) { return x; }
inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline int __float_as_int(float x) { return via::simt::bits_as<int>(x); }
inline unsigned __float_as_uint(float x) { return via::simt::bits_as<unsigned>(x); }
inline float __int_as_float(int x) { return via::simt::bits_as<float>(x); }
inline float __uint_as_float(unsigned x) { return via::simt::bits_as<float>(x); }
inline long long __double_as_longlong(double x) { return via::simt::bits_as<long long>(x); }
inline double __longlong_as_double(long long x) { return via::simt::bits_as<double>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x != 0 ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) {
  return x != 0 ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1u) << (31 - bit);
  return reversed;
}
inline unsigned long long __brevll(unsigned long long x) {
  const unsigned long long high = __brev(static_cast<unsigned>(x));
  return high << 32 | __brev(static_cast<unsigned>(x >> 32));
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
// The low / high word of (high:low) shifted by `shift` modulo 32.
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  const unsigned long long both = static_cast<unsigned long long>(high) << 32 | low;
  return static_cast<unsigned>(both >> (shift & 31u));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  const unsigned long long both = static_cast<unsigned long long>(high) << 32 | low;
  return static_cast<unsigned>(both << (shift & 31u) >> 32);
}
// Byte i of the result is byte (selector >> 4 i) & 7 of y:x, or its sign where bit 3 is set.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const unsigned long long both = static_cast<unsigned long long>(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned choice = selector >> (4 * i) & 15u;
    unsigned byte = static_cast<unsigned>(both >> (8 * (choice & 7u))) & 255u;
    if ((choice & 8u) != 0) byte = (byte & 128u) != 0 ? 255u : 0u;
    result |= byte << (8 * i);
  }
  return result;
}

// Cache hints: scalars and vector types alike.
#define VIA_LOAD(name)              \
  template <typename T>             \
  inline T name(const T* pointer) { \
    return *pointer;                \
  }
VIA_LOAD(__ldg)
VIA_LOAD(__ldca)
VIA_LOAD(__ldcg)
VIA_LOAD(__ldcs)
VIA_LOAD(__ldlu)
#undef VIA_LOAD
#define VIA_STORE(name)                                      \
  template <typename T>                                      \
  inline void name(T* pointer, via::simt::SameAs<T> value) { \
    *pointer = value;                                        \
  }
VIA_STORE(__stwb)
VIA_STORE(__stcg)
VIA_STORE(__stcs)
VIA_STORE(__stwt)
#undef VIA_STORE

// Device-only functions of cuda_bf16.h.
inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) {
  return __float2bfloat16_rn(fmaf(__bfloat162float(a), __bfloat162float(b), __bfloat162float(c)));
}
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
  __nv_bfloat162 result;
  result.x = __hfma(a.x, b.x, c.x);
  result.y = __hfma(a.y, b.y, c.y);
  return result;
}
