// SPDX-License-Identifier: Apache-2.0
// Stamps of a launch as the CSV that profiling/phase_plot.py reads: a line per block and phase.
#pragma once

#include <cstdio>

#include "persistent/stamps.cuh"
#include "via/persistent_program.h"

namespace via::testing {

inline const char* stamp_name(const persistent::Phase* phases, long long phase) {
  using namespace persistent;
  static constexpr const char* kKinds[] = {"embed",     "load",   "save",    "qkv",  "rotary",
                                           "attention", "output", "gate_up", "down", "head"};
  static_assert(sizeof(kKinds) / sizeof(*kKinds) == static_cast<int>(PhaseKind::kNumKinds));
  switch (phase) {
    case kStampVerify: return "verify";
    case kStampStage: return "stage";
    case kStampCompact: return "compact";
    case kStampSlimRows: return "slim_rows";
    default: return kKinds[static_cast<int>(phases[phase].kind)];
  }
}

// Returns false if the file cannot be written.
inline bool write_stamps(const char* path, const persistent::BlockStamps* blocks, int grid,
                         const persistent::Phase* phases) {
  std::FILE* file = std::fopen(path, "w");
  if (file == nullptr) return false;
  std::fputs("block,phase,kind,layer,begin_ns,end_ns\n", file);
  for (int block = 0; block < grid; ++block) {
    for (unsigned long long i = 0; i < blocks[block].count; ++i) {
      const persistent::Stamp& stamp = blocks[block].stamps[i];
      const int layer = stamp.phase < 0 ? -1 : phases[stamp.phase].layer;
      std::fprintf(file, "%d,%lld,%s,%d,%llu,%llu\n", block, stamp.phase,
                   stamp_name(phases, stamp.phase), layer, stamp.begin_ns, stamp.end_ns);
    }
  }
  return std::fclose(file) == 0;
}

}  // namespace via::testing
