// SPDX-License-Identifier: Apache-2.0
// The arguments of ops.tree_attention, from Python objects to TreeAttentionParams.
#pragma once

#include "bindings/tensor.h"
#include "via/tree_attention.h"

namespace via::python {

// As given by the caller; None where not given.
struct AttentionArguments {
  py::handle query, key, value, key_cache, value_cache, context_lens;
  py::handle parents, num_tokens, scale, softcap, window, page_table;
  py::handle out, lse;
};

struct AttentionInputs {
  TreeAttentionParams params;
  Tensor query;  // sets the dtype, the sizes and the device of the call
};

// Both raise TypeError or ValueError for the first argument that breaks a rule.
// query, key, value, caches and page table, in attention_inputs.cpp.
AttentionInputs read_attention_tensors(const AttentionArguments& arguments);
// The rest, in attention_options.cpp.
void read_attention_options(AttentionInputs& inputs, const AttentionArguments& arguments);

// True if two tensors of one shape have an element in common; different strides count as a yes
// where their memory interleaves.
bool share_elements(const Tensor& a, const Tensor& b);

}  // namespace via::python
