// SPDX-License-Identifier: Apache-2.0
// What a kernel launch costs, in a stream and in a CUDA graph.
//
// What: microseconds per kernel for chains of 256 dependent kernels that do next to nothing: one
// CTA or one per SM, launched one by one, as nodes of one graph, and (one per SM) cooperatively;
// and microseconds of a graph of one node, launched again and again.
// How: events around chains, median; every kernel adds one to a counter, and the count is compared.
// Informs: fusing the stages of a verification into one kernel against two or three in a graph, and
// the price of a grid barrier compared with a kernel boundary.
#include "bench.cuh"

namespace via::s0 {
namespace {

constexpr int kChain = 256;
constexpr int kRepeats = 9;

__global__ void tick_kernel(unsigned* counter /* [1] */) {
  if (blockIdx.x == 0) *counter += 1;
}

cudaError_t launch(bool cooperative, int grid, unsigned* counter, cudaStream_t stream) {
  void* args[] = {&counter};
  if (cooperative) {
    return cudaLaunchCooperativeKernel(tick_kernel, dim3(grid), dim3(1), args, 0, stream);
  }
  return cudaLaunchKernel(tick_kernel, dim3(grid), dim3(1), args, 0, stream);
}

// Median microseconds per kernel of `submit`, which enqueues `kernels` of them.
template <typename Submit>
double us_per_kernel(Submit submit, int kernels, Buffer<unsigned>& counter, cudaStream_t stream,
                     const std::string& parameters) {
  cudaEvent_t begin, end;
  S0_CHECK(cudaEventCreate(&begin));
  S0_CHECK(cudaEventCreate(&end));
  counter.zero();
  S0_CHECK(cudaDeviceSynchronize());
  std::vector<double> times;
  for (int i = 0; i < kRepeats; ++i) {
    S0_CHECK(cudaEventRecord(begin, stream));
    submit();
    S0_CHECK(cudaGetLastError());
    S0_CHECK(cudaEventRecord(end, stream));
    S0_CHECK(cudaEventSynchronize(end));
    float ms = 0.0f;
    S0_CHECK(cudaEventElapsedTime(&ms, begin, end));
    if (i > 0) times.push_back(ms * 1e3 / kernels);
  }
  S0_CHECK(cudaEventDestroy(begin));
  S0_CHECK(cudaEventDestroy(end));
  if (counter.copy()[0] != static_cast<unsigned>(kernels * kRepeats)) {
    fail(parameters, "kernels were lost");
  }
  return quantile(times, 0.5);
}

// A graph of `nodes` kernels in a row; null if the runtime captures no such launch.
cudaGraphExec_t make_graph(bool cooperative, int grid, int nodes, unsigned* counter,
                           cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  S0_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < nodes; ++i) {
    if (launch(cooperative, grid, counter, stream) != cudaSuccess) break;
  }
  if (cudaStreamEndCapture(stream, &graph) != cudaSuccess || graph == nullptr) {
    cudaGetLastError();
    return nullptr;
  }
  S0_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  S0_CHECK(cudaGraphDestroy(graph));
  return executable;
}

void bench(bool cooperative, int grid, cudaStream_t stream) {
  Buffer<unsigned> counter(1);
  const char* kind = cooperative ? "cooperative" : "plain";
  const std::string in_stream = params("how", "stream", "launch", kind, "ctas", grid);
  const auto submit_stream = [&] {
    for (int i = 0; i < kChain; ++i) S0_CHECK(launch(cooperative, grid, counter.get(), stream));
  };
  print_row(in_stream, us_per_kernel(submit_stream, kChain, counter, stream, in_stream), "us");
  for (const int nodes : {kChain, 1}) {
    const std::string in_graph =
        params("how", "graph", "launch", kind, "ctas", grid, "nodes", nodes);
    cudaGraphExec_t graph = make_graph(cooperative, grid, nodes, counter.get(), stream);
    if (graph == nullptr) {
      print_row(in_graph, 0.0, "us", "skipped", "this launch cannot be captured");
      continue;
    }
    const int launches = nodes == 1 ? kChain : 1;
    const auto submit_graph = [&] {
      for (int i = 0; i < launches; ++i) S0_CHECK(cudaGraphLaunch(graph, stream));
    };
    print_row(in_graph, us_per_kernel(submit_graph, kChain, counter, stream, in_graph), "us");
    S0_CHECK(cudaGraphExecDestroy(graph));
  }
}

void run(const Session& session) {
  cudaStream_t stream;
  S0_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  bench(false, 1, stream);
  bench(false, session.num_sms(), stream);
  bench(true, session.num_sms(), stream);
  S0_CHECK(cudaStreamDestroy(stream));
}

}  // namespace
}  // namespace via::s0

int main(int argc, char** argv) {
  via::s0::run(via::s0::Session("launch_overhead", argc, argv));
  return 0;
}
