// SPDX-License-Identifier: Apache-2.0
// Stands in for the CUDA language when a host compiler reads kernel source: keywords, built-in
// variables, and the intrinsics in intrinsics_*.h. Needs the CUDA headers (types), no nvcc.
// On purpose absent, so that use does not compile: __shared__ (SMEM and DYN_SMEM of
// device/prim.cuh), <<< >>> (LAUNCH), __activemask, atomics on floating point.
#pragma once

#include <vector_types.h>
// The CUDA headers come before the keywords change.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>

#include "runtime.h"

#undef __launch_bounds__
#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __forceinline__
#undef __noinline__  // libstdc++ spells an attribute so
#undef __grid_constant__
#undef __shared__
#define __launch_bounds__(...)
#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __shared__ static_assert(false, "use SMEM or DYN_SMEM of device/prim.cuh");

#define threadIdx (::via::simt::current->thread)
#define blockIdx (::via::simt::current->block)
#define blockDim (::via::simt::current->block_dim)
#define gridDim (::via::simt::current->grid_dim)
#define warpSize 32

#include "intrinsics_atomic.h"
#include "intrinsics_math.h"
#include "intrinsics_warp.h"
