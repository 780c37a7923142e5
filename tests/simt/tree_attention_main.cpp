// SPDX-License-Identifier: Apache-2.0
// tree_attention's kernels against a float64 loop: trees, ragged rows, pages, windows, softcap,
// strides, NaN, malformed rows. A row's result must have the same bits alone, and the work space
// must be zero again. Arguments: number of cases, seed.

#include <cstdlib>

#include "cuda/tree_attention_launch.cuh"
#include "tree_attention_case.h"

namespace via::testing {
namespace {

#if defined(__SANITIZE_THREAD__)
constexpr int kCases = 10;
#elif defined(__SANITIZE_ADDRESS__)
constexpr int kCases = 14;
#else
constexpr int kCases = 28;
#endif

using attention::Shape;

// With a number of query rows per block that need not be the one that a call would get. True if the
// work space is zero again.
template <class Shape>
bool launch_shape(const TreeAttentionParams& params) {
  attention::Args args = attention::make_args(params);
  args.row_tiles = (args.packed_rows + Shape::kRows - 1) / Shape::kRows;
  DeviceBuffer<char> workspace(attention::lay_out(args, nullptr) + 1, '\0');
  attention::lay_out(args, workspace.data());
  attention::launch_shape<Shape>(args);
  device_sync();
  return std::all_of(workspace.begin(), workspace.end(), [](char c) { return c == 0; });
}

// As many kernels as show every kind; the others are compiled from the same text.
bool launch(const TreeAttentionParams& params) {
#ifndef __CUDACC__
  simt::options().resident_blocks = static_cast<unsigned>(1 + below(4));
#endif
  if (params.dtype == DType::kFloat32) return launch_shape<Shape<float, 96, 1>>(params);
  if (params.head_dim == 80) return launch_shape<Shape<Float16, 80, 2>>(params);
  if (params.head_dim == 256) return launch_shape<Shape<Float16, 256, 1>>(params);
  if (one_in(2)) return launch_shape<Shape<BFloat16, 64, 1>>(params);
  return launch_shape<Shape<BFloat16, 64, 4>>(params);
}

template <typename T>
void check_case(int number, int head_dim, Checker& checker) {
  Case<T> given(head_dim);
  const Expected<T> expected(given);
  checker.expect(launch(given.p), "case %d: the work space is not zero", number);
  expected.check(given, number, checker);

  // One row alone, with no more tokens than it has: other tiles, other neighbours, the same bits.
  const int row = below(given.p.batch_size);
  if (!expected.is_valid(row) || given.counts[row] == 0) return;
  typename Case<T>::Out alone(given, row);
  launch(alone.p);
  checker.expect(alone.equals(given, row), "case %d: row %d has other bits when alone", number,
                 row);
}

int run(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : kCases;
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
