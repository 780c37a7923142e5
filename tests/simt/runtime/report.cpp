// SPDX-License-Identifier: Apache-2.0
// Options, and how a layer error ends: with exit status 86, or as an exception out of launch.

#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "runtime/internal.h"

namespace via::simt {
namespace {

Schedule schedule_named(const char* name) {
  if (std::strcmp(name, "fifo") == 0) return Schedule::kFifo;
  if (std::strcmp(name, "lifo") == 0) return Schedule::kLifo;
  if (std::strcmp(name, "random") == 0) return Schedule::kRandom;
  if (std::strcmp(name, "pct") == 0) return Schedule::kPct;
  std::fprintf(stderr, "VIA_SIMT_SCHED must be fifo, lifo, random or pct, got %s\n", name);
  std::_Exit(2);
}

Options read_environment() {
  Options result;
  if (const char* text = std::getenv("VIA_SIMT_SCHED")) result.schedule = schedule_named(text);
  if (const char* text = std::getenv("VIA_SIMT_SEED")) {
    result.seed = std::strtoull(text, nullptr, 0);
  }
  if (const char* text = std::getenv("VIA_SIMT_RESIDENT")) {
    result.resident_blocks = static_cast<unsigned>(std::atoi(text));
  }
  if (const char* text = std::getenv("VIA_SIMT_PREEMPT")) result.preempt = std::atoi(text) != 0;
  if (const char* text = std::getenv("VIA_SIMT_WATCHDOG")) {
    result.watchdog_s = static_cast<unsigned>(std::atoi(text));
  }
  if (const char* text = std::getenv("VIA_SIMT_THROW")) {
    result.throw_on_error = std::atoi(text) != 0;
  }
  return result;
}

const char* schedule_name() {
  static const char* const kNames[] = {"fifo", "lifo", "random", "pct"};
  return kNames[static_cast<int>(options().schedule)];
}

std::string printed(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string printed(const char* format, ...) {
  char text[512];
  va_list list;
  va_start(list, format);
  std::vsnprintf(text, sizeof(text), format, list);
  va_end(list);
  return text;
}

std::string message(const char* kind, Site site, const std::string& detail) {
  const Runtime& rt = runtime();
  std::string text = std::string(kind) + " in " +
                     (rt.config.name != nullptr ? rt.config.name : "the host") + ": " + detail;
  if (site.file != nullptr) text += printed("\n  at %s:%d", site.file, site.line);
  if (rt.self != &rt.host) {
    const uint3 block = rt.self->block, thread = rt.self->thread;
    text += printed("\n  block (%u,%u,%u) thread (%u,%u,%u)", block.x, block.y, block.z, thread.x,
                    thread.y, thread.z);
  }
  text += printed("  [VIA_SIMT_SCHED=%s VIA_SIMT_SEED=%llu]", schedule_name(),
                  static_cast<unsigned long long>(options().seed));
  return text;
}

}  // namespace

Options& options() {
  static Options values = read_environment();
  return values;
}

// "N threads: what at file:line [some of them]", one line per place.
const std::string& waiting_threads() {
  constexpr std::size_t kShown = 6;
  std::map<std::string, std::vector<std::string>> places;
  for (const Block* block : runtime().blocks) {
    for (const Fiber* fiber : block->fibers) {
      if (!belongs_to(*fiber, *block)) continue;
      const char* file = fiber->site.file != nullptr ? fiber->site.file : "?";
      places[printed("%s at %s:%d", fiber->waits_in, file, fiber->site.line)].push_back(
          printed("block %u thread %u", fiber->block.x, fiber->thread.x));
    }
  }
  static std::string text;  // no temporary that a fiber would leave behind
  text.clear();
  for (const auto& [place, threads] : places) {
    text += printed("  %zu threads: ", threads.size()) + place + " [";
    for (std::size_t i = 0; i < threads.size() && i < kShown; ++i) {
      text += (i != 0 ? ", " : "") + threads[i];
    }
    text += threads.size() > kShown ? ", ...]\n" : "]\n";
  }
  return text;
}

void fail(const char* kind, Site site, const char* format, ...) {
  Runtime& rt = runtime();
  {
    char detail[4096];
    va_list list;
    va_start(list, format);
    std::vsnprintf(detail, sizeof(detail), format, list);
    va_end(list);
    rt.error = message(kind, site, detail);
  }
  if (!options().throw_on_error) {
    std::fflush(stdout);
    std::fprintf(stderr, "\n==SIMT-ERROR== %s\n", rt.error.c_str());
    std::fflush(stderr);
    _exit(kErrorStatus);
  }
  if (rt.self == &rt.host) {
    throw std::runtime_error(std::exchange(rt.error, {}));
  }
  // Its stack goes back to the pool like the others; one that just ended is on its way there.
  if (rt.self != rt.exited) rt.self->state = State::kReady;
  // Launch sees the error, drops all fibers where they stand, and throws.
  switch_to(&rt.host, true);
  std::abort();
}

}  // namespace via::simt
