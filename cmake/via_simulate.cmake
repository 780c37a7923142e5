# SPDX-License-Identifier: Apache-2.0
# VIA_SIMULATE=ON: the Python module with the kernels of csrc/cuda in the simulation of tests/simt,
# for tests on machines without a GPU. CPU tensors go to the CUDA entry points; the rest is as ever.
option(VIA_SIMULATE "Test module whose operations run the CUDA kernels on the CPU" OFF)
if(NOT VIA_SIMULATE)
  return()
endif()
if(VIA_WITH_CUDA)
  message(FATAL_ERROR "VIA_SIMULATE=ON takes the place of CUDA: add -DVIA_EXT_CUDA=OFF")
endif()
find_path(VIA_CUDA_INCLUDE cuda_bf16.h
  HINTS $ENV{CUDA_HOME}/include $ENV{CUDA_PATH}/include /usr/local/cuda/include
  DOC "Folder of cuda_bf16.h and vector_types.h")
if(NOT VIA_CUDA_INCLUDE)
  message(FATAL_ERROR "VIA_SIMULATE=ON needs the CUDA headers (cuda_bf16.h); no nvcc, no GPU. "
                      "Set CUDA_HOME, or VIA_CUDA_INCLUDE to their folder.")
endif()

file(GLOB VIA_SIMT_RUNTIME CONFIGURE_DEPENDS tests/simt/runtime/*.cpp)
set(VIA_CUDA_SOURCES tests/simt/simulate.cpp tests/simt/simulate_attention.cpp
    tests/simt/simulate_persistent.cpp ${VIA_SIMT_RUNTIME})
set_source_files_properties(${VIA_CUDA_SOURCES} PROPERTIES
  INCLUDE_DIRECTORIES "${CMAKE_CURRENT_SOURCE_DIR}/tests/simt;${VIA_CUDA_INCLUDE}"
  COMPILE_OPTIONS "-ffp-contract=off;-Wno-unknown-pragmas")
add_compile_definitions(VIA_SIMULATE)
