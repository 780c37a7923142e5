// SPDX-License-Identifier: Apache-2.0
// Barriers, fences, shuffles, votes and warp reductions under their CUDA names. Included by simt.h.
#pragma once

inline void __syncthreads(VIA_SITE_ARG) {
  via::simt::barrier(0, -1, via::simt::Vote::kNone, 0, VIA_SITE);
}
inline int __syncthreads_count(int predicate, VIA_SITE_ARG) {
  return via::simt::barrier(0, -1, via::simt::Vote::kCount, predicate, VIA_SITE);
}
inline int __syncthreads_and(int predicate, VIA_SITE_ARG) {
  return via::simt::barrier(0, -1, via::simt::Vote::kAnd, predicate, VIA_SITE);
}
inline int __syncthreads_or(int predicate, VIA_SITE_ARG) {
  return via::simt::barrier(0, -1, via::simt::Vote::kOr, predicate, VIA_SITE);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, VIA_SITE_ARG) {
  via::simt::sync_warp(mask, VIA_SITE);
}
inline void __threadfence() { via::simt::fence(via::simt::Scope::kDevice); }
inline void __threadfence_block() { via::simt::fence(via::simt::Scope::kBlock); }
inline void __nanosleep(unsigned, VIA_SITE_ARG) { via::simt::yield_spin(VIA_SITE); }

namespace via::simt {

template <typename T>
struct ShuffleArgument {
  T in, out;
  int source;
  bool in_segment;
};

template <typename T>
T shuffle(unsigned mask, T value, int source, bool in_segment, const char* name, Site site) {
  static_assert(std::is_arithmetic_v<T> || sizeof(T) <= 4, "shuffle of this type");
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "shuffle of this type");
  ShuffleArgument<T> argument{value, value, source, in_segment};
  const Collective exchange = [](unsigned active, void* const* arguments) {
    for (int lane = 0; lane < 32; ++lane) {
      if (arguments[lane] == nullptr || !(active >> lane & 1u)) continue;
      auto* own = static_cast<ShuffleArgument<T>*>(arguments[lane]);
      if (!own->in_segment) continue;  // keeps its own value
      const auto* other = static_cast<const ShuffleArgument<T>*>(arguments[own->source]);
      if (other == nullptr) {
        // The device leaves this undefined: a value that no test expects.
        std::memset(static_cast<void*>(&own->out), 0xff, sizeof(T));
      } else {
        own->out = other->in;
      }
    }
  };
  collective({exchange, mask, &argument, false, name}, site);
  return argument.out;
}

template <typename T, typename Operation>
T warp_reduce(unsigned mask, T value, const char* name, Site site) {
  struct Argument {
    T in, out;
  } argument{value, value};
  const Collective reduce = [](unsigned active, void* const* arguments) {
    bool first = true;
    T result{};
    for (int lane = 0; lane < 32; ++lane) {
      if (arguments[lane] == nullptr || !(active >> lane & 1u)) continue;
      const T in = static_cast<Argument*>(arguments[lane])->in;
      result = first ? in : Operation{}(result, in);
      first = false;
    }
    for (int lane = 0; lane < 32; ++lane) {
      if (arguments[lane] != nullptr) static_cast<Argument*>(arguments[lane])->out = result;
    }
  };
  collective({reduce, mask, &argument, false, name}, site);
  return argument.out;
}

struct Min {
  template <typename T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct Max {
  template <typename T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

}  // namespace via::simt

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, VIA_SITE_ARG) {
  const int first = static_cast<int>(via::simt::current->lane) & ~(width - 1);
  return via::simt::shuffle(mask, value, first + (source & (width - 1)), true, "__shfl_sync",
                            VIA_SITE);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, VIA_SITE_ARG) {
  const int lane = static_cast<int>(via::simt::current->lane), source = lane ^ lane_mask;
  const bool in_segment = source < (lane & ~(width - 1)) + width && source < 32;
  return via::simt::shuffle(mask, value, source & 31, in_segment, "__shfl_xor_sync", VIA_SITE);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, VIA_SITE_ARG) {
  const int lane = static_cast<int>(via::simt::current->lane);
  const int source = lane + static_cast<int>(delta);
  const bool in_segment = source < (lane & ~(width - 1)) + width;
  return via::simt::shuffle(mask, value, source & 31, in_segment, "__shfl_down_sync", VIA_SITE);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, VIA_SITE_ARG) {
  const int lane = static_cast<int>(via::simt::current->lane);
  const int source = lane - static_cast<int>(delta);
  const bool in_segment = source >= (lane & ~(width - 1));
  return via::simt::shuffle(mask, value, source & 31, in_segment, "__shfl_up_sync", VIA_SITE);
}

// As on the device: 32-bit integers only.
#define VIA_WARP_REDUCE(name, Type, Operation)                                    \
  inline Type name(unsigned mask, Type value, VIA_SITE_ARG) {                     \
    return via::simt::warp_reduce<Type, Operation>(mask, value, #name, VIA_SITE); \
  }
VIA_WARP_REDUCE(__reduce_add_sync, unsigned, std::plus<unsigned>)
VIA_WARP_REDUCE(__reduce_add_sync, int, std::plus<int>)
VIA_WARP_REDUCE(__reduce_min_sync, unsigned, via::simt::Min)
VIA_WARP_REDUCE(__reduce_min_sync, int, via::simt::Min)
VIA_WARP_REDUCE(__reduce_max_sync, unsigned, via::simt::Max)
VIA_WARP_REDUCE(__reduce_max_sync, int, via::simt::Max)
VIA_WARP_REDUCE(__reduce_and_sync, unsigned, std::bit_and<unsigned>)
VIA_WARP_REDUCE(__reduce_or_sync, unsigned, std::bit_or<unsigned>)
VIA_WARP_REDUCE(__reduce_xor_sync, unsigned, std::bit_xor<unsigned>)
#undef VIA_WARP_REDUCE

inline unsigned __ballot_sync(unsigned mask, int predicate, VIA_SITE_ARG) {
  const unsigned bit = predicate != 0 ? 1u << via::simt::current->lane : 0u;
  return via::simt::warp_reduce<unsigned, std::bit_or<unsigned>>(mask, bit, "__ballot_sync",
                                                                 VIA_SITE);
}
inline int __any_sync(unsigned mask, int predicate, VIA_SITE_ARG) {
  return static_cast<int>(via::simt::warp_reduce<unsigned, std::bit_or<unsigned>>(
      mask, predicate != 0, "__any_sync", VIA_SITE));
}
inline int __all_sync(unsigned mask, int predicate, VIA_SITE_ARG) {
  return static_cast<int>(via::simt::warp_reduce<unsigned, std::bit_and<unsigned>>(
      mask, predicate != 0, "__all_sync", VIA_SITE));
}

namespace cooperative_groups {
struct grid_group {
  void sync(VIA_SITE_ARG) const { via::simt::sync_grid(VIA_SITE); }
};
inline grid_group this_grid() { return {}; }
}  // namespace cooperative_groups
