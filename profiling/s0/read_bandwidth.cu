// SPDX-License-Identifier: Apache-2.0
// Read bandwidth of device memory against the bytes in flight.
//
// What: GB/s of a 2 GiB read by all SMs, one CTA each, through a ring of bulk copies (32 to 192 KB
// of shared memory, stages of 4 to 32 KB); by plain 16-byte loads with 1 to 6 CTAs per SM; and of a
// copy (read + write) as a second ceiling.
// How: consecutive CTAs read consecutive chunks, every word is summed and compared with the closed
// form; median of five launches, CUDA events.
// Informs: size of the weight ring and of its stages, whether bulk copies pay, and the ceiling that
// every floor in the design is computed from.
#include "ring.cuh"

namespace via::s0 {
namespace {

constexpr int kRepeats = 5;

__global__ void __launch_bounds__(512)
    copy_kernel(const uint4* source, uint4* target, std::size_t count) {
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    target[i] = prim::load_stream16(source + i);
  }
}

// A grid of `readers` covers the buffer once, as far as it divides evenly.
StreamArgs stream_args(const unsigned char* source, std::size_t bytes, std::uint32_t chunk_bytes,
                       int readers) {
  StreamArgs args{};
  args.source = source;
  args.chunk_bytes = chunk_bytes;
  args.num_chunks = static_cast<std::uint32_t>(bytes / chunk_bytes);
  args.per_cta = args.num_chunks / readers;
  args.step_n = static_cast<std::uint32_t>(readers);
  args.step_b = 1;
  args.read_all = true;
  return args;
}

double gigabytes_per_s(const StreamArgs& args, int readers, double ms) {
  return static_cast<double>(args.chunk_bytes) * args.per_cta * readers / ms * 1e-6;
}

void bench_ring(const Session& session, const unsigned char* source, std::size_t bytes,
                Buffer<std::uint32_t>& sums) {
  const int grid = session.num_sms();
  for (const int ring_kb : {32, 64, 96, 128, 160, 192}) {
    // Barriers of the kernel and one KB of the system share the limit.
    if (ring_kb * 1024 + 2048 > session.max_smem()) continue;
    S0_CHECK(cudaFuncSetAttribute(ring_kernel<1>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  ring_kb * 1024));
    for (const int stage_kb : {4, 8, 16, 32}) {
      if (ring_kb / stage_kb < 2 || session.out_of_time()) continue;
      StreamArgs args = stream_args(source, bytes, stage_kb * 1024u, grid);
      args.stages = ring_kb / stage_kb;
      args.sums = sums.get();
      const auto launch = [&] { ring_kernel<1><<<grid, kRingThreads, ring_kb * 1024>>>(args); };
      const std::string p =
          params("method", "bulk", "ring_kb", ring_kb, "stage_kb", stage_kb, "ctas_per_sm", 1);
      sums.zero();
      launch();
      S0_CHECK(cudaGetLastError());
      check_sums(args, sums, p, grid);
      print_row(p, gigabytes_per_s(args, grid, median_ms(launch, kRepeats)), "GB/s");
    }
  }
}

template <int kVectors, int kCtasPerSm>
void bench_plain(const Session& session, const unsigned char* source, std::size_t bytes,
                 Buffer<std::uint32_t>& sums) {
  if (session.out_of_time()) return;
  const int grid = session.num_sms() * kCtasPerSm;
  StreamArgs args = stream_args(source, bytes, kVectors * kConsumerThreads * 16u, grid);
  args.sums = sums.get();
  const auto launch = [&] { plain_kernel<kVectors, kCtasPerSm><<<grid, kConsumerThreads>>>(args); };
  const std::string p =
      params("method", "loads", "ctas_per_sm", kCtasPerSm, "bytes_per_thread", kVectors * 16);
  sums.zero();
  launch();
  S0_CHECK(cudaGetLastError());
  check_sums(args, sums, p, grid);
  print_row(p, gigabytes_per_s(args, grid, median_ms(launch, kRepeats)), "GB/s");
}

void bench_copy(const Session& session, const unsigned char* source, std::size_t bytes) {
  const std::size_t half = bytes / 2;
  Buffer<unsigned char> target(half);
  auto* from = reinterpret_cast<const uint4*>(source);
  auto* to = reinterpret_cast<uint4*>(target.get());
  const auto launch = [&] {
    copy_kernel<<<session.num_sms() * 4, 512>>>(from, to, half / sizeof(uint4));
  };
  const std::string p = params("method", "copy", "counts", "read and write");
  const double ms = median_ms(launch, kRepeats);
  const std::vector<unsigned char> copied = target.copy();
  for (std::size_t word = 0; word < half / 4; word += 1021) {
    std::uint32_t value;
    __builtin_memcpy(&value, copied.data() + word * 4, 4);
    if (value != static_cast<std::uint32_t>(word) * kFillFactor + kFillOffset) {
      fail(p, "word " + std::to_string(word) + " is wrong");
    }
  }
  print_row(p, 2.0 * static_cast<double>(half) / ms * 1e-6, "GB/s");
  const auto driver_copy = [&] {
    S0_CHECK(cudaMemcpyAsync(target.get(), source, half, cudaMemcpyDeviceToDevice));
  };
  print_row(params("method", "cudaMemcpy", "counts", "read and write"),
            2.0 * static_cast<double>(half) / median_ms(driver_copy, kRepeats) * 1e-6, "GB/s");
}

void run(const Session& session) {
  std::size_t free_bytes = 0, total_bytes = 0;
  S0_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  const std::size_t bytes = std::size_t{2} << 30;
  if (free_bytes < 2 * bytes) skip("needs 4 GiB of free device memory");
  Buffer<unsigned char> source(bytes);
  fill_kernel<<<session.num_sms() * 8, 256>>>(reinterpret_cast<std::uint32_t*>(source.get()),
                                              bytes / 4);
  S0_CHECK(cudaDeviceSynchronize());
  Buffer<std::uint32_t> sums(session.num_sms() * 8);
  if (session.is_at_least(9)) {
    bench_ring(session, source.get(), bytes, sums);
  } else {
    print_row(params("method", "bulk"), 0.0, "", "skipped", "bulk copies need compute 9.0");
  }
  bench_plain<8, 1>(session, source.get(), bytes, sums);
  bench_plain<8, 2>(session, source.get(), bytes, sums);
  bench_plain<8, 4>(session, source.get(), bytes, sums);
  bench_plain<4, 4>(session, source.get(), bytes, sums);
  bench_plain<4, 6>(session, source.get(), bytes, sums);
  bench_plain<2, 6>(session, source.get(), bytes, sums);
  if (!session.out_of_time()) bench_copy(session, source.get(), bytes);
}

}  // namespace
}  // namespace via::s0

int main(int argc, char** argv) {
  via::s0::run(via::s0::Session("read_bandwidth", argc, argv));
  return 0;
}
