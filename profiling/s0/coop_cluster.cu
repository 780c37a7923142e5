// SPDX-License-Identifier: Apache-2.0
// Cooperative launch and thread block clusters together.
//
// What: number of CTAs (and of different SMs) that run at once when a kernel with 160 KB of shared
// memory, one CTA per SM, is launched with the cooperative attribute, the cluster attribute (2, 4,
// 8), or both; 0 if the runtime refuses. Every launch crosses a grid barrier of its own, so a count
// is also a proof that all its CTAs were resident.
// How: grid = SMs without clusters, else cudaOccupancyMaxActiveClusters x cluster size.
// Informs: whether the single launch may rely on the co-residency check of a cooperative launch and
// still use 2-CTA multicast, and how many SMs a larger cluster costs.
#include <set>

#include "bench.cuh"
#include "ptx.cuh"

namespace via::s0 {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads, 1)
    residency_kernel(unsigned* counter /* [1] */, unsigned* sms /* [gridDim.x] */) {
  if (threadIdx.x == 0) {
    sms[blockIdx.x] = sm_id();
    add_release(counter, 1);
    Watchdog watchdog;
    while (prim::ld_acquire(counter) < gridDim.x) watchdog.poll();
  }
  __syncthreads();
}

void bench(const Session& session, int smem, bool cooperative, int cluster) {
  Buffer<unsigned> counter(1), sms(session.num_sms() * 2);
  cudaLaunchAttribute attributes[2]{};
  unsigned num_attributes = 0;
  if (cluster > 1) {
    attributes[num_attributes].id = cudaLaunchAttributeClusterDimension;
    attributes[num_attributes].val.clusterDim.x = static_cast<unsigned>(cluster);
    attributes[num_attributes].val.clusterDim.y = 1;
    attributes[num_attributes].val.clusterDim.z = 1;
    ++num_attributes;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(session.num_sms());
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = smem;
  config.attrs = attributes;
  config.numAttrs = num_attributes;
  const std::string p = params("cooperative", cooperative ? 1 : 0, "cluster", cluster);
  if (cluster > 1) {
    // The query wants a grid that is a multiple of the cluster.
    config.gridDim = dim3(session.num_sms() / cluster * cluster);
    int clusters = 0;
    const cudaError_t found = cudaOccupancyMaxActiveClusters(&clusters, residency_kernel, &config);
    if (found != cudaSuccess || clusters == 0) {
      cudaGetLastError();
      print_row(p, 0.0, "ctas", "ok", std::string("no room: ") + cudaGetErrorString(found));
      return;
    }
    config.gridDim = dim3(std::min(clusters * cluster, session.num_sms()));
  }
  if (cooperative) {
    attributes[num_attributes].id = cudaLaunchAttributeCooperative;
    attributes[num_attributes].val.cooperative = 1;
    ++num_attributes;
  }
  config.numAttrs = num_attributes;
  const cudaError_t launched =
      cudaLaunchKernelEx(&config, residency_kernel, counter.get(), sms.get());
  if (launched != cudaSuccess) {
    cudaGetLastError();
    print_row(p, 0.0, "ctas", "ok", std::string("refused: ") + cudaGetErrorString(launched));
    return;
  }
  S0_CHECK(cudaDeviceSynchronize());
  const unsigned grid = config.gridDim.x;
  if (counter.copy()[0] != grid) fail(p, "not every CTA arrived");
  const std::vector<unsigned> ids = sms.copy();
  const std::set<unsigned> distinct(ids.begin(), ids.begin() + grid);
  print_row(p, grid, "ctas", "ok", std::to_string(distinct.size()) + " SMs");
}

void run(const Session& session) {
  int smem = std::min(160 * 1024, session.max_smem() - 1024);
  S0_CHECK(
      cudaFuncSetAttribute(residency_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
  bench(session, smem, true, 1);
  if (!session.is_at_least(9)) {
    print_row(params("cluster", 2), 0.0, "", "skipped", "clusters need compute 9.0");
    return;
  }
  for (const int cluster : {2, 4, 8}) {
    bench(session, smem, false, cluster);
    bench(session, smem, true, cluster);
  }
}

}  // namespace
}  // namespace via::s0

int main(int argc, char** argv) {
  via::s0::run(via::s0::Session("coop_cluster", argc, argv));
  return 0;
}
