// SPDX-License-Identifier: Apache-2.0
// golden [folder]: runs every primitive on fixed inputs and writes <name>.bin, to be equal byte by
// byte wherever it runs, and <name>.approx.bin, float64 numbers to be compared with a tolerance
// (profiling/golden_compare.py). Without a folder it only runs.
//   g++ with tests/simt (the simulation), or for a GPU
//   nvcc -x cu -std=c++17 --expt-relaxed-constexpr -Itests/simt -Icsrc -Icsrc/include -arch=sm_90a
// Exit status: 0 written, 2 a CUDA or file error, 86 simulation error.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "golden_math.cuh"
#include "golden_memory.cuh"
#include "gpu_or_simt.h"

namespace via::golden {
namespace {

using testing::DeviceBuffer;

class Folder {
 public:
  explicit Folder(const char* path) : path_(path == nullptr ? "" : path) {}

  template <typename T>
  void exact(const std::string& name, DeviceBuffer<T>& values) const {
    testing::device_sync();
    write(name + ".bin", values.data(), values.size() * sizeof(T));
  }
  template <typename T>
  void approx(const std::string& name, DeviceBuffer<T>& values) const {
    testing::device_sync();
    const std::vector<double> wide(values.begin(), values.end());
    write(name + ".approx.bin", wide.data(), wide.size() * sizeof(double));
  }

 private:
  void write(const std::string& name, const void* bytes, std::size_t size) const {
    if (path_.empty()) return;
    const std::string file_name = path_ + "/" + name;
    std::FILE* file = std::fopen(file_name.c_str(), "wb");
    const bool written = file != nullptr && std::fwrite(bytes, 1, size, file) == size;
    if (file == nullptr || std::fclose(file) != 0 || !written) {
      std::fprintf(stderr, "golden: cannot write %s\n", file_name.c_str());
      std::exit(2);
    }
  }

  std::string path_;
};

bool has_bulk_copies() {
#ifdef __CUDACC__
  int major = 0;
  testing::check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  return major >= 9;
#else
  return true;
#endif
}

void warp_intrinsics(const Folder& folder) {
  DeviceBuffer<std::uint32_t> shuffles(kShuffleCases * kWarpThreads);
  LAUNCH(shuffle_kernel, 1, kWarpThreads, 0, nullptr, shuffles.data());
  folder.exact("shuffle", shuffles);
  DeviceBuffer<std::uint32_t> votes(kVoteCases * kWarpThreads);
  LAUNCH(vote_kernel, 1, kWarpThreads, 0, nullptr, votes.data());
  folder.exact("vote", votes);
  DeviceBuffer<std::uint32_t> reduced(kReduceSyncCases * kWarpThreads);
  LAUNCH(reduce_sync_kernel, 1, kWarpThreads, 0, nullptr, reduced.data());
  folder.exact("reduce_sync", reduced);
  DeviceBuffer<std::uint32_t> bits(kBitCases * 128);
  LAUNCH(bits_kernel, 1, 128, 0, nullptr, bits.data());
  folder.exact("bits", bits);
}

void atomics(const Folder& folder) {
  DeviceBuffer<std::uint32_t> words(kAtomicWords, 0u);
  DeviceBuffer<unsigned long long> wide(2, 0ull);
  DeviceBuffer<int> numbers(2, 0);
  words[3] = words[4] = ~0u;
  words[9] = 1;
  LAUNCH(atomics_kernel, 3, 64, 0, nullptr, words.data(), wide.data(), numbers.data());
  folder.exact("atomics", words);
  folder.exact("atomics_wide", wide);
  folder.exact("atomics_signed", numbers);
}

void copies(const Folder& folder) {
  DeviceBuffer<std::uint32_t> in(kTiles * kTileWords);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = mix(static_cast<std::uint32_t>(i));
  DeviceBuffer<std::uint32_t> copied(2 * kCopyWords);
  LAUNCH(cp_async_kernel, 1, 64, 2 * kCopyWords * 4, nullptr, in.data(), copied.data());
  folder.exact("cp_async", copied);
  if (has_bulk_copies()) {
    DeviceBuffer<std::uint32_t> tiles(kTiles * kTileWords);
    LAUNCH(bulk_kernel, 1, kRingThreads, 2 * kTileWords * 4, nullptr, in.data(), tiles.data());
    folder.exact("bulk_load", tiles);
  }
  constexpr int kVectors = kTiles * kTileWords / 4;
  DeviceBuffer<std::uint32_t> streamed(kTiles * kTileWords);
  LAUNCH(load_stream_kernel, (kVectors + 127) / 128, 128, 0, nullptr,
         reinterpret_cast<const uint4*>(in.data()), reinterpret_cast<uint4*>(streamed.data()),
         kVectors);
  folder.exact("load_stream16", streamed);
}

// Two numbers in one word, with at most eight significant bits.
std::uint32_t bf16_pair(float low, float high) {
  return bits_as<std::uint32_t>(low) >> 16 | (bits_as<std::uint32_t>(high) & 0xffff0000u);
}
std::uint32_t half_pair(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return bits_as<std::uint32_t>(pair);
}

template <bool kHalf>
void products(const Folder& folder, const char* exact_name, const char* random_name) {
  constexpr auto kPair = kHalf ? half_pair : bf16_pair;
  DeviceBuffer<std::uint32_t> a(16 * 8), b(8 * 8);
  DeviceBuffer<float> c(16 * 8), out(16 * 8);
  for (const bool integers : {true, false}) {
    // Integers below 8, or such integers times a power of two between 2^-4 and 2^3.
    const auto number = [integers](std::uint32_t i) {
      const int whole = static_cast<int>(mix(i) % 15) - 7;
      const int shift = integers ? 0 : static_cast<int>(mix(i + 77777) % 8) - 4;
      return std::ldexp(static_cast<float>(whole), shift);
    };
    for (std::uint32_t i = 0; i < a.size(); ++i) a[i] = kPair(number(2 * i), number(2 * i + 1));
    for (std::uint32_t i = 0; i < b.size(); ++i) {
      b[i] = kPair(number(2 * i + 1000), number(2 * i + 1001));
    }
    for (std::uint32_t i = 0; i < c.size(); ++i) {
      c[i] = number(i + 2000) * (integers ? 1.0f : 1.0f / 3.0f);
    }
    LAUNCH(mma_kernel<kHalf>, 1, 32, 0, nullptr, a.data(), b.data(), c.data(), out.data());
    if (integers) {
      folder.exact(exact_name, out);
    } else {
      folder.approx(random_name, out);
    }
  }
}

void tensor_cores(const Folder& folder) {
  DeviceBuffer<std::uint32_t> rows(32 * 4), columns(32 * 4);
  LAUNCH(ldmatrix_kernel<false>, 1, 32, 0, nullptr, rows.data());
  folder.exact("ldmatrix_x4", rows);
  LAUNCH(ldmatrix_kernel<true>, 1, 32, 0, nullptr, columns.data());
  folder.exact("ldmatrix_x4_trans", columns);
  products<false>(folder, "mma_bf16", "mma_bf16_random");
  products<true>(folder, "mma_f16", "mma_f16_random");
}

void blocks(const Folder& folder) {
  constexpr int kBlocks = 6;
  DeviceBuffer<std::uint32_t> rows(kBlocks * kChainThreads, 0u), sums(kChainThreads, 0u);
  DeviceBuffer<unsigned> words(2, 0u);
  LAUNCH_COOP(handoff_kernel, kBlocks, kChainThreads, 0, nullptr, rows.data(), sums.data(),
              words.data(), words.data() + 1);
  folder.exact("acquire_release", rows);
  folder.exact("last_block", sums);
  DeviceBuffer<std::uint32_t> carved(kCarveWords);
  LAUNCH(carve_kernel, 1, 64, 3 * 128, nullptr, carved.data());
  folder.exact("carve", carved);
  DeviceBuffer<std::uint32_t> exchanged(2 * 128);
  LAUNCH(named_barrier_kernel, 1, 128, 0, nullptr, exchanged.data());
  folder.exact("bar_named", exchanged);
  DeviceBuffer<std::uint64_t> reduced(kReduceCases * kReduceThreads);
  LAUNCH(reduce_kernel, 1, kReduceThreads, 0, nullptr, reduced.data());
  folder.exact("block_reduce", reduced);
}

void mathematics(const Folder& folder) {
  DeviceBuffer<std::uint32_t> philox(kPhiloxCount * 4);
  DeviceBuffer<float> uniforms(kPhiloxCount);
  LAUNCH(philox_kernel, 1, kPhiloxCount, 0, nullptr, philox.data(), uniforms.data());
  folder.exact("philox", philox);
  folder.exact("philox_uniform", uniforms);
  DeviceBuffer<std::uint32_t> halves(2 * kPatterns);
  LAUNCH(half_kernel, kPatterns / 512, 256, 0, nullptr, halves.data());
  folder.exact("half", halves);
  DeviceBuffer<float> weights(kExp2Count * 4), powers(kExp2Count * 4);
  LAUNCH(exp2_kernel, kExp2Count / 128, 128, 0, nullptr, weights.data(), powers.data());
  folder.exact("exp2_weights", weights);
  folder.exact("exp2_of", powers);
  DeviceBuffer<std::uint32_t> rules(kRuleCount * kRuleWords);
  LAUNCH(rules_kernel, kRuleCount / 128, 128, 0, nullptr, rules.data());
  folder.exact("rules", rules);
  DeviceBuffer<double> library(kApproxColumns * kRuleCount);
  LAUNCH(approx_kernel, kRuleCount / 128, 128, 0, nullptr, library.data());
  folder.approx("rules_library", library);
  constexpr int kPowers = 1000;
  DeviceBuffer<float> exponents(kPowers), fast(kPowers);
  for (int i = 0; i < kPowers; ++i) exponents[i] = -126.0f + static_cast<float>(i) * 0.146f;
  LAUNCH(exp2_approx_kernel, (kPowers + 127) / 128, 128, 0, nullptr, exponents.data(), fast.data(),
         kPowers);
  folder.approx("exp2_approx", fast);
}

}  // namespace
}  // namespace via::golden

int main(int argc, char** argv) {
  const via::golden::Folder folder(argc > 1 ? argv[1] : nullptr);
  via::golden::warp_intrinsics(folder);
  via::golden::atomics(folder);
  via::golden::copies(folder);
  via::golden::tensor_cores(folder);
  via::golden::blocks(folder);
  via::golden::mathematics(folder);
  return 0;
}
