// SPDX-License-Identifier: Apache-2.0
// Launching persistent kernels: presets, shared memory. Compiled by nvcc for the GPU and by the
// host compiler for the simulation.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "persistent/pass_kernel.cuh"

namespace via::persistent {

// Sizes of the block and the shared memory of the devices that they are for.
template <class T, std::size_t kOptInOf>
struct Preset {
  using Tuning = T;
  static constexpr std::size_t kOptIn = kOptInOf;
};

// visit(Preset) for a device whose blocks may have `opt_in` bytes of shared memory.
template <int kHeadDim, typename Visit>
auto with_preset_of(std::size_t opt_in, Visit visit) {
  if (opt_in >= kLargeBytes) return visit(Preset<Large<kHeadDim>, kLargeBytes>{});
  if (opt_in >= kMediumBytes) return visit(Preset<Medium<kHeadDim>, kMediumBytes>{});
  if (opt_in >= kSmallBytes) return visit(Preset<Small<kHeadDim>, kSmallBytes>{});
  throw std::runtime_error(
      "PersistentEngine: the device must allow 99 KiB of shared memory a block, got " +
      std::to_string(opt_in) + " bytes");
}
template <typename Visit>
auto with_preset(const ModelShape& shape, std::size_t opt_in, Visit visit) {
  return shape.head_dim == 64 ? with_preset_of<64>(opt_in, visit)
                              : with_preset_of<128>(opt_in, visit);
}

// Dynamic shared memory of a block; the slab's norm weights have a fixed place in scratch.
template <class T>
std::size_t launch_bytes(const ModelShape& shape, int grid) {
  const int rows = most_hidden_rows(shape.hidden_size, grid);
  if (rows > T::kVectorFloats) {
    throw std::runtime_error("PersistentEngine: grid must leave a block at most " +
                             std::to_string(T::kVectorFloats) + " hidden elements, got " +
                             std::to_string(rows));
  }
  return T::dynamic_bytes(rows);
}

template <class P>
void launch_pass(const ModelArgs& model, PassKind pass, const PassInput& input, int grid,
                 prim::Stream stream) {
  using T = typename P::Tuning;
  LAUNCH_COOP((pass_kernel<T, P::kOptIn>), static_cast<unsigned>(grid), kThreads,
              launch_bytes<T>(model.shape, grid), stream, model, pass, input);
}

}  // namespace via::persistent
