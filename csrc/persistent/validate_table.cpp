// SPDX-License-Identifier: Apache-2.0
// The table of phases and the gates against the model that they are to compute.

#include <string>

#include "persistent/validate.h"

namespace via::persistent {
namespace {

bool is_product(PhaseKind kind) {
  return kind == PhaseKind::kQkv || kind == PhaseKind::kOutput || kind == PhaseKind::kGateUp ||
         kind == PhaseKind::kDown || kind == PhaseKind::kHead;
}

// What a phase of this kind and layer must be, from the shape and the weight map alone.
Phase expected_phase(const ModelShape& shape, const WeightMap& map, PhaseKind kind, int layer) {
  Phase phase{kind, layer, -1, 0, 0, kRowUnit, -1, -1, -1, -1};
  const int hidden = shape.hidden_size, heads = shape.num_heads * shape.head_dim;
  const auto set = [&](int rows, int columns, std::int64_t weights, std::int64_t norm) {
    phase.rows = rows;
    phase.chunks = (columns + kChunk - 1) / kChunk;
    phase.weights = weights;
    phase.input_norm = norm;
  };
  const LayerMap at = layer < 0 ? LayerMap{} : map.layers[static_cast<std::size_t>(layer)];
  switch (kind) {
    case PhaseKind::kEmbed: phase.weights = shape.is_tied ? map.head : -1; return phase;
    case PhaseKind::kLoad:
    case PhaseKind::kSave: return phase;
    case PhaseKind::kHead:
      set(padded_to(shape.vocab_size, kRowUnit), hidden, map.head, map.final_norm);
      return phase;
    case PhaseKind::kQkv:
      set(heads + 2 * shape.num_kv_heads * shape.head_dim, hidden, at.qkv, at.attention_norm);
      phase.bias = at.bias;
      break;
    case PhaseKind::kRotary: phase.head_norms = at.head_norms; break;
    case PhaseKind::kAttention: break;
    case PhaseKind::kOutput: set(hidden, heads, at.output, -1); break;
    case PhaseKind::kGateUp:
      set(padded_to(2 * shape.intermediate_size, kPairUnit), hidden, at.gate_up, at.mlp_norm);
      phase.unit = kPairUnit;
      break;
    case PhaseKind::kDown: set(hidden, shape.intermediate_size, at.down, -1); break;
    case PhaseKind::kNumKinds: break;
  }
  const bool is_mlp = kind == PhaseKind::kGateUp || kind == PhaseKind::kDown;
  phase.gate = 2 * layer + (is_mlp ? 1 : 0);
  return phase;
}

bool equal(const Phase& a, const Phase& b) {
  return a.kind == b.kind && a.layer == b.layer && a.gate == b.gate && a.rows == b.rows &&
         a.chunks == b.chunks && a.unit == b.unit && a.weights == b.weights &&
         a.input_norm == b.input_norm && a.bias == b.bias && a.head_norms == b.head_norms;
}

struct Step {
  PhaseKind kind;
  int layer;
};

void add_layers(std::vector<Step>& steps, int first, int last) {
  for (int layer = first; layer < last; ++layer) {
    for (const PhaseKind kind : {PhaseKind::kQkv, PhaseKind::kRotary, PhaseKind::kAttention,
                                 PhaseKind::kOutput, PhaseKind::kGateUp, PhaseKind::kDown}) {
      steps.push_back({kind, layer});
    }
  }
}

std::vector<Step> expected_steps(PassKind pass, int shared_prefix, int num_layers) {
  const bool loads = pass == PassKind::kTail;
  const bool saves = pass == PassKind::kSlim || pass == PassKind::kPrefix;
  std::vector<Step> steps{{loads ? PhaseKind::kLoad : PhaseKind::kEmbed, -1}};
  if (!loads) add_layers(steps, 0, shared_prefix);
  if (saves) steps.push_back({PhaseKind::kSave, -1});
  if (pass == PassKind::kPrefix) return steps;
  add_layers(steps, shared_prefix, num_layers);
  steps.push_back({PhaseKind::kHead, -1});
  return steps;
}

// Layers before SAVE in the slim pass.
int shared_prefix_of(const Program& program) {
  const PassRange& range = program.passes[static_cast<int>(PassKind::kSlim)];
  int layers = 0;
  for (int i = range.first; i < range.last; ++i) {
    const PhaseKind kind = program.phases[static_cast<std::size_t>(i)].kind;
    if (kind == PhaseKind::kSave) break;
    layers += kind == PhaseKind::kDown ? 1 : 0;
  }
  return layers;
}

std::string field_error(const ModelShape& shape, const WeightMap& map, const Phase& phase) {
  const auto kind = static_cast<int>(phase.kind);
  if (kind < 0 || kind >= static_cast<int>(PhaseKind::kNumKinds)) return "has no known kind";
  const bool has_layer = phase.kind > PhaseKind::kSave && phase.kind < PhaseKind::kHead;
  if (has_layer ? phase.layer < 0 || phase.layer >= shape.num_layers : phase.layer != -1) {
    return "has no layer of the model";
  }
  if (phase.gate < -1 || phase.gate >= 2 * shape.num_layers) return "has no gate of the model";
  const int least_unit = phase.kind == PhaseKind::kGateUp ? kPairUnit : kRowUnit;
  if (phase.unit < least_unit || phase.unit % least_unit != 0) return "has no whole units of rows";
  if (phase.rows < 0 || phase.chunks < 0 || phase.rows % phase.unit != 0) {
    return "has a part of a unit";
  }
  if (is_product(phase.kind) != (phase.rows > 0 && phase.chunks > 0)) {
    return "has sizes that do not belong to its kind";
  }
  const std::int64_t size = std::int64_t{phase.rows} * phase.chunks * kChunk;
  const bool has_weights = phase.weights >= 0 && phase.weights + size <= map.packed_size;
  if (is_product(phase.kind) && !has_weights) return "has weights outside of the packed ones";
  for (const std::int64_t offset : {phase.input_norm, phase.bias, phase.head_norms}) {
    if (offset < -1 || offset >= map.vectors_size) return "has a vector outside of the vectors";
  }
  return "";
}

}  // namespace

std::string check_fields(const ModelShape& shape, const Program& program) {
  const WeightMap map = weight_map(shape);
  const auto size = static_cast<std::int32_t>(program.phases.size());
  for (int pass_idx = 0; pass_idx < kNumPasses; ++pass_idx) {
    const PassRange& range = program.passes[pass_idx];
    if (range.first < 0 || range.last <= range.first || range.last > size) {
      return std::string("pass ") + name_of(static_cast<PassKind>(pass_idx)) +
             " is no range of the table";
    }
  }
  for (std::size_t i = 0; i < program.phases.size(); ++i) {
    const std::string text = field_error(shape, map, program.phases[i]);
    if (!text.empty()) return "phase " + std::to_string(i) + " " + text;
  }
  return "";
}

std::string check_table(const ModelShape& shape, const Program& program) {
  const WeightMap map = weight_map(shape);
  const int shared_prefix = shared_prefix_of(program);
  for (int pass_idx = 0; pass_idx < kNumPasses; ++pass_idx) {
    const auto pass = static_cast<PassKind>(pass_idx);
    const PassRange& range = program.passes[pass_idx];
    const std::vector<Step> steps = expected_steps(pass, shared_prefix, shape.num_layers);
    const std::string name = std::string("pass ") + name_of(pass);
    if (range.last - range.first != static_cast<int>(steps.size())) {
      return name + " has " + std::to_string(range.last - range.first) + " phases instead of " +
             std::to_string(steps.size());
    }
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const std::size_t phase_idx = static_cast<std::size_t>(range.first) + i;
      const Phase wanted = expected_phase(shape, map, steps[i].kind, steps[i].layer);
      if (equal(program.phases[phase_idx], wanted)) continue;
      return name + ": phase " + std::to_string(phase_idx) + " is not " + name_of(wanted.kind) +
             (wanted.layer < 0 ? "" : " of layer " + std::to_string(wanted.layer)) +
             " of this model";
    }
  }
  return "";
}

std::string check_gates(const Program& program, const Gates (&gates)[kNumPasses]) {
  const auto is_open = [&](PassKind pass, const Phase& phase) {
    return gate_is_open(gates[static_cast<int>(pass)], phase.gate);
  };
  const auto differ = [](PassKind pass, const Phase& phase) {
    return std::string("gate ") + std::to_string(phase.gate) + " is not in pass " + name_of(pass) +
           " what it is in pass full";
  };
  for (const PassKind pass : {PassKind::kSlim, PassKind::kPrefix, PassKind::kTail}) {
    const PassRange& range = program.passes[static_cast<int>(pass)];
    for (int i = range.first; i < range.last; ++i) {
      const Phase& phase = program.phases[static_cast<std::size_t>(i)];
      // Behind it a slim pass goes its own way.
      if (phase.kind == PhaseKind::kSave) break;
      if (is_open(pass, phase) != is_open(PassKind::kFull, phase)) return differ(pass, phase);
    }
  }
  return "";
}

}  // namespace via::persistent
