# SPDX-License-Identifier: Apache-2.0
# CPU back end: csrc/cpu/kernels_*.cpp compiled once per instruction set, into the namespace
# VIA_ISA_NAMESPACE; the other files once. Sets VIA_CPU_OBJECTS and VIA_CPU_ISAS.
include(CheckCXXCompilerFlag)

set(VIA_CXX_WARNINGS -Wall -Wextra)
# No contraction into fused multiply-adds: every instruction set gives the same bits.
set(VIA_KERNEL_OPTIONS -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -fopenmp-simd
    -Wno-maybe-uninitialized)  # false alarms inside the AVX-512 headers of GCC 12

file(GLOB VIA_KERNEL_SOURCES CONFIGURE_DEPENDS csrc/cpu/kernels_*.cpp)
file(GLOB VIA_CPU_OBJECTS CONFIGURE_DEPENDS csrc/cpu/*.cpp)
list(REMOVE_ITEM VIA_CPU_OBJECTS ${VIA_KERNEL_SOURCES})
set_source_files_properties(${VIA_CPU_OBJECTS} PROPERTIES COMPILE_OPTIONS -ffp-contract=off)

set(VIA_CPU_ISAS base)
set(via_isa_flag_base "")
set(via_isa_flag_v3 -march=x86-64-v3)
set(via_isa_flag_v4 -march=x86-64-v4)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  foreach(isa v3 v4)
    check_cxx_compiler_flag(${via_isa_flag_${isa}} VIA_CXX_HAS_${isa})
    if(VIA_CXX_HAS_${isa})
      list(APPEND VIA_CPU_ISAS ${isa})
    endif()
  endforeach()
endif()

# The dispatcher knows by these which copies exist.
list(TRANSFORM VIA_CPU_ISAS PREPEND "VIA_HAVE_ISA_" OUTPUT_VARIABLE via_isa_definitions)
set_source_files_properties(csrc/cpu/dispatch.cpp PROPERTIES
  COMPILE_DEFINITIONS "${via_isa_definitions}")

foreach(isa IN LISTS VIA_CPU_ISAS)
  add_library(via_cpu_${isa} OBJECT ${VIA_KERNEL_SOURCES})
  target_compile_definitions(via_cpu_${isa} PRIVATE VIA_ISA_NAMESPACE=isa_${isa})
  target_compile_options(via_cpu_${isa} PRIVATE
    ${VIA_CXX_WARNINGS} ${VIA_KERNEL_OPTIONS} ${via_isa_flag_${isa}})
  target_include_directories(via_cpu_${isa} PRIVATE csrc csrc/include)
  list(APPEND VIA_CPU_OBJECTS $<TARGET_OBJECTS:via_cpu_${isa}>)
endforeach()
