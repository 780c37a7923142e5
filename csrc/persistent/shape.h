// SPDX-License-Identifier: Apache-2.0
// Which models the persistent engine takes. Host code only.
#pragma once

#include <cstdint>

#include "via/persistent_program.h"

namespace via::persistent {

// Both throw std::invalid_argument with `PersistentEngine: <field> must <rule>, got <value>`.
void check_shape(const ModelShape& shape);
void check_range(const char* field, std::int64_t value, std::int64_t least, std::int64_t most);

}  // namespace via::persistent
