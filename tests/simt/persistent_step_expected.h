// SPDX-License-Identifier: Apache-2.0
// A step by the CPU's stages, verify and moves, one after the other, as
// via_ext/engines/device_stages.py has it. Logits rows are gathered, masks are written out.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "core/step_row.h"
#include "persistent_step_world.h"
#include "via/compact_kv.h"
#include "via/filter.h"
#include "via/step.h"
#include "via/verify.h"

namespace via::testing {

class ExpectedStep {
 public:
  // Runs a pass of the model on the reference's memory.
  using Pass = std::function<void(PassKind, const PassInput&)>;

  ExpectedStep(World& world, Pass pass)
      : launch_(world.launch),
        p_(world.launch.step),
        vocab_(world.launch.model.shape.vocab_size),
        pass_(std::move(pass)) {}

  bool is_full = false, has_prefix = false;
  bool leaves_chain = false;  // the audit judges rows that do not follow each other in the tail

  void run() {
    step_cpu(StepStage::kBegin, p_);
    pass(p_.has_slim ? PassKind::kSlim : PassKind::kFull);
    if (!p_.has_slim) {
      judge_draft(launch_.full, p_.full, logits(block_rows()), nullptr);
      step_cpu(StepStage::kFull, p_);
      compact(false);
      return;
    }
    judge_draft(launch_.slim, p_.slim, logits(block_rows()), nullptr);
    step_cpu(StepStage::kSlim, p_);
    if (launch_.slim_rows != nullptr) save_slim_rows();
    if (launch_.notes_path) note_path(0);
    compact(true);
    for (int b = 0; b < p_.batch_size; ++b) {
      is_full |= p_.words[b * kStepWords + kWordFull] != 0;
      has_prefix |= p_.words[b * kStepWords + kWordPrefix] != 0;
    }
    if (is_full) tail();
  }

 private:
  using Rows = std::vector<std::int64_t>;  // [B, R] rows of the pass's logits

  void pass(PassKind kind) {
    const bool is_tail = kind == PassKind::kTail;
    pass_(kind, is_tail ? persistent::tail_input(p_) : persistent::block_input(p_));
  }

  void tail() {
    if (has_prefix) pass(PassKind::kPrefix);
    pass(PassKind::kTail);
    if (p_.audit != StepAudit::kNone) {
      judge_audit();
      step_cpu(p_.audit == StepAudit::kGreedy ? StepStage::kGreedy : StepStage::kAudit, p_);
    }
    if (p_.audit != StepAudit::kGreedy) {
      if (launch_.notes_path) note_path(1);
      judge_draft(launch_.full, p_.full, logits(draft_rows()), &p_.slim);
      step_cpu(StepStage::kFull, p_);
    }
    compact(false);
  }

  Rows block_rows() const {
    Rows rows(p_.batch_size * (p_.num_nodes + 1));
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::int64_t>(i);
    return rows;
  }
  Rows draft_rows() const {
    const int width = p_.num_nodes + 1;
    Rows rows;
    for (int i = 0; i < p_.batch_size * width; ++i) {
      rows.push_back(std::int64_t{i} / width * p_.tail_width + p_.draft_rows[i]);
    }
    return rows;
  }
  std::vector<float> logits(const Rows& rows) const {
    std::vector<float> values;
    for (const std::int64_t row : rows) {
      const float* const from = launch_.model.buffers.logits + row * vocab_;
      values.insert(values.end(), from, from + vocab_);
    }
    return values;
  }
  // [count, words]: all ones, or the held words.
  std::vector<std::uint32_t> masks(const std::vector<bool>& held) const {
    std::vector<std::uint32_t> words;
    for (const bool is_held : held) {
      for (int w = 0; w < (vocab_ + 31) / 32; ++w) {
        words.push_back(is_held ? launch_.held_words[w] : ~0u);
      }
    }
    return words;
  }

  void judge(VerifyParams p, int nodes, const Verification& out, const std::vector<float>& values,
             const std::vector<bool>& held, const Verification* resume) {
    p.batch_size = p_.batch_size;
    p.num_nodes = nodes;
    p.vocab_size = vocab_;
    if (p.draft_probs.data == nullptr) p.draft_vocab_size = vocab_;
    p.logits = {values.data(), DType::kFloat32, {std::int64_t{nodes + 1} * vocab_, vocab_, 0}};
    std::vector<std::uint32_t> words;
    if (launch_.held_words != nullptr) {
      words = masks(held);
      const std::int64_t count = (vocab_ + 31) / 32;
      p.allowed = {words.data(), DType::kInt32, {(nodes + 1) * count, count, 0}};
    }
    if (p.seed.data != nullptr) p.position = {p_.verify_calls, DType::kInt64, {1, 0, 0}};
    p.resume = resume;
    p.out = out;
    verify_cpu(p);
  }

  void judge_draft(VerifyParams p, const Verification& out, const std::vector<float>& values,
                   const Verification* resume) {
    const int nodes = p_.num_nodes;
    p.draft_token_ids = {p_.draft_ids, DType::kInt64, {nodes, 0, 0}};
    p.parents = {p_.draft_parents, DType::kInt32, {nodes, 0, 0}};
    p.node_counts = {p_.node_counts, DType::kInt32, {1, 0, 0}};
    const std::vector<bool> held(p_.block_held, p_.block_held + p_.batch_size * (nodes + 1));
    judge(p, nodes, out, values, held, resume);
  }

  void judge_audit() {
    const int nodes = p_.audit_nodes, chain = p_.max_backlog + p_.num_nodes;
    VerifyParams p = launch_.audit;
    p.draft_token_ids = {p_.chain_ids, DType::kInt64, {chain, 0, 0}};
    p.parents = {p_.chain_parents, DType::kInt32, {chain, 0, 0}};
    p.node_counts = {p_.chain_counts, DType::kInt32, {1, 0, 0}};
    if (launch_.slim_rows != nullptr) {
      p.draft_probs = {launch_.slim_rows,
                       DType::kFloat32,
                       {(p_.max_backlog + std::int64_t{1}) * vocab_, vocab_, 0}};
      p.draft_vocab_size = vocab_;
    }
    Rows rows;
    std::vector<bool> held;
    for (int b = 0; b < p_.batch_size; ++b) {
      for (int r = 0; r <= nodes; ++r) {
        const std::int64_t at = std::int64_t{b} * (chain + 1) + r;
        const bool is_tree = p_.audit == StepAudit::kGreedy;
        rows.push_back(std::int64_t{b} * p_.tail_width + (is_tree ? r : p_.chain_rows[at]));
        held.push_back(p_.chain_held[at]);
        leaves_chain |= !is_tree && r < p_.chain_counts[b] && p_.chain_rows[at] != r;
      }
    }
    judge(p, nodes, p_.audit_result, logits(rows), held, nullptr);
  }

  void save_slim_rows() {
    const int width = p_.num_nodes + 1;
    Rows rows;
    std::vector<bool> held;
    for (int i = 0; i < p_.batch_size * width; ++i) {
      rows.push_back(i / width * width + p_.slim_source[i]);
      held.push_back(p_.block_held[rows.back()]);
    }
    const std::vector<float> values = logits(rows);
    const std::vector<std::uint32_t> words =
        launch_.held_words != nullptr ? masks(held) : std::vector<std::uint32_t>{};
    std::vector<float> probs(values.size());
    FilteredProbsParams p;
    p.num_rows = static_cast<int>(rows.size());
    p.vocab_size = vocab_;
    p.logits = {values.data(), DType::kFloat32, {vocab_, 0, 0}};
    if (!words.empty()) p.allowed = {words.data(), DType::kInt32, {(vocab_ + 31) / 32, 0, 0}};
    p.filter = launch_.slim.filter;
    p.probs = probs.data();
    p.num_threads = 1;
    filtered_probs_cpu(p);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::copy_n(probs.begin() + i * vocab_, vocab_,
                  launch_.slim_rows + p_.slim_target[i] * vocab_);
    }
  }

  void note_path(int column) {
    const std::vector<float> values = logits(column == 0 ? block_rows() : draft_rows());
    const float given = launch_.slim.filter.temperature.value;
    const double temperature = given > 0.0f ? given : 1.0;
    for (int b = 0; b < p_.batch_size; ++b) {
      for (int i = 0; i < p_.walk[4 * b]; ++i) {
        const std::int32_t* const path = p_.slim.path + b * p_.num_nodes;
        const int row = b * (p_.num_nodes + 1) + (i > 0 ? path[i - 1] + 1 : 0);
        const float* const logit = values.data() + std::int64_t{row} * vocab_;
        double sum = 0.0;
        for (int v = 0; v < vocab_; ++v) sum += std::exp(logit[v] / temperature);
        const auto id = p_.draft_ids[b * p_.num_nodes + path[i]];
        const_cast<float*>(p_.path_logprobs)[2 * (b * p_.num_nodes + i) + column] =
            static_cast<float>(logit[id] / temperature - std::log(sum));
      }
    }
  }

  void compact(bool with_hidden) {
    if (!launch_.moves) return;
    const persistent::MoveArgs moves = persistent::make_moves(launch_);
    CompactKvParams call;
    call.batch_size = p_.batch_size;
    call.num_nodes = p_.num_nodes;
    call.num_caches = moves.num_caches;
    call.capacity = p_.capacity;
    call.caches = launch_.caches;
    call.context_lens = {p_.move_context, DType::kInt32, {1, 0, 0}};
    call.num_accepted = {p_.move_counts, DType::kInt32, {1, 0, 0}};
    call.path = {p_.move_path, DType::kInt32, {p_.num_nodes, 0, 0}};
    call.num_threads = 1;
    compact_kv_cpu(call);
    if (!with_hidden) return;
    call.num_caches = 1;
    call.caches = &moves.hidden;
    call.capacity = launch_.model.buffers.hidden_rows;
    call.context_lens.data = p_.hidden_context;
    call.num_accepted.data = p_.hidden_counts;
    compact_kv_cpu(call);
  }

  const StepLaunch& launch_;
  StepParams& p_;
  int vocab_;
  Pass pass_;
};

}  // namespace via::testing
