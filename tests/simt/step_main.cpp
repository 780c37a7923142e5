// SPDX-License-Identifier: Apache-2.0
// step's kernels against step_cpu: every stage on random states, all arrays compared byte by byte.
// Arguments: number of random cases, seed. Exit status 1 on differences.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "cuda/step.cuh"
#include "gpu_or_simt.h"
#include "via/step.h"

namespace {

using via::StepAudit;
using via::StepParams;
using via::StepStage;

std::mt19937_64 random_bits;
int uniform(int low, int high) {
  return low + static_cast<int>(random_bits() % static_cast<std::uint64_t>(high - low + 1));
}

struct Sizes {
  int rows, nodes, backlog, capacity;
  int chain() const { return backlog + nodes; }
  int tail() const { return backlog + nodes + 2; }
};

// One block of memory for all arrays of a run: host and kernels work on copies of it.
class Arena {
 public:
  explicit Arena(char* memory) : memory_(memory) {}
  template <typename T>
  void place(T*& field, std::int64_t count) {
    offset_ = (offset_ + 15) / 16 * 16;
    field = reinterpret_cast<T*>(memory_ + offset_);
    offset_ += count * static_cast<std::int64_t>(sizeof(T));
  }
  std::int64_t bytes() const { return offset_; }

 private:
  char* memory_;
  std::int64_t offset_ = 0;
};

void place_verification(Arena& arena, via::Verification& v, int rows, int nodes) {
  arena.place(v.path, rows * nodes);
  arena.place(v.num_accepted, rows);
  arena.place(v.next_token, rows);
  arena.place(v.next_row, rows);
  arena.place(v.escalate, rows);
  arena.place(v.logprobs, rows * (nodes + 1));
  arena.place(v.status, rows);
}

template <typename T>
T* writable(const T* pointer) {
  return const_cast<T*>(pointer);
}

// Lays the arrays out behind `memory`; returns the bytes they take.
std::int64_t place(StepParams& p, const Sizes& s, char* memory) {
  Arena arena(memory);
  const int width = s.nodes + 1;
  const auto each = [&](std::int64_t columns, auto&... fields) {
    (arena.place(fields, s.rows * columns), ...);
  };
  arena.place(p.eos_token_ids, p.num_eos);
  each(s.capacity, p.tokens, p.tiers, p.logprobs, p.overshoot);
  each(1, p.prompt_lens, p.lengths, p.frontiers, p.confirmed, p.kept, p.finished, p.verify_calls);
  each(1, p.steps, p.status, p.draft_counts, p.node_counts, p.context_lens, p.block_counts);
  each(via::kStepCounters, p.counters);
  each(via::kStepWords, p.words);
  each(s.nodes, p.draft_ids, p.draft_parents, p.move_path);
  each(width, p.block_ids, p.block_parents, p.block_depths, p.hidden_index, p.block_held);
  each(width, p.slim_source, p.slim_target, p.draft_rows);
  each(4, p.walk);
  each(1, p.own_token, p.own_logprob, p.tail_context, p.tail_counts, p.chain_counts);
  each(s.tail(), p.tail_parents, p.tail_depths);
  each(s.chain(), p.chain_ids, p.chain_parents);
  each(s.chain() + 1, p.chain_rows, p.chain_held);
  each(2 * s.nodes, p.path_logprobs);
  each(1, p.move_context, p.move_counts, p.hidden_context, p.hidden_counts);
  place_verification(arena, p.slim, s.rows, s.nodes);
  place_verification(arena, p.full, s.rows, s.nodes);
  place_verification(arena, p.audit_result, s.rows, s.chain());
  return arena.bytes();
}

// A result that verify could give: an ascending path of `most` nodes at most.
void fill_result(via::Verification& v, int rows, int nodes, const std::int32_t* counts) {
  for (int b = 0; b < rows; ++b) {
    int node = uniform(0, 1);
    int length = 0;
    for (; node < counts[b] && uniform(0, 4) > 0; node += uniform(1, 2)) {
      v.path[b * nodes + length++] = node;
    }
    for (int i = length; i < nodes; ++i) v.path[b * nodes + i] = -1;
    v.num_accepted[b] = length;
    v.next_token[b] = uniform(0, 9);
    v.next_row[b] = via::last_row(v.path + b * nodes, length);
    v.escalate[b] = uniform(0, 2) == 0;
    v.status[b] = uniform(0, 3);
    for (int i = 0; i <= nodes; ++i) v.logprobs[b * (nodes + 1) + i] = -0.1f * uniform(0, 40);
  }
}

void fill(StepParams& p, const Sizes& s) {
  for (int i = 0; i < p.num_eos; ++i) writable(p.eos_token_ids)[i] = uniform(0, 9);
  for (int b = 0; b < s.rows; ++b) {
    const int backlog = p.has_slim ? uniform(0, s.backlog) : 0;
    writable(p.prompt_lens)[b] = uniform(1, 4);
    p.lengths[b] = p.prompt_lens[b] + backlog + uniform(0, 3);
    p.frontiers[b] = p.lengths[b] - 1 - backlog;
    p.confirmed[b] = p.frontiers[b] + 1;
    p.finished[b] = uniform(0, 5) == 0;
    writable(p.draft_counts)[b] = uniform(0, s.nodes);
    for (int node = 0; node < s.nodes; ++node) {
      writable(p.draft_ids)[b * s.nodes + node] = uniform(-1, 9);
      writable(p.draft_parents)[b * s.nodes + node] = uniform(-1, node - (uniform(0, 19) > 0));
    }
    for (int i = 0; i < s.capacity; ++i) p.tokens[b * s.capacity + i] = uniform(0, 9);
    for (int i = 0; i < s.capacity; ++i) p.tiers[b * s.capacity + i] = uniform(0, 2);
  }
}

class Case {
 public:
  explicit Case(via::testing::Checker& checker) : checker_(checker) {
    sizes_ = {uniform(1, 3), uniform(0, 7), uniform(1, 6), 64};
    host_.num_nodes = sizes_.nodes;
    host_.batch_size = sizes_.rows;
    host_.capacity = sizes_.capacity;
    host_.tail_width = sizes_.tail();
    host_.max_backlog = sizes_.backlog;
    host_.max_new_tokens = uniform(4, 16);
    host_.min_new_tokens = uniform(0, 4);
    host_.num_eos = uniform(0, 2);
    host_.has_slim = uniform(0, 3) > 0;
    if (host_.has_slim) host_.audit = static_cast<StepAudit>(uniform(0, 2));
    host_.audit_nodes = sizes_.chain();
    char nowhere = 0;  // only the size is wanted
    bytes_ = place(host_, sizes_, &nowhere);
    memory_.assign(bytes_, 0);
    place(host_, sizes_, memory_.data());
    fill(host_, sizes_);
  }

  void run() {
    compare(StepStage::kBegin);
    if (host_.has_slim) {
      fill_result(host_.slim, sizes_.rows, sizes_.nodes, host_.node_counts);
      compare(StepStage::kSlim);
    }
    if (host_.audit != StepAudit::kNone) {
      fill_result(host_.audit_result, sizes_.rows, sizes_.chain(), host_.chain_counts);
      compare(host_.audit == StepAudit::kChain ? StepStage::kAudit : StepStage::kGreedy);
    }
    if (host_.audit == StepAudit::kGreedy) return;
    fill_result(host_.full, sizes_.rows, sizes_.nodes, host_.node_counts);
    compare(StepStage::kFull);
  }

 private:
  void compare(StepStage stage) {
    via::testing::DeviceBuffer<char> memory(bytes_);
    std::copy(memory_.begin(), memory_.end(), memory.begin());
    StepParams device = host_;
    place(device, sizes_, memory.data());
    via::cuda::launch_step(stage, device);
    via::testing::device_sync();
    via::step_cpu(stage, host_);
    for (std::int64_t i = 0; i < bytes_; ++i) {
      checker_.expect(memory[i] == memory_[i], "stage %d: byte %ld of %ld", static_cast<int>(stage),
                      static_cast<long>(i), static_cast<long>(bytes_));
    }
  }

  via::testing::Checker& checker_;
  Sizes sizes_;
  StepParams host_;
  std::int64_t bytes_ = 0;
  std::vector<char> memory_;
};

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 100;
  random_bits.seed(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  via::testing::Checker checker;
  for (int i = 0; i < cases; ++i) Case(checker).run();
  return checker.status();
}
