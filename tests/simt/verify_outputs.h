// SPDX-License-Identifier: Apache-2.0
// verify's outputs in memory that kernels may write, full of values that no call produces, and
// their comparison.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "gpu_or_simt.h"
#include "via/verify.h"

namespace via::testing {

// The outputs of one call.
struct Outputs {
  Outputs(int batch, int nodes, bool with_route)
      : ratios(batch * nodes + 1, 7.0f),
        logprobs(batch * (nodes + 1), 7.0f),
        tiers(batch * nodes + 1, std::uint8_t{77}),
        path(batch * nodes + 1, 77),
        num_accepted(batch, 77),
        next_row(batch, 77),
        status(batch, 77),
        next_token(batch, std::int64_t{77}),
        escalate(batch, false),
        with_route(with_route) {}
  Verification view() {
    Verification out;
    out.ratios = with_route ? ratios.data() : nullptr;
    out.tiers = with_route ? tiers.data() : nullptr;
    out.path = path.data();
    out.num_accepted = num_accepted.data();
    out.next_token = next_token.data();
    out.next_row = next_row.data();
    out.escalate = escalate.data();
    out.logprobs = logprobs.data();
    out.status = status.data();
    return out;
  }
  DeviceBuffer<float> ratios, logprobs;
  DeviceBuffer<std::uint8_t> tiers;
  DeviceBuffer<std::int32_t> path, num_accepted, next_row, status;
  DeviceBuffer<std::int64_t> next_token;
  DeviceBuffer<bool> escalate;
  bool with_route;
};

template <typename T>
bool equal(DeviceBuffer<T>& a, DeviceBuffer<T>& b) {
  return std::equal(a.begin(), a.end(), b.begin());
}
inline bool close(DeviceBuffer<float>& a, DeviceBuffer<float>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    const bool near = std::fabs(a[i] - b[i]) <= 1e-5f * (1.0f + std::fabs(b[i]));
    if (!near && a[i] != b[i]) return false;
  }
  return true;
}

}  // namespace via::testing
