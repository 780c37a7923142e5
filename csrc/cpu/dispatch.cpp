// SPDX-License-Identifier: Apache-2.0
// Chooses the instruction set once per process: the best that was compiled and that the processor
// (and the operating system, for the wide registers) supports. VIA_EXT_CPU_ISA forces a lower one;
// a name that is unknown or not supported here is ignored.
#include <cstdlib>
#include <cstring>

#include "cpu/attention.h"
#include "cpu/kernels.h"

namespace via::cpu {
namespace {

struct IsaEntry {
  const char* name;
  bool supported;
  void (*fill_scan)(Kernels&);
  void (*fill_weights)(Kernels&);
  void (*fill_attention)(AttentionKernels&);
};

struct Choice {
  const char* name;
  Kernels table;
  AttentionKernels attention;
};

#if defined(VIA_HAVE_ISA_v3)
bool has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
#endif

#if defined(VIA_HAVE_ISA_v4)
bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

Choice choose() {
  const IsaEntry entries[] = {
#if defined(VIA_HAVE_ISA_v4)
      {"v4", has_v4(), isa_v4::fill_scan, isa_v4::fill_weights, isa_v4::fill_attention},
#endif
#if defined(VIA_HAVE_ISA_v3)
      {"v3", has_v3(), isa_v3::fill_scan, isa_v3::fill_weights, isa_v3::fill_attention},
#endif
      {"base", true, isa_base::fill_scan, isa_base::fill_weights, isa_base::fill_attention},
  };
  const char* const wanted = std::getenv("VIA_EXT_CPU_ISA");
  const IsaEntry* chosen = nullptr;
  for (const IsaEntry& entry : entries) {
    if (!entry.supported) continue;
    const bool is_wanted = wanted != nullptr && std::strcmp(entry.name, wanted) == 0;
    if (chosen == nullptr || is_wanted) chosen = &entry;
  }
  Choice choice{chosen->name, {}, {}};
  chosen->fill_scan(choice.table);
  chosen->fill_weights(choice.table);
  chosen->fill_attention(choice.attention);
  return choice;
}

const Choice& choice() {
  static const Choice chosen = choose();
  return chosen;
}

}  // namespace

const Kernels& kernels() { return choice().table; }
const AttentionKernels& attention_kernels() { return choice().attention; }
const char* cpu_isa() { return choice().name; }

}  // namespace via::cpu
