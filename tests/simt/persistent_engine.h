// SPDX-License-Identifier: Apache-2.0
// The memory of a persistent engine around a toy model: caches, activations, inputs of a pass.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "cuda/launch.h"
#include "persistent/pass_launch.cuh"
#include "persistent_reference.h"

namespace via::testing {

using persistent::ModelArgs;
using persistent::PassInput;
using persistent::PassKind;

struct EngineSizes {
  int batch, width, capacity, grid, shared_prefix;
  std::int64_t window = 0;
};

class ToyEngine {
 public:
  ToyEngine(ToyModel& model, const EngineSizes& engine_sizes)
      : model_(model),
        shape_(model.shape),
        sizes_(engine_sizes),
        program_(persistent::build_program(shape_, sizes_.shared_prefix)),
        phases_(program_.phases.size()),
        layers_(static_cast<std::size_t>(shape_.num_layers)),
        cache_(2 * layers_.size() * layer_elements()),
        normed_(rows() * shape_.hidden_size),
        square_sums_(static_cast<std::size_t>(sizes_.grid) * persistent::kMaxTokens),
        qkv_(rows() * (shape_.num_heads + 2 * shape_.num_kv_heads) * shape_.head_dim),
        query_(rows() * shape_.num_heads * shape_.head_dim),
        key_(rows() * kv_size()),
        value_(rows() * kv_size()),
        attended_(query_.size(), BFloat16{0}),
        features_(rows() * persistent::padded_to(shape_.intermediate_size, persistent::kChunk),
                  BFloat16{0}),
        logits_(rows() * shape_.vocab_size),
        hidden_(sizes_.batch * hidden_rows() * shape_.hidden_size),
        workspace_(
            persistent::attention_workspace(shape_, sizes_.capacity, sizes_.batch, sizes_.width),
            0),
        control_(1),
        ids_(rows()),
        hidden_index_(rows()),
        counts_(static_cast<std::size_t>(sizes_.batch), 0),
        contexts_(static_cast<std::size_t>(sizes_.batch), 0),
        parents_(rows()),
        depths_(rows()),
        tokens_(static_cast<std::size_t>(sizes_.batch)),
        old_(static_cast<std::size_t>(sizes_.batch)) {
    std::copy(program_.phases.begin(), program_.phases.end(), phases_.begin());
    const std::int64_t head = shape_.head_dim, position = kv_size();
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      layers_[i] = {cache_.data() + 2 * i * layer_elements(),
                    cache_.data() + (2 * i + 1) * layer_elements()};
    }
    reset();
    args_.shape = shape_;
    args_.weights = model.weights();
    args_.cache = {layers_.data(), sizes_.capacity, sizes_.capacity * position, position,
                   head,           sizes_.window};
    args_.buffers = {normed_.data(),
                     square_sums_.data(),
                     qkv_.data(),
                     query_.data(),
                     key_.data(),
                     value_.data(),
                     attended_.data(),
                     features_.data(),
                     logits_.data(),
                     hidden_.data(),
                     workspace_.data(),
                     static_cast<std::int32_t>(rows()),
                     static_cast<std::int32_t>(hidden_rows())};
    args_.phases = phases_.data();
    for (int i = 0; i < persistent::kNumPasses; ++i) {
      args_.passes[i] = program_.passes[i];
      for (std::uint64_t& word : args_.gates[i].words) word = ~std::uint64_t{0};
    }
    args_.batch_size = sizes_.batch;
    args_.control = control_.data();
    args_.watchdog_ns = cuda::watchdog_ns();
  }

  // As after a fault: the barrier's words and the work space.
  void reset() {
    std::memset(static_cast<void*>(control_.data()), 0, sizeof(persistent::Control));
    std::memset(workspace_.data(), 0, workspace_.size());
  }

  // What the row does in the next passes. A new context comes with new old keys and values.
  void set_row(int b, const RowTokens& tokens, Random& random) {
    const auto row = static_cast<std::size_t>(b);
    tokens_[row] = tokens;
    tokens_[row].window = sizes_.window;
    counts_[row] = tokens.count();
    contexts_[row] = tokens.context;
    for (int i = 0; i < tokens.count(); ++i) {
      const auto at = static_cast<std::size_t>(b * sizes_.width + i);
      const auto token = static_cast<std::size_t>(i);
      ids_[at] = tokens.ids[token];
      parents_[at] = tokens.parents[token];
      depths_[at] = tokens.depths[token];
      hidden_index_[at] = static_cast<std::int64_t>(b) * hidden_rows() + i;
    }
    old_[row] = {};
    for (int layer = 0; layer < shape_.num_layers; ++layer) {
      for (auto* side : {&old_[row].key, &old_[row].value}) {
        side->emplace_back();
        for (int i = 0; i < tokens.context; ++i) {
          side->back().push_back(random.numbers(kv_size(), 1.0));
          BFloat16* const to = cached(layer, side == &old_[row].value, b, i);
          for (int d = 0; d < kv_size(); ++d) {
            narrow(static_cast<float>(side->back().back()[static_cast<std::size_t>(d)]), to[d]);
          }
        }
      }
    }
  }

  PassInput input(PassKind pass) {
    PassInput input;
    input.token_ids = pass == PassKind::kTail ? nullptr : ids_.data();
    input.hidden_index = hidden_index_.data();
    input.counts = counts_.data();
    input.contexts = contexts_.data();
    input.parents = parents_.data();
    input.depths = depths_.data();
    input.width = sizes_.width;
    return input;
  }

  RowResult expected(int b, PassKind pass, int first, int last,
                     const std::vector<Numbers>& hidden = {}) const {
    const auto row = static_cast<std::size_t>(b);
    return Reference(model_, args_.gates[static_cast<int>(pass)], tokens_[row], old_[row])
        .run(first, last, hidden);
  }

  BFloat16* cached(int layer, bool is_value, int b, int position) {
    auto* const from =
        static_cast<BFloat16*>(is_value ? layers_[static_cast<std::size_t>(layer)].value
                                        : layers_[static_cast<std::size_t>(layer)].key);
    return from + (static_cast<std::int64_t>(b) * sizes_.capacity + position) * kv_size();
  }
  float* logits(int b, int token) {
    return logits_.data() + static_cast<std::int64_t>(b * sizes_.width + token) * shape_.vocab_size;
  }
  float* hidden(int b, int token) {
    return hidden_.data() + (b * hidden_rows() + token) * shape_.hidden_size;
  }
  int count(int b) { return counts_[static_cast<std::size_t>(b)]; }
  int context(int b) { return contexts_[static_cast<std::size_t>(b)]; }
  std::int64_t kv_size() const { return std::int64_t{shape_.num_kv_heads} * shape_.head_dim; }
  bool workspace_is_zero() {
    return std::all_of(workspace_.begin(), workspace_.end(), [](char c) { return c == 0; });
  }
  DeviceBuffer<BFloat16>& cache() { return cache_; }
  DeviceBuffer<float>& all_logits() { return logits_; }
  persistent::Control& control() { return control_[0]; }
  ModelArgs& args() { return args_; }
  const EngineSizes& sizes() const { return sizes_; }
  const ModelShape& shape() const { return shape_; }

 private:
  std::size_t rows() const { return static_cast<std::size_t>(sizes_.batch) * sizes_.width; }
  std::int64_t hidden_rows() const { return sizes_.width + 1; }
  std::size_t layer_elements() const {
    return static_cast<std::size_t>(sizes_.batch) * sizes_.capacity * kv_size();
  }

  ToyModel& model_;
  ModelShape shape_;
  EngineSizes sizes_;
  persistent::Program program_;
  DeviceBuffer<persistent::Phase> phases_;
  DeviceBuffer<persistent::LayerCache> layers_;
  DeviceBuffer<BFloat16> cache_;
  DeviceBuffer<BFloat16> normed_;
  DeviceBuffer<float> square_sums_, qkv_;
  DeviceBuffer<BFloat16> query_, key_, value_, attended_, features_;
  DeviceBuffer<float> logits_, hidden_;
  DeviceBuffer<char> workspace_;
  DeviceBuffer<persistent::Control> control_;
  DeviceBuffer<std::int64_t> ids_, hidden_index_;
  DeviceBuffer<std::int32_t> counts_, contexts_, parents_, depths_;
  ModelArgs args_;
  std::vector<RowTokens> tokens_;
  std::vector<RowCache> old_;
};

}  // namespace via::testing
