// SPDX-License-Identifier: Apache-2.0
// The products of the persistent kernel with their epilogues, the residual and the weight ring,
// against float64: uneven shares, rows that fill no tile, several sweeps and slots, 1 to 64 live
// tokens of a wider batch, closed gates, two pass ranges in one launch, tied and own embeddings.
// Every bucket of tokens that is wide enough must give the same bits.
// Arguments: number of random cases, seed. Exit status 1 on differences.

#include <cstdlib>

#include "gpu_or_simt.h"
#include "persistent_product_expected.h"

namespace {

using namespace via::testing;

// All blocks of the launch wait here.
VIA_DEVICE void wait_for_all(unsigned* arrivals, unsigned& epoch) {
  __syncthreads();
  ++epoch;
  if (threadIdx.x == 0) {
    via::prim::add_acq_rel(arrivals, 1);
    while (via::prim::ld_acquire(arrivals) < epoch * gridDim.x) via::prim::spin();
  }
  __syncthreads();
}

template <class T>
VIA_DEVICE void list_tokens(Block<T>& block, const PassInput& input) {
  __syncthreads();
  int live = 0;
  for (int b = 0; b < block.model.batch_size; ++b) {
    for (int i = 0; i < input.counts[b]; ++i, ++live) {
      if (threadIdx.x != 0) continue;
      block.shared.rows[live] = b * input.width + i;
      block.shared.batch[live] = b;
      block.shared.token[live] = i;
    }
  }
  block.live_tokens = live;
  __syncthreads();
}

// Phases of the range from `phase_idx` on: the next open one that reads a norm.
VIA_DEVICE std::int64_t find_next_norm(const ModelArgs& model, const PassRange& range,
                                       const Gates& gates, int phase_idx) {
  for (int i = phase_idx; i < range.last; ++i) {
    const Phase& phase = model.phases[i];
    if (gate_is_open(gates, phase.gate) && phase.input_norm >= 0) return phase.input_norm;
  }
  return -1;
}

template <class T, int kTokens>
__global__ void __launch_bounds__(kThreads, 1)
    product_kernel(const __grid_constant__ ModelArgs model, const __grid_constant__ PassInput input,
                   unsigned* arrivals) {
  DYN_SMEM(dynamic);
  // Raw memory: shared memory has no constructors.
  SMEM(uint4, memory, [(sizeof(BlockShared) + sizeof(uint4) - 1) / sizeof(uint4)]);
  BlockShared& shared = *reinterpret_cast<BlockShared*>(&memory);
  Block<T> block = make_block<T>(model, shared, dynamic, static_cast<int>(blockIdx.x),
                                 static_cast<int>(gridDim.x));
  list_tokens(block, input);
  unsigned epoch = 0;
  for (int pass = 0; pass < 2; ++pass) {
    const PassRange& range = model.passes[pass];
    const Gates& gates = model.gates[pass];
    prime_ring(block, range, gates);
    for (int i = range.first; i < range.last; ++i) {
      const Phase phase = model.phases[i];
      if (!gate_is_open(gates, phase.gate)) continue;
      const std::int64_t next_norm = find_next_norm(model, range, gates, i + 1);
      switch (phase.kind) {
        case PhaseKind::kEmbed: run_embed(block, phase, input, next_norm); break;
        case PhaseKind::kLoad: run_load(block, next_norm); break;
        case PhaseKind::kSave: run_save(block, input); break;
        default: run_product<T, kTokens>(block, phase, next_norm); break;
      }
      wait_for_all(arrivals, epoch);
    }
  }
  drain_ring();
}

template <class T, int kTokens>
void launch(ProductCase& product, int grid) {
  product.forget_results();
  const int slab_rows = most_hidden_rows(product.model.shape.hidden_size, grid);
  LAUNCH_COOP((product_kernel<T, kTokens>), grid, kThreads, T::dynamic_bytes(slab_rows), nullptr,
              product.model, product.input, product.arrivals);
  device_sync();
}

// Shared memory that a block may ask for.
int shared_limit() {
#ifdef __CUDACC__
  int bytes = 0;
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
  return bytes;
#else
  return 227 * 1024;
#endif
}

template <class T>
void run_buckets(ProductCase& product, int grid, Checker& checker) {
  const int slab_rows = most_hidden_rows(product.model.shape.hidden_size, grid);
  if (slab_rows > T::most_slab_rows(static_cast<std::size_t>(shared_limit()))) return;
  const int live = static_cast<int>(product.live.size());
  launch<T, kMaxTokens>(product, grid);
  ProductCheck(product, checker).run(grid);
  const auto all = product.results();
  if (live <= 32) {
    launch<T, 32>(product, grid);
    checker.expect(product.results() == all, "32 tokens a tile differ from 64 (%d live)", live);
  }
  if (live <= 16) {
    launch<T, 16>(product, grid);
    checker.expect(product.results() == all, "16 tokens a tile differ from 64 (%d live)", live);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 6;
  const int seed = argc > 2 ? std::atoi(argv[2]) : 1;
  Checker checker;
  for (int i = 0; i < cases; ++i) {
    const int tuning = (seed + i) % 3;
    // The widest sweeps only fill two tiles per warp if few blocks share the rows.
    const int most_blocks = tuning == 2 ? 2 : 7;
    ProductCase product(static_cast<unsigned>(seed * 1000 + i));
    const int grid = product.uniform(1, most_blocks);
    if (tuning == 0) run_buckets<Tuning<64, 32, 3, 2>>(product, grid, checker);
    if (tuning == 1) run_buckets<Tuning<64, 96, 2, 2>>(product, grid, checker);
    if (tuning == 2) run_buckets<Tuning<64, 256, 2, 2>>(product, grid, checker);
  }
  return checker.status();
}
