// SPDX-License-Identifier: Apache-2.0
// The map of via: one params struct and one function per operation, in pipeline order.
#pragma once

// clang-format off: pipeline order
#include "via/types.h"           // dtypes, views, tiers, status bits
#include "via/filter.h"          // draft: filtered distributions and draws
#include "via/tree_attention.h"  // slim, full: new tokens over the KV cache
#include "via/verify.h"          // ratios, route, accept
#include "via/compact_kv.h"      // accept: keep the accepted path's cache rows
#include "via/step.h"            // a decoding step's bookkeeping between passes
#include "via/workspace.h"       // GPU work space that the library owns
#include "via/device.h"          // GPUs, and the CPU instruction set in use
// clang-format on
