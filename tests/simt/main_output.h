// SPDX-License-Identifier: Apache-2.0
// What a main has computed, for comparison with another run of it: appended to the file that
// VIA_MAIN_OUTPUT names; nothing without that variable. gpu_check compares two runs bit by bit.
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>

namespace via::testing {

inline void write_output(const void* data, std::size_t bytes) {
  const char* const path = std::getenv("VIA_MAIN_OUTPUT");
  if (path == nullptr) return;
  std::FILE* const file = std::fopen(path, "ab");
  const bool written = file != nullptr && std::fwrite(data, 1, bytes, file) == bytes;
  if (!written || std::fclose(file) != 0) {
    std::fprintf(stderr, "cannot write %s\n", path);
    std::exit(2);
  }
}

}  // namespace via::testing
