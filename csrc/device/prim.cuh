// SPDX-License-Identifier: Apache-2.0
// The only file with inline PTX: everything below the CUDA C++ level that kernels use. Each
// primitive has two bodies, PTX here for nvcc, and tests/simt/simt_prim.h for a host compiler, with
// which the tests run the kernel sources on the CPU. All other intrinsics (__syncthreads, shuffles,
// votes, integer atomics) keep their CUDA names.
// Architectures: sm_80 and later; mbarriers and bulk copies sm_90 and later (they trap below).
#pragma once

#ifndef __CUDACC__
#include "simt_prim.h"
#else

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>

// SMEM(float, sums, [32]): an array in static shared memory.
#define SMEM(type, name, dims) __shared__ type name dims
// DYN_SMEM(base): the dynamic shared memory of the launch; divide it with prim::carve.
#define DYN_SMEM(name) extern __shared__ __align__(128) unsigned char name[]
// LAUNCH(kernel, grid, block, shared bytes, stream, arguments...); a kernel with commas in its
// template arguments stands in parentheses. LAUNCH_COOP: all blocks resident at once. Errors are
// left for cudaGetLastError.
#define LAUNCH(kernel, grid, block, smem, stream, ...) \
  ::via::prim::Launcher(kernel, grid, block, smem, stream).plain(__VA_ARGS__)
#define LAUNCH_COOP(kernel, grid, block, smem, stream, ...) \
  ::via::prim::Launcher(kernel, grid, block, smem, stream).cooperative(__VA_ARGS__)

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define VIA_SM90(...) __VA_ARGS__
#else
#define VIA_SM90(...) __trap()
#endif
#define VIA_PRIM __device__ __forceinline__

namespace via::prim {

using Stream = cudaStream_t;

template <typename... Parameters>
class Launcher {
 public:
  using Kernel = void (*)(Parameters...);
  Launcher(Kernel kernel, dim3 grid, dim3 block, std::size_t smem, Stream stream)
      : kernel_(kernel), grid_(grid), block_(block), smem_(smem), stream_(stream) {
    // Beyond 48 KiB a kernel has to ask.
    if (smem > 48 * 1024) {
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(smem));
    }
  }

  void plain(Parameters... arguments) const {
    void* pointers[] = {static_cast<void*>(&arguments)..., nullptr};
    cudaLaunchKernel(reinterpret_cast<const void*>(kernel_), grid_, block_, pointers, smem_,
                     stream_);
  }

  void cooperative(Parameters... arguments) const {
    void* pointers[] = {static_cast<void*>(&arguments)..., nullptr};
    cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel_), grid_, block_, pointers,
                                smem_, stream_);
  }

 private:
  Kernel kernel_;
  dim3 grid_, block_;
  std::size_t smem_;
  Stream stream_;
};

VIA_PRIM std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- cp.async (sm_80): 16 bytes, both sides 16-byte aligned, past L1; visible to the issuing
// thread after cp_async_wait, to others after a barrier behind it.
VIA_PRIM void cp_async16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)),
               "l"(global)
               : "memory");
}
// Writes zeros, and reads nothing, where `copy` is false.
VIA_PRIM void cp_async16_zfill(void* shared, const void* global, bool copy) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(copy ? 16 : 0)
               : "memory");
}
// For data that is read once, such as weights: the copy leaves L2 before everything else does.
using CachePolicy = std::uint64_t;
VIA_PRIM CachePolicy evict_first() {
  CachePolicy policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
VIA_PRIM void cp_async16(void* shared, const void* global, CachePolicy policy) {
  asm volatile(
      "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
      "l"(global), "l"(policy)
      : "memory");
}
VIA_PRIM void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kGroupsLeft of the newest groups are still under way.
template <int kGroupsLeft>
VIA_PRIM void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
}

// ---- tensor cores (sm_80), all 32 lanes from one place in the code
// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8, and
// receives of matrix i the elements 2 (l % 4) and the next of row l / 4.
VIA_PRIM void ldmatrix_x4(std::uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}
// The same with every matrix transposed: elements 2 (l % 4) and the next of column l / 4.
VIA_PRIM void ldmatrix_x4_trans(std::uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}
// c[16x8] += a[16x16] b[16x8], bfloat16 in, float32 out; fragments as in the PTX ISA.
VIA_PRIM void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// The same for IEEE halves.
VIA_PRIM void mma_f16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- order between blocks, scope of the device
VIA_PRIM unsigned ld_acquire(const unsigned* pointer) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(pointer) : "memory");
  return value;
}
VIA_PRIM void st_release(unsigned* pointer, unsigned value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(pointer), "r"(value) : "memory");
}
VIA_PRIM unsigned add_acq_rel(unsigned* pointer, unsigned value) {
  unsigned old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(pointer), "r"(value)
               : "memory");
  return old;
}

// Barrier `id` (1 to 15; 0 is __syncthreads) among `threads` threads, a multiple of 32.
VIA_PRIM void bar_named(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// Belongs into every loop that waits for another thread.
VIA_PRIM void spin() { __nanosleep(20); }
VIA_PRIM unsigned long long global_timer_ns() {
  unsigned long long time;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
  return time;
}
// Ends the kernel with an error that the host sees at its next call.
VIA_PRIM void trap() { asm volatile("trap;"); }

// 2^x, relative error 2^-22, denormal results become 0.
VIA_PRIM float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Reads 16 aligned bytes once: they take no place in L1 and are fetched into L2 by 128 bytes. No
// thread writes them during the kernel, unless the source file defines VIA_DATA_CHANGES before its
// first include: in a persistent kernel one phase reads what another wrote.
#ifdef VIA_DATA_CHANGES
#define VIA_READ_ONLY ""
#else
#define VIA_READ_ONLY ".nc"
#endif
VIA_PRIM uint4 load_stream16(const void* pointer) {
  uint4 value;
  asm volatile("ld.global" VIA_READ_ONLY ".L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(pointer));
  return value;
}

// An IEEE half, given by its bits, as float32: exact.
VIA_PRIM float half_to_float(std::uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

// Hides from the compiler that the registers keep their values: what was computed from them before
// is computed again behind this point instead of being kept.
VIA_PRIM void forget(uint4& registers) {
  asm("" : "+r"(registers.x), "+r"(registers.y), "+r"(registers.z), "+r"(registers.w));
}

// ---- mbarrier and bulk copies (sm_90)
using mbar_t = unsigned long long;
VIA_PRIM void mbar_init(mbar_t* barrier, unsigned arrivals) {
  VIA_SM90(asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                        "r"(arrivals) : "memory"));
}
// After mbar_init, before the barrier that shows the mbarriers to other threads and to bulk copies.
VIA_PRIM void mbar_fence_init() {
  VIA_SM90(asm volatile("fence.mbarrier_init.release.cluster;" :: : "memory"));
}
VIA_PRIM void mbar_arrive(mbar_t* barrier) {
  VIA_SM90(asm volatile("{ .reg .b64 t; mbarrier.arrive.shared.b64 t, [%0]; }" ::"r"(
      shared_address(barrier)) : "memory"));
}
// Arrives, and makes the phase wait for `bytes` of bulk copies too.
VIA_PRIM void mbar_arrive_tx(mbar_t* barrier, unsigned bytes) {
  VIA_SM90(asm volatile("{ .reg .b64 t; mbarrier.arrive.expect_tx.shared.b64 t, [%0], %1; }" ::"r"(
                            shared_address(barrier)),
                        "r"(bytes) : "memory"));
}
// Waits until the phase with this parity (0 first, then alternating) is complete.
VIA_PRIM void mbar_wait(mbar_t* barrier, unsigned parity) {
  VIA_SM90(
      asm volatile("{ .reg .pred p; L%=: mbarrier.try_wait.parity.shared.b64 p, [%0], %1; "
                   "@!p bra L%=; }" ::"r"(shared_address(barrier)),
                   "r"(parity) : "memory"));
}
// Copies `bytes` from global to shared memory (all three multiples of 16), counted on `barrier`.
VIA_PRIM void bulk_load(void* shared, const void* global, unsigned bytes, mbar_t* barrier) {
  VIA_SM90(asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier)) : "memory"));
}
// Between ordinary accesses and a bulk copy of the same memory, by the thread that made them
// (before the barrier) or by the one that starts the copy (behind it).
VIA_PRIM void fence_proxy_async() { VIA_SM90(asm volatile("fence.proxy.async;" :: : "memory")); }

// Takes the next `count` elements of dynamic shared memory, 128-byte aligned. In the simulation a
// red zone follows. Every thread of the block makes the same calls in the same order; behind a
// barrier they may start over from DYN_SMEM with another layout.
template <typename T>
VIA_PRIM T* carve(unsigned char*& free, std::size_t count) {
  T* part = reinterpret_cast<T*>(free);
  free += (count * sizeof(T) + 127) & ~std::size_t{127};
  return part;
}

}  // namespace via::prim

#endif
