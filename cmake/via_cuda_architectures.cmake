# SPDX-License-Identifier: Apache-2.0
# Which GPU architectures to compile for.
#
# via_cuda_architectures(<out> <nvcc>) sets <out> in the caller, by the first of
#   1. CMAKE_CUDA_ARCHITECTURES (-D)   2. environment CUDAARCHS
#   3. environment TORCH_CUDA_ARCH_LIST, translated   4. the GPUs present
#   5. VIA_DEFAULT_CUDA_ARCHITECTURES, without those that this nvcc no longer or not yet knows.
# "native" without a GPU would silently build nvcc's oldest target, and CMake's own "all" lists
# name targets that newer compilers dropped, so both words are resolved here.

if(CMAKE_SCRIPT_MODE_FILE)
  cmake_minimum_required(VERSION 3.24...4.1)  # policies; a project has set its own
endif()
set(VIA_DEFAULT_CUDA_ARCHITECTURES "80-real;90a-real;100-real;120-real;80-virtual")

# Compute capabilities of the visible GPUs as "80-real;90a-real", empty without GPU or driver.
function(via_present_cuda_architectures out)
  set(found "")
  find_program(VIA_NVIDIA_SMI nvidia-smi)
  mark_as_advanced(VIA_NVIDIA_SMI)
  if(VIA_NVIDIA_SMI)
    execute_process(COMMAND ${VIA_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
                    OUTPUT_VARIABLE caps RESULT_VARIABLE failed ERROR_QUIET)
    if(NOT failed)
      string(REGEX MATCHALL "[0-9]+\\.[0-9]+" caps "${caps}")
      foreach(cap IN LISTS caps)
        string(REPLACE "." "" cap "${cap}")
        if(cap EQUAL 90)
          set(cap 90a)  # warpgroup instructions exist only in the "a" target
        endif()
        list(APPEND found ${cap}-real)
      endforeach()
      list(REMOVE_DUPLICATES found)
    endif()
  endif()
  set(${out} "${found}" PARENT_SCOPE)
endfunction()

# Plain numbers that nvcc can compile, such as "75;80;90;100"; empty if it cannot say.
function(via_known_cuda_architectures out nvcc)
  set(known "")
  if(nvcc)
    execute_process(COMMAND ${nvcc} --list-gpu-arch OUTPUT_VARIABLE text ERROR_QUIET)
    string(REGEX MATCHALL "[0-9]+" known "${text}")
  endif()
  set(${out} "${known}" PARENT_SCOPE)
endfunction()

# "8.0;8.6 9.0a+PTX" or "Ampere Hopper" -> "80-real;86-real;90a-real;90a-virtual".
function(via_translate_torch_architectures out text)
  set(names_Ampere 8.0 8.6+PTX)
  set(names_Ada 8.9+PTX)
  set(names_Hopper 9.0+PTX)
  set(names_Blackwell 10.0 12.0+PTX)
  string(REGEX REPLACE "[ ,]+" ";" items "${text}")
  set(result "")
  foreach(item IN LISTS items)
    if(DEFINED names_${item})
      set(item ${names_${item}})
    endif()
    foreach(version IN LISTS item)
      if(version MATCHES "^([0-9]+)\\.([0-9]+)([a-z]?)(\\+PTX)?$")
        set(arch ${CMAKE_MATCH_1}${CMAKE_MATCH_2}${CMAKE_MATCH_3})
        list(APPEND result ${arch}-real)
        if(CMAKE_MATCH_4)
          list(APPEND result ${arch}-virtual)
        endif()
      elseif(version STREQUAL "native" OR version MATCHES "^all(-major)?$")
        list(APPEND result ${version})
      elseif(version)
        message(FATAL_ERROR "TORCH_CUDA_ARCH_LIST must name versions such as 9.0, 9.0+PTX, "
                            "or Ampere, Ada, Hopper, Blackwell, got ${version}")
      endif()
    endforeach()
  endforeach()
  list(REMOVE_DUPLICATES result)
  set(${out} "${result}" PARENT_SCOPE)
endfunction()

function(via_cuda_architectures out nvcc)
  via_known_cuda_architectures(known "${nvcc}")
  set(default "")
  foreach(arch IN LISTS VIA_DEFAULT_CUDA_ARCHITECTURES)
    string(REGEX MATCH "^[0-9]+" number "${arch}")
    if(NOT known OR number IN_LIST known)
      list(APPEND default ${arch})
    endif()
  endforeach()

  set(result "")
  if(CMAKE_CUDA_ARCHITECTURES)
    set(result ${CMAKE_CUDA_ARCHITECTURES})
  elseif(NOT "$ENV{CUDAARCHS}" STREQUAL "")
    set(result $ENV{CUDAARCHS})
  elseif(NOT "$ENV{TORCH_CUDA_ARCH_LIST}" STREQUAL "")
    via_translate_torch_architectures(result "$ENV{TORCH_CUDA_ARCH_LIST}")
  endif()

  if(NOT result OR "native" IN_LIST result)
    via_present_cuda_architectures(present)
    if("native" IN_LIST result AND NOT present)
      message(WARNING "CUDA architecture 'native' needs a visible GPU and there is none: "
                      "building for ${default} instead")
    endif()
    set(result ${present})
    if(NOT result)
      set(result ${default})
    endif()
  elseif(result MATCHES "^all(-major)?$")
    set(numbers ${known})
    if(result STREQUAL "all-major")
      list(FILTER numbers INCLUDE REGEX "0$")
    endif()
    list(TRANSFORM numbers APPEND "-real" OUTPUT_VARIABLE result)
    list(GET known -1 newest)
    list(APPEND result ${newest}-virtual)
  endif()
  set(${out} "${result}" PARENT_SCOPE)
endfunction()

# Script mode, `cmake -P`: prints the choice, so that the rules can be tested without a build.
if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  via_cuda_architectures(chosen "${VIA_NVCC}")
  message(STATUS "CUDA architectures: ${chosen}")
endif()
