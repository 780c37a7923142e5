// SPDX-License-Identifier: Apache-2.0
// Names threads and source lines in the reports of the race detector.

#include <unistd.h>

#include <cstdio>
#include <string>

#include "race/shadow.h"

namespace via::simt {
namespace {

constexpr Place kSiteBit = 0x80000000u;

struct StartedBlock {
  unsigned first_thread, linear_index;
};

struct Names {
  std::vector<Site> sites;
  std::vector<StartedBlock> blocks;
};

Names& names() {
  static auto* instance = new Names;
  return *instance;
}

// Functions and lines of a return address, innermost first, by addr2line of binutils.
std::string resolve(Place place) {
  char text[512];
  std::snprintf(text, sizeof(text), "addr2line -s -i -f -C -e /proc/%d/exe 0x%x",
                static_cast<int>(getpid()), place - 1);
  std::FILE* pipe = popen(text, "r");
  if (pipe == nullptr) return "?";
  std::string lines;
  for (int count = 0; count < 12 && std::fgets(text, sizeof(text), pipe) != nullptr; ++count) {
    if (count % 2 == 0) continue;  // function names alternate with lines
    std::string line = text;
    line.erase(line.find_first_of(" \n"));  // "file:line (discriminator n)"
    lines += (lines.empty() ? "" : " < ") + line;
  }
  pclose(pipe);
  return lines;
}

std::string where(Place place) {
  if (place == 0) return "?";
  if ((place & kSiteBit) == 0) return resolve(place);
  const Site site = names().sites[place & ~kSiteBit];
  return std::string(site.file != nullptr ? site.file : "?") + ":" + std::to_string(site.line);
}

std::string describe(const Access& access) {
  std::string text = access.flags & kBulk     ? "bulk copy, "
                     : access.flags & kAsync  ? "cp.async, "
                     : access.flags & kAtomic ? "atomic "
                                              : "";
  text += access.write ? "write by " : "read by ";
  const std::vector<StartedBlock>& blocks = names().blocks;
  for (std::size_t i = blocks.size(); i-- > 0;) {
    if (access.thread < blocks[i].first_thread) continue;
    text += "block " + std::to_string(blocks[i].linear_index) + " thread " +
            std::to_string(access.thread - blocks[i].first_thread);
    break;
  }
  return text + " at " + where(access.place);
}

// The text is kept in one place: fail() may leave this stack for good.
std::string& report() {
  static auto* text = new std::string;
  return *text;
}

}  // namespace

Place place_of(Site site) {
  std::vector<Site>& sites = names().sites;
  for (std::size_t i = sites.size(); i-- > 0;) {
    if (sites[i].file == site.file && sites[i].line == site.line) {
      return static_cast<Place>(i) | kSiteBit;
    }
  }
  sites.push_back(site);
  return static_cast<Place>(sites.size() - 1) | kSiteBit;
}

void note_block(unsigned first_thread, unsigned linear_index) {
  names().blocks.push_back({first_thread, linear_index});
}

void forget_blocks() { names().blocks.clear(); }

void report_race(const char* kind, const void* pointer, const Access& access,
                 const Access& earlier) {
  report() = std::string(kind) + "\n  " + describe(access) + "\n  after " + describe(earlier);
  fail("data race", Site{}, "at %p: %s", pointer, report().c_str());
}

void report_out_of_bounds(const void* pointer, std::size_t bytes, const Access& access) {
  report() = describe(access);
  fail("out of bounds", Site{}, "%zu bytes at %p, outside every allocation\n  %s", bytes, pointer,
       report().c_str());
}

}  // namespace via::simt
