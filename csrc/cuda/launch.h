// SPDX-License-Identifier: Apache-2.0
// What launchers share: dividing the work space, the limit on waiting, whether filters may be on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "via/filter.h"

namespace via::cuda {

inline constexpr unsigned long long kWatchdogNs = 10'000'000'000ull;

inline unsigned long long watchdog_ns() {
  const char* const text = std::getenv("VIA_EXT_WATCHDOG_MS");
  const long long ms = text != nullptr ? std::atoll(text) : 0;
  return ms > 0 ? static_cast<unsigned long long>(ms) * 1'000'000ull : kWatchdogNs;
}

// Whether some row may be drawn from, and whether its filters may take a selection.
inline bool may_draw(const FilterParams& filter) {
  return filter.temperature.data != nullptr || filter.temperature.value > 0.0f;
}
inline bool may_select(const FilterParams& filter, std::int32_t vocab_size) {
  const bool top_k =
      filter.top_k.data != nullptr || (filter.top_k.value > 0 && filter.top_k.value < vocab_size);
  return may_draw(filter) && (top_k || filter.top_p.data != nullptr || filter.top_p.value < 1.0f);
}

// Hands out parts of the work space, or only counts where `base` is null.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}
  template <typename T>
  T* take(std::int64_t count) {
    constexpr std::size_t kAlign = 256;
    T* const part = reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return part;
  }
  std::size_t used() const { return used_; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

}  // namespace via::cuda
