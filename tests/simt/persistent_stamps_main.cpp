// SPDX-License-Identifier: Apache-2.0
// persistent_stamps_<build> [FILE]: what a pass of a toy Llama notes with VIA_STAMPS: every block
// every open phase once, in order, and none before a grid barrier lets it. With a name the stamps
// go there as CSV, for profiling/phase_plot.py.
#define VIA_STAMPS

#include <algorithm>
#include <vector>

#include "persistent_engine.h"
#include "stamps_file.h"

namespace via::testing {
namespace {

using persistent::BlockStamps;
using persistent::Phase;
using persistent::PhaseKind;
using persistent::Stamp;
using TestPreset = persistent::Preset<persistent::Small<64>, 0>;

// Latest end of a phase and earliest begin of the next, over all blocks: none began before all had
// ended, where a barrier stands between.
void check_order(Checker& checker, DeviceBuffer<BlockStamps>& blocks, const Phase* phases) {
  for (unsigned long long i = 0; i + 1 < blocks[0].count; ++i) {
    if (phases[blocks[0].stamps[i].phase].kind == PhaseKind::kSave) continue;
    unsigned long long last_end = 0, first_begin = ~0ull;
    for (const BlockStamps& block : blocks) {
      last_end = std::max(last_end, block.stamps[i].end_ns);
      first_begin = std::min(first_begin, block.stamps[i + 1].begin_ns);
    }
    checker.expect(last_end < first_begin, "phase %lld overlaps the next",
                   blocks[0].stamps[i].phase);
  }
}

int run(const char* path) {
  constexpr int kSkipped = 2;  // the second layer's MLP: GATE_UP and DOWN
  const ModelShape shape = toy_shape(64, 2, 2, 1, 64, 72, 96);
  ToyModel model(shape, 40, 1);
  const EngineSizes sizes = {1, 5, 32, 3, 1};
  ToyEngine engine(model, sizes);
  Random random(1);
  RowTokens tokens;
  tokens.context = 11;
  for (int i = 0; i < sizes.width; ++i) {
    tokens.ids.push_back(i);
    tokens.parents.push_back(i - 1);
    tokens.depths.push_back(i);
  }
  engine.set_row(0, tokens, random);
  ModelArgs& args = engine.args();
  args.gates[static_cast<int>(PassKind::kSlim)].words[0] &= ~std::uint64_t{8};
  DeviceBuffer<BlockStamps> stamps(static_cast<std::size_t>(sizes.grid), BlockStamps{});
  args.stamps = stamps.data();
  persistent::launch_pass<TestPreset>(args, PassKind::kSlim, engine.input(PassKind::kSlim),
                                      sizes.grid, nullptr);
  device_sync();

  Checker checker;
  const persistent::PassRange range = args.passes[static_cast<int>(PassKind::kSlim)];
  const auto wanted = static_cast<unsigned long long>(range.last - range.first - kSkipped);
  for (const BlockStamps& block : stamps) {
    checker.expect(block.count == wanted, "%llu stamps, not %llu", block.count, wanted);
    long long before = range.first - 1;
    for (unsigned long long i = 0; i < block.count; ++i) {
      const Stamp& stamp = block.stamps[i];
      const bool is_open = persistent::gate_is_open(args.gates[static_cast<int>(PassKind::kSlim)],
                                                    args.phases[stamp.phase].gate);
      checker.expect(stamp.phase > before && is_open && stamp.begin_ns < stamp.end_ns,
                     "phase %lld behind %lld", stamp.phase, before);
      before = stamp.phase;
    }
  }
  check_order(checker, stamps, args.phases);
  if (path != nullptr) {
    checker.expect(write_stamps(path, stamps.data(), sizes.grid, args.phases),
                   "%s cannot be written", path);
  }
  return checker.status();
}

}  // namespace
}  // namespace via::testing

int main(int argc, char** argv) { return via::testing::run(argc > 1 ? argv[1] : nullptr); }
