// SPDX-License-Identifier: Apache-2.0
// What the entry points of the simulation share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <stdexcept>
#include <string>

#include "runtime.h"

namespace via::simulated {

// The simulation has one scheduler for the process. Its errors become Python exceptions.
class Turn {
 public:
  Turn() : lock_(mutex()) { simt::options().throw_on_error = true; }

 private:
  static std::mutex& mutex() {
    static std::mutex mutex;
    return mutex;
  }
  const std::lock_guard<std::mutex> lock_;
};

// Runs a kernel and makes sure that it leaves its work space zero.
template <typename Launch>
void launch_clean(const char* op, void* workspace, std::size_t bytes, Launch launch) {
  char* const begin = static_cast<char*>(workspace);
  char* const end = begin + bytes;
  try {
    launch();
    const char* const wrong = std::find_if(begin, end, [](char byte) { return byte != 0; });
    if (wrong != end) {
      throw std::runtime_error(std::string(op) + ": work space byte " +
                               std::to_string(wrong - begin) + " is not zero");
    }
  } catch (const std::exception&) {
    std::fill(begin, end, 0);  // the next call is not to suffer for this one
    throw;
  }
}

}  // namespace via::simulated
