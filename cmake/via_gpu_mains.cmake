# SPDX-License-Identifier: Apache-2.0
# VIA_GPU_MAINS=ON: the kernel mains of tests/simt as programs for a GPU, in <build>/mains, by the
# target via_gpu_mains. golden_main.cpp becomes two: golden_device, and golden_host on the
# simulation's host bodies; what they write must be equal.
option(VIA_GPU_MAINS "Build tests/simt/*_main.cpp for a GPU (needs CUDA)" OFF)
if(NOT VIA_GPU_MAINS)
  return()
endif()
if(NOT VIA_WITH_CUDA)
  message(FATAL_ERROR "VIA_GPU_MAINS=ON needs CUDA: VIA_EXT_CUDA=ON and nvcc")
endif()

set(VIA_MAINS_DIR ${CMAKE_CURRENT_SOURCE_DIR}/tests/simt)
add_custom_target(via_gpu_mains)

function(via_place_main name)
  target_include_directories(${name} PRIVATE csrc csrc/include ${VIA_MAINS_DIR})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/mains)
  add_dependencies(via_gpu_mains ${name})
endfunction()

# A source file has one language per folder, and golden_main.cpp needs two: nvcc compiles a file
# that includes it.
function(via_add_gpu_main name source)
  set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/mains_src/${name}.cu)
  file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${source}\"\n")
  add_executable(${name} EXCLUDE_FROM_ALL ${wrapper})
  target_compile_options(${name} PRIVATE -lineinfo --expt-relaxed-constexpr)
  target_link_libraries(${name} PRIVATE via CUDA::cudart_static)
  via_place_main(${name})
endfunction()

file(GLOB via_mains CONFIGURE_DEPENDS ${VIA_MAINS_DIR}/*_main.cpp)
foreach(source IN LISTS via_mains)
  get_filename_component(name ${source} NAME_WE)
  file(READ ${source} head LIMIT 1000)
  if(head MATCHES "Host compilers only")
    continue()
  elseif(NOT name STREQUAL "golden_main")
    via_add_gpu_main(${name} ${source})
    continue()
  endif()
  via_add_gpu_main(golden_device ${source})
  file(GLOB via_simt_sources CONFIGURE_DEPENDS ${VIA_MAINS_DIR}/runtime/*.cpp)
  add_executable(golden_host EXCLUDE_FROM_ALL ${source} ${via_simt_sources})
  target_include_directories(golden_host SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_compile_definitions(golden_host PRIVATE VIA_ISA_NAMESPACE=isa_simt)
  target_compile_options(golden_host PRIVATE -O2 -ffp-contract=off -Wno-unknown-pragmas)
  target_link_libraries(golden_host PRIVATE Threads::Threads)
  via_place_main(golden_host)
endforeach()
