// SPDX-License-Identifier: Apache-2.0
// Atomics under their CUDA names, relaxed as on the device, integers only: a sum of floats in
// arrival order would change from run to run. Included by simt.h.
#pragma once

namespace via::simt {

// Not instrumented: the race build records an atomic access by atomic_before, not here.
#define VIA_UNRECORDED __attribute__((noinline, no_sanitize("thread")))
template <typename T>
VIA_UNRECORDED T unrecorded_load(const T* pointer) {
  return *const_cast<const volatile T*>(pointer);
}
template <typename T>
VIA_UNRECORDED void unrecorded_store(T* pointer, T value) {
  *const_cast<volatile T*>(pointer) = value;
}

template <typename T, typename Update>
T atomic_update(T* pointer, Update update, Order order, Site site) {
  static_assert(std::is_integral_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "atomics on 4 and 8 byte integers only");
  atomic_before(pointer, sizeof(T), order, true, site);
  const T old = unrecorded_load(pointer);
  unrecorded_store(pointer, static_cast<T>(update(old)));
  atomic_after(pointer, sizeof(T), order, true);
  return old;
}

// The value's type follows the pointer's: atomicAdd(counter, 1) as in CUDA.
template <typename T>
struct Same {
  using Type = T;
};
template <typename T>
using SameAs = typename Same<T>::Type;

}  // namespace via::simt

#define VIA_ATOMIC(name, expression)                                                         \
  template <typename T>                                                                      \
  T name(T* pointer, via::simt::SameAs<T> value, VIA_SITE_ARG) {                             \
    return via::simt::atomic_update(                                                         \
        pointer, [value](T old) { return static_cast<T>(expression); }, via::simt::kRelaxed, \
        VIA_SITE);                                                                           \
  }
VIA_ATOMIC(atomicAdd, old + value)
VIA_ATOMIC(atomicSub, old - value)
VIA_ATOMIC(atomicMax, old < value ? value : old)
VIA_ATOMIC(atomicMin, value < old ? value : old)
VIA_ATOMIC(atomicExch, ((void)old, value))
VIA_ATOMIC(atomicAnd, old& value)
VIA_ATOMIC(atomicOr, old | value)
VIA_ATOMIC(atomicXor, old ^ value)
VIA_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
#undef VIA_ATOMIC

template <typename T>
T atomicCAS(T* pointer, via::simt::SameAs<T> expected, via::simt::SameAs<T> value, VIA_SITE_ARG) {
  return via::simt::atomic_update(
      pointer, [=](T old) { return old == expected ? value : old; }, via::simt::kRelaxed, VIA_SITE);
}
