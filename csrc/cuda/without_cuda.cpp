// SPDX-License-Identifier: Apache-2.0
// The CUDA entry points in a build without CUDA: no device, and an error that says why.

#include <stdexcept>

#include "via/device.h"

namespace via {

int cuda_device_count() { return 0; }

DeviceInfo cuda_device_info(int) { throw std::runtime_error("device: built without CUDA"); }

}  // namespace via
