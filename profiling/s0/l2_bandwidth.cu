// SPDX-License-Identifier: Apache-2.0
// Bandwidth from L2 to the SMs.
//
// What: GB/s delivered into shared memory by bulk copies (ring of 128 KB, stages of 16 KB) when the
// source stays in L2. "partition": each chunk of 16 to 40 MB goes to one SM at a time, as weights
// do. "broadcast": every SM reads the same 0.5 or 2 MB in the same order, as activations do.
// "multicast": broadcast in clusters of two, each CTA fetching half for both; delivered bytes count
// twice, so the figure compares with broadcast. Plain loads past L1 as a second opinion.
// How: one untimed pass reads and checks every word and warms L2; timed passes touch one vector per
// thread and stage, so that shared-memory reads are no limit. Median of five launches.
// Informs: the k-split S of each GEMM for M >= 32 tokens, and whether 2-CTA multicast is worth it.
#include "ring.cuh"

namespace via::s0 {
namespace {

constexpr int kRepeats = 5;
constexpr int kRingBytes = 128 * 1024;
constexpr std::uint32_t kStageBytes = 16 * 1024;
constexpr std::uint64_t kBytesPerSm = 24u << 20;  // delivered in one launch

struct Pattern {
  const char* name;
  int kilobytes;
  bool same_for_all;
  int cluster;
};

template <int kCluster>
cudaError_t launch_ring(const StreamArgs& args, int grid) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(kRingThreads);
  config.dynamicSmemBytes = kRingBytes;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = kCluster;
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  config.attrs = &attribute;
  config.numAttrs = kCluster > 1 ? 1 : 0;
  return cudaLaunchKernelEx(&config, ring_kernel<kCluster>, args);
}

StreamArgs pattern_args(const Pattern& pattern, const unsigned char* source, int readers,
                        std::uint32_t chunk_bytes) {
  StreamArgs args{};
  args.source = source;
  args.chunk_bytes = chunk_bytes;
  args.num_chunks = static_cast<std::uint32_t>(pattern.kilobytes) * 1024u / chunk_bytes;
  args.per_cta = static_cast<std::uint32_t>(kBytesPerSm / chunk_bytes);
  // More readers than chunks never happens: the smallest partition is 16 MB.
  args.step_n = pattern.same_for_all ? 1 : static_cast<std::uint32_t>(readers) % args.num_chunks;
  args.step_b = pattern.same_for_all ? 0 : 1;
  args.stages = kRingBytes / static_cast<int>(kStageBytes);
  return args;
}

// GB/s that `grid` CTAs receive; each gets per_cta chunks.
double delivered(const StreamArgs& args, int grid, double ms) {
  return static_cast<double>(args.chunk_bytes) * args.per_cta * grid / ms * 1e-6;
}

template <int kCluster>
void bench_bulk(const Session& session, const Pattern& pattern, const unsigned char* source,
                Buffer<std::uint32_t>& sums) {
  if (session.out_of_time()) return;
  S0_CHECK(cudaFuncSetAttribute(ring_kernel<kCluster>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                kRingBytes));
  const int grid = session.num_sms() / kCluster * kCluster;
  StreamArgs args = pattern_args(pattern, source, grid / kCluster, kStageBytes);
  args.sums = sums.get();
  args.read_all = true;
  const std::string p = params("method", "bulk", "pattern", pattern.name, "kilobytes",
                               pattern.kilobytes, "ctas", grid, "cluster", kCluster);
  sums.zero();
  const cudaError_t launched = launch_ring<kCluster>(args, grid);
  if (kCluster > 1 && launched != cudaSuccess) {
    cudaGetLastError();
    print_row(p, 0.0, "", "skipped",
              std::string("launch refused: ") + cudaGetErrorString(launched));
    return;
  }
  S0_CHECK(launched);
  check_sums(args, sums, p, grid, kCluster);
  args.read_all = false;
  const auto launch = [&] { S0_CHECK(launch_ring<kCluster>(args, grid)); };
  print_row(p, delivered(args, grid, median_ms(launch, kRepeats)), "GB/s");
}

void bench_loads(const Session& session, const Pattern& pattern, const unsigned char* source,
                 Buffer<std::uint32_t>& sums) {
  if (session.out_of_time()) return;
  constexpr int kVectors = 4, kCtasPerSm = 4;
  const int grid = session.num_sms() * kCtasPerSm;
  StreamArgs args = pattern_args(pattern, source, grid, kVectors * kConsumerThreads * 16u);
  args.per_cta /= kCtasPerSm;
  args.sums = sums.get();
  const auto launch = [&] { plain_kernel<kVectors, kCtasPerSm><<<grid, kConsumerThreads>>>(args); };
  const std::string p = params("method", "loads", "pattern", pattern.name, "kilobytes",
                               pattern.kilobytes, "ctas_per_sm", kCtasPerSm);
  sums.zero();
  launch();
  S0_CHECK(cudaGetLastError());
  check_sums(args, sums, p, grid);
  print_row(p, delivered(args, grid, median_ms(launch, kRepeats)), "GB/s");
}

void run(const Session& session) {
  const Pattern patterns[] = {
      {"partition", 16 * 1024, false, 1}, {"partition", 24 * 1024, false, 1},
      {"partition", 32 * 1024, false, 1}, {"partition", 40 * 1024, false, 1},
      {"broadcast", 512, true, 1},        {"broadcast", 2 * 1024, true, 1},
      {"multicast", 512, true, 2},        {"multicast", 2 * 1024, true, 2},
      {"multicast", 32 * 1024, false, 2},
  };
  const std::size_t bytes = std::size_t{40} << 20;
  Buffer<unsigned char> source(bytes);
  fill_kernel<<<session.num_sms() * 8, 256>>>(reinterpret_cast<std::uint32_t*>(source.get()),
                                              bytes / 4);
  S0_CHECK(cudaDeviceSynchronize());
  Buffer<std::uint32_t> sums(session.num_sms() * 4);
  const bool bulk = session.is_at_least(9) && session.max_smem() >= kRingBytes + 2048;
  if (!bulk) {
    print_row(params("method", "bulk"), 0.0, "", "skipped",
              "needs compute 9.0 and 130 KB of shared memory");
  }
  print_row(params("property", "l2_bytes"), session.properties.l2CacheSize, "bytes");
  for (const Pattern& pattern : patterns) {
    if (bulk && pattern.cluster == 1) bench_bulk<1>(session, pattern, source.get(), sums);
    if (bulk && pattern.cluster == 2) bench_bulk<2>(session, pattern, source.get(), sums);
    if (pattern.cluster == 1) bench_loads(session, pattern, source.get(), sums);
  }
}

}  // namespace
}  // namespace via::s0

int main(int argc, char** argv) {
  via::s0::run(via::s0::Session("l2_bandwidth", argc, argv));
  return 0;
}
