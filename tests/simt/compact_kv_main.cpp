// SPDX-License-Identifier: Apache-2.0
// compact_kv's kernel against compact_kv_cpu on copies, byte by byte with all gaps.
// Arguments: number of random cases, seed. Exit status 1 on the first difference.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "cuda/compact_kv_launch.cuh"
#include "gpu_or_simt.h"
#include "via/compact_kv.h"

namespace {

using via::CacheView;
using via::CompactKvParams;
using via::DType;
using via::TensorView;
using Bytes = via::testing::DeviceBuffer<char>;

#ifdef __SANITIZE_THREAD__
constexpr int kTwoLaunches = 81;  // the race detector follows 65000 threads
#else
constexpr int kTwoLaunches = via::compact::kMostCaches + 8;
#endif

std::mt19937_64 random_bits;

std::int64_t uniform(std::int64_t low, std::int64_t high) {
  return low +
         static_cast<std::int64_t>(random_bits() % static_cast<std::uint64_t>(high - low + 1));
}
bool one_in(int n) { return uniform(1, n) == 1; }
template <class T>
T pick(const std::vector<T>& values) {
  return values[uniform(0, static_cast<std::int64_t>(values.size()) - 1)];
}

std::unique_ptr<Bytes> on_device(const std::vector<char>& host) {
  auto copy = std::make_unique<Bytes>(host.size() + 1);
  std::copy(host.begin(), host.end(), copy->begin());
  return copy;
}
bool same(Bytes& device, const std::vector<char>& host) {
  return std::equal(host.begin(), host.end(), device.begin());
}

// Ids on both sides, as int32 or int64.
struct Ids {
  explicit Ids(const std::vector<std::int64_t>& values, std::int64_t stride = 1,
               bool wide = one_in(2)) {
    bytes.resize(values.size() * (wide ? 8 : 4));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (wide) reinterpret_cast<std::int64_t*>(bytes.data())[i] = values[i];
      if (!wide) reinterpret_cast<std::int32_t*>(bytes.data())[i] = static_cast<int>(values[i]);
    }
    device = on_device(bytes);
    host_view.data = bytes.data();
    host_view.dtype = wide ? DType::kInt64 : DType::kInt32;
    host_view.stride[0] = stride;
    device_view = host_view;
    device_view.data = device->data();
  }
  std::vector<char> bytes;
  std::unique_ptr<Bytes> device;
  TensorView host_view, device_view;
};

struct Cache {
  std::vector<char> host;
  std::unique_ptr<Bytes> device;
  CacheView host_view, device_view;
};

// [rows, positions, heads, bytes] with gaps, at any alignment of the element, in the order of
// either [B, S, H, D] or [B, H, S, D].
Cache make_cache(std::int64_t rows, std::int64_t positions, bool small) {
  const std::int64_t item = pick<std::int64_t>({1, 2, 4, 8});
  const std::int64_t elements = small ? uniform(1, 4) : pick<std::int64_t>({1, 3, 16, 33, 64, 320});
  const auto gap = [&] { return one_in(2) ? 0 : item * uniform(1, 20); };
  CacheView view;
  view.num_heads = static_cast<int>(one_in(20) ? 0 : uniform(1, small ? 1 : 3));
  view.head_bytes = one_in(30) ? 0 : elements * item;
  if (one_in(3)) {
    view.stride_bytes[1] = view.head_bytes + gap();
    view.stride_bytes[2] = positions * view.stride_bytes[1] + gap();
    view.stride_bytes[0] = view.num_heads * view.stride_bytes[2] + gap();
  } else {
    view.stride_bytes[2] = view.head_bytes + gap();
    view.stride_bytes[1] = view.num_heads * view.stride_bytes[2] + gap();
    view.stride_bytes[0] = positions * view.stride_bytes[1] + gap();
  }
  const std::int64_t start = one_in(2) ? 0 : item * uniform(1, 15);
  Cache cache;
  cache.host.resize(start + rows * view.stride_bytes[0] + 1);
  for (char& byte : cache.host) byte = static_cast<char>(random_bits());
  cache.device = on_device(cache.host);
  cache.host_view = cache.device_view = view;
  cache.host_view.data = cache.host.data() + start;
  cache.device_view.data = cache.device->data() + start;
  return cache;
}

// Mostly an ascending subset of the nodes, padded -1; sometimes with one bad entry.
std::vector<std::int64_t> make_path(std::int64_t num_nodes) {
  std::vector<std::int64_t> path;
  const std::int64_t keep = uniform(1, 4);
  for (std::int64_t node = 0; node < num_nodes; ++node) {
    if (uniform(1, 4) <= keep) path.push_back(node);
  }
  path.resize(num_nodes, -1);
  if (num_nodes > 0 && one_in(3)) path[uniform(0, num_nodes - 1)] = uniform(-3, num_nodes + 2);
  return path;
}

bool run_case(std::int64_t case_idx) {
  CompactKvParams host;
  const bool many = one_in(25);
  host.batch_size = static_cast<int>(uniform(1, many ? 2 : 4));
  host.num_nodes = static_cast<int>(one_in(12) ? 127 : uniform(0, 14));
  host.num_caches = static_cast<int>(many ? pick<std::int64_t>({81, kTwoLaunches}) : uniform(1, 9));
  const bool paged = one_in(2);
  host.page_size = paged ? 1 << uniform(0, 4) : 0;
  const std::int64_t wanted = uniform(1, host.num_nodes + 8);
  const std::int64_t pages = paged ? (wanted + host.page_size - 1) / host.page_size : 0;
  host.capacity = paged ? pages * host.page_size : wanted;
  host.num_pages = paged ? host.batch_size * pages + uniform(0, 2) : 0;

  std::vector<std::int64_t> contexts, counts, paths, table(host.num_pages);
  const std::int64_t path_stride = host.num_nodes + uniform(0, 3);
  for (int b = 0; b < host.batch_size; ++b) {
    contexts.push_back(one_in(15) ? pick<std::int64_t>({-2, -50, INT32_MAX, INT32_MIN})
                                  : uniform(-1, host.capacity));
    counts.push_back(one_in(3) ? uniform(-2, host.num_nodes + 3) : host.num_nodes);
    const std::vector<std::int64_t> path = make_path(host.num_nodes);
    paths.insert(paths.end(), path.begin(), path.end());
    paths.resize((b + 1) * path_stride, 5);
  }
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), random_bits);
  if (paged && one_in(3)) {
    table[uniform(0, host.batch_size * pages - 1)] =
        pick<std::int64_t>({-1, host.num_pages, INT32_MAX, INT32_MIN});
  }
  const Ids context_ids(contexts), count_ids(counts), path_ids(paths, path_stride);
  const Ids table_ids(table, pages, false);
  host.context_lens = context_ids.host_view;
  host.num_accepted = count_ids.host_view;
  host.path = path_ids.host_view;
  if (paged) host.page_table = table_ids.host_view;
  host.num_threads = 1;
  CompactKvParams device = host;
  device.context_lens = context_ids.device_view;
  device.num_accepted = count_ids.device_view;
  device.path = path_ids.device_view;
  if (paged) device.page_table = table_ids.device_view;

  std::vector<Cache> caches;
  std::vector<CacheView> host_views, device_views;
  for (int i = 0; i < host.num_caches; ++i) {
    caches.push_back(paged ? make_cache(host.num_pages, host.page_size, many)
                           : make_cache(host.batch_size, host.capacity, many));
    host_views.push_back(caches.back().host_view);
    device_views.push_back(caches.back().device_view);
  }
  host.caches = host_views.data();
  device.caches = device_views.data();
  via::compact_kv_cpu(host);
  via::launch_compact_kv(device, pick<std::int64_t>({1, 20, 400}));
  via::testing::device_sync();
  for (int i = 0; i < host.num_caches; ++i) {
    if (same(*caches[i].device, caches[i].host)) continue;
    std::printf("case %lld: cache %d of %d differs (B %d, N %d, page size %d)\n",
                static_cast<long long>(case_idx), i, host.num_caches, host.batch_size,
                host.num_nodes, host.page_size);
    return false;
  }
  return true;
}

// The largest capacity there is: positions behind it exceed int64. Nothing may move.
bool run_overflow_case() {
  std::vector<char> bytes(64, 7);
  const Ids path({1, 2, 3}, 3, true), count({3}, 1, true);
  const Ids context({std::numeric_limits<std::int64_t>::max() - 1}, 1, true);
  const std::vector<char> before = bytes;
  const std::unique_ptr<Bytes> memory = on_device(bytes);
  CacheView view;
  view.num_heads = 1;
  view.head_bytes = 16;
  CompactKvParams params;
  params.batch_size = 1;
  params.num_nodes = 3;
  params.num_caches = 1;
  params.capacity = std::numeric_limits<std::int64_t>::max();
  params.caches = &view;
  params.num_threads = 1;
  view.data = bytes.data();
  params.context_lens = context.host_view;
  params.path = path.host_view;
  params.num_accepted = count.host_view;
  via::compact_kv_cpu(params);
  view.data = memory->data();
  params.context_lens = context.device_view;
  params.path = path.device_view;
  params.num_accepted = count.device_view;
  via::launch_compact_kv(params, 1);
  via::testing::device_sync();
  return bytes == before && same(*memory, before);
}

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 100;
  const int seed = argc > 2 ? std::atoi(argv[2]) : 1;
  if (!run_overflow_case()) {
    std::printf("positions beyond int64: memory was touched\n");
    return 1;
  }
  for (int i = 0; i < cases; ++i) {
    random_bits.seed(std::uint64_t{1000003} * seed + i);
    if (!run_case(i)) return 1;
  }
  std::printf("compact_kv: %d cases agree (seed %d)\n", cases, seed);
  return 0;
}
