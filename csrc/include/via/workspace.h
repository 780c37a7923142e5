// SPDX-License-Identifier: Apache-2.0
// Work space that the library owns, for callers that do not want to manage it.
#pragma once

#include <cstddef>

namespace via {

// At least `bytes` of memory on GPU `device` for work queued on `stream` (cudaStream_t); null for 0
// bytes. Zero when it is handed out first; every operation leaves it ready for the next call, so
// calls on one stream share it, and calls on different streams never do. The pointer stays valid.
//
// While the stream records a CUDA graph, the calls recorded from this stream into this graph share
// a work space that nothing else uses, and a recorded memset zeroes it at the start of each replay.
// Copies of one graph therefore must not run at the same time.
//
// Memory is allocated when a stream or a graph asks first or for more, and never given back:
// whether a stream is done with it cannot be known without waiting for the device. It at least
// doubles when it grows, so what was outgrown is less than what is in use. Other than that the call
// does not wait for the device. May be called by several threads. Throws std::runtime_error for
// CUDA failures.
void* cuda_workspace(int device, void* stream, std::size_t bytes);

}  // namespace via
