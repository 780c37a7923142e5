// SPDX-License-Identifier: Apache-2.0

#include "persistent/shape.h"

#include <cmath>
#include <sstream>
#include <stdexcept>
#include <string>

#include "persistent/layout.h"

namespace via::persistent {
namespace {

// So that rows and columns of every product fit int32 and their offsets int64.
constexpr std::int32_t kMaxSize = 1 << 20;
constexpr std::int32_t kMaxVocab = 1 << 24;

template <class Value>
void require(bool holds, const char* field, const std::string& rule, Value value) {
  if (holds) return;
  std::ostringstream text;
  text << "PersistentEngine: " << field << " must " << rule << ", got " << value;
  throw std::invalid_argument(text.str());
}

}  // namespace

void check_range(const char* field, std::int64_t value, std::int64_t least, std::int64_t most) {
  const std::string rule = "be in [" + std::to_string(least) + ", " + std::to_string(most) + "]";
  require(least <= value && value <= most, field, rule, value);
}

void check_shape(const ModelShape& shape) {
  check_range("hidden_size", shape.hidden_size, 1, kMaxSize);
  require(shape.hidden_size % kChunk == 0, "hidden_size", "be a multiple of 64", shape.hidden_size);
  check_range("num_layers", shape.num_layers, 1, kMaxLayers);
  require(shape.head_dim == 64 || shape.head_dim == 128, "head_dim", "be 64 or 128",
          shape.head_dim);
  const std::int32_t most_heads = kMaxSize / shape.head_dim;
  check_range("num_heads", shape.num_heads, 1, most_heads);
  check_range("num_kv_heads", shape.num_kv_heads, 1, most_heads);
  require(shape.num_heads % shape.num_kv_heads == 0, "num_heads",
          "be a multiple of num_kv_heads (" + std::to_string(shape.num_kv_heads) + ")",
          shape.num_heads);
  check_range("intermediate_size", shape.intermediate_size, 1, kMaxSize);
  check_range("vocab_size", shape.vocab_size, 1, kMaxVocab);
  require(shape.norm_epsilon > 0 && std::isfinite(shape.norm_epsilon), "norm_epsilon",
          "be positive and finite", shape.norm_epsilon);
}

}  // namespace via::persistent
