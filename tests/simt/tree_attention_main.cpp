// SPDX-License-Identifier: Apache-2.0
// tree_attention's kernels against a float64 loop: trees, ragged rows, pages, windows, softcap,
// strides, NaN, malformed rows. A row's result must have the same bits alone, and the work space
// must be zero again. Arguments: number of cases, seed.

#include <cstdlib>

#include "cuda/tree_attention_launch.cuh"
#include "tree_attention_case.h"

namespace via::testing {
namespace {

void launch(const TreeAttentionParams& params, void* workspace) {
  attention::Args args = attention::make_args(params);
  attention::lay_out(args, workspace);
#ifndef __CUDACC__
  simt::options().resident_blocks = static_cast<unsigned>(1 + below(4));
#endif
  // As many kernels as show every kind; the others are compiled from the same text.
  if (params.dtype == DType::kBFloat16) {
    attention::launch_head<BFloat16, 64>(args);
  } else if (params.dtype == DType::kFloat32) {
    attention::launch_head<float, 96>(args);
  } else if (params.head_dim == 80) {
    attention::launch_head<Float16, 80>(args);
  } else {
    attention::launch_head<Float16, 256>(args);
  }
  device_sync();
}

bool launch_and_check_workspace(const TreeAttentionParams& params) {
  DeviceBuffer<char> workspace(attention::workspace_bytes(params), '\0');
  launch(params, workspace.data());
  return std::all_of(workspace.begin(), workspace.end(), [](char c) { return c == 0; });
}

template <typename T>
void check_case(int number, int head_dim, Checker& checker) {
  Case<T> given(head_dim);
  const Expected<T> expected(given);
  const bool is_zero = launch_and_check_workspace(given.p);
  checker.expect(is_zero, "case %d: the work space is not zero", number);
  expected.check(given, number, checker);

  // One row alone, with no more tokens than it has: other tiles, other neighbours, the same bits.
  const int row = below(given.p.batch_size);
  if (!expected.is_valid(row) || given.counts[row] == 0) return;
  typename Case<T>::Out alone(given, row);
  launch_and_check_workspace(alone.p);
  checker.expect(alone.equals(given, row), "case %d: row %d has other bits when alone", number,
                 row);
}

int run(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 24;
  const int seed = argc > 2 ? std::atoi(argv[2]) : 1;
  Checker checker;
  for (int i = 0; i < cases; ++i) {
    random_bits.seed(static_cast<unsigned>(1000003 * seed + i));
    switch (i % 6) {
      case 0: check_case<Float16>(i, 80, checker); break;
      case 1: check_case<float>(i, 96, checker); break;
      case 2: check_case<Float16>(i, 256, checker); break;
      default: check_case<BFloat16>(i, 64, checker); break;
    }
  }
  return checker.status();
}

}  // namespace
}  // namespace via::testing

int main(int argc, char** argv) { return via::testing::run(argc, argv); }
