# SPDX-License-Identifier: Apache-2.0
# The Python module via_ext._C.
if(VIA_EXT_PYTHON STREQUAL "OFF")
  return()
endif()
set(PYBIND11_FINDPYTHON ON)
find_package(Python 3.11 COMPONENTS Interpreter Development.Module)
if(Python_FOUND AND NOT pybind11_DIR)
  execute_process(COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir
                  OUTPUT_VARIABLE pybind11_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(Python_FOUND)
  find_package(pybind11 3.0 CONFIG)
endif()
if(NOT Python_FOUND OR NOT pybind11_FOUND)
  if(VIA_EXT_PYTHON STREQUAL "ON")
    message(FATAL_ERROR "VIA_EXT_PYTHON=ON needs Python >= 3.11 with headers and pybind11 >= 3.0")
  endif()
  message(STATUS "via: without the Python module (no pybind11 >= 3.0 found)")
  return()
endif()

# A new commit changes build_info(), so the configure step follows the reflog where there is one.
find_package(Git QUIET)
set(VIA_GIT_COMMIT "")
if(Git_FOUND AND EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/.git)
  execute_process(COMMAND ${GIT_EXECUTABLE} rev-parse --short=12 HEAD
                  WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}
                  OUTPUT_VARIABLE VIA_GIT_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/.git/logs/HEAD)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS .git/logs/HEAD)
  endif()
endif()
if(NOT VIA_GIT_COMMIT)
  set(VIA_GIT_COMMIT unknown)
endif()
set(VIA_COMPILER "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
set(VIA_CUDA_VERSION "")
if(VIA_WITH_CUDA)
  set(VIA_CUDA_VERSION ${CUDAToolkit_VERSION})
endif()
configure_file(cmake/build_facts.h.in build_facts.h @ONLY)

file(GLOB VIA_BINDING_SOURCES CONFIGURE_DEPENDS csrc/bindings/*.cpp)
# NO_EXTRAS: link-time optimisation would melt the instruction sets of csrc/cpu together.
pybind11_add_module(_C MODULE NO_EXTRAS ${VIA_BINDING_SOURCES})
target_include_directories(_C PRIVATE ${CMAKE_CURRENT_BINARY_DIR} csrc)
# Marked as a system folder: third-party code is not held to our warnings.
target_include_directories(_C SYSTEM PRIVATE third_party)
# -O1: the bindings check arguments and call the library, and pybind11 is most of what is compiled.
target_compile_options(_C PRIVATE ${VIA_CXX_WARNINGS} -O1)
# Parsing pybind11 takes longer than everything else in a binding file: once is enough.
target_precompile_headers(_C PRIVATE <pybind11/pybind11.h>)
target_link_libraries(_C PRIVATE via)

if(VIA_EXT_OUTPUT_DIR)
  # Copy, then rename: a process that has the old module mapped keeps a whole file.
  get_target_property(suffix _C SUFFIX)
  set(placed ${VIA_EXT_OUTPUT_DIR}/_C${suffix})
  add_custom_command(OUTPUT ${placed} DEPENDS _C VERBATIM
    COMMAND ${CMAKE_COMMAND} -E copy $<TARGET_FILE:_C> ${placed}.new
    COMMAND ${CMAKE_COMMAND} -E rename ${placed}.new ${placed})
  add_custom_target(place ALL DEPENDS ${placed})
endif()
