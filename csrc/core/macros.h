// SPDX-License-Identifier: Apache-2.0
// How core/ is compiled: VIA_HD marks a function of host and device; VIA_CORE_NAMESPACE opens the
// inline namespace of the instruction set being compiled. One source is compiled for several sets,
// and without a name of its own per set the linker would keep one copy of an inline function for
// all of them, possibly the one that an old CPU cannot run.
#pragma once

#if defined(__CUDACC__)
#define VIA_HD __host__ __device__ __forceinline__
#elif defined(VIA_ISA_NAMESPACE)
#define VIA_HD inline __attribute__((always_inline))
#else
#define VIA_HD inline
#endif

// Functions of kernels: of the device, or of the simulation that runs kernels on the host.
// VIA_DEVICE_CALL: kept apart, so that rare work does not take registers from the main path.
#if defined(__CUDACC__)
#define VIA_DEVICE __device__ __forceinline__
#define VIA_DEVICE_CALL inline __device__ __noinline__
#else
#define VIA_DEVICE inline
#define VIA_DEVICE_CALL inline
#endif

#if defined(VIA_ISA_NAMESPACE)
#define VIA_CORE_BEGIN inline namespace VIA_ISA_NAMESPACE {
#else
#define VIA_CORE_BEGIN inline namespace isa_any {
#endif
#define VIA_CORE_END }
