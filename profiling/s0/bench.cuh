// SPDX-License-Identifier: Apache-2.0
// Host side of the micro-benchmarks: rows as JSON lines on stdout, checks, event timing.
//
// A benchmark takes one argument, the seconds it may use, and exits 0 (done), 1 (a wrong result or
// a CUDA error, with a "failed" row) or 3 (this GPU lacks the feature, with a "skipped" row).
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace via::s0 {

inline const char* g_benchmark = "?";

// {"name": value, ...} from names and values in turn.
inline void append_params(std::string&) {}
template <typename Value, typename... Rest>
void append_params(std::string& out, const char* name, const Value& value, const Rest&... rest) {
  if (out.size() > 1) out += ", ";
  out += '"';
  out += name;
  out += "\": ";
  if constexpr (std::is_arithmetic_v<Value>) {
    out += std::to_string(value);
  } else {
    out += '"' + std::string(value) + '"';
  }
  append_params(out, rest...);
}
template <typename... Args>
std::string params(const Args&... args) {
  std::string out = "{";
  append_params(out, args...);
  return out + "}";
}

inline void print_row(const std::string& parameters, double value, const char* unit,
                      const char* status = "ok", std::string note = "") {
  std::replace(note.begin(), note.end(), '"', '\'');
  std::printf(
      "{\"benchmark\": \"%s\", \"params\": %s, \"value\": %.6g, \"unit\": \"%s\", "
      "\"status\": \"%s\", \"note\": \"%s\"}\n",
      g_benchmark, parameters.c_str(), value, unit, status, note.c_str());
  std::fflush(stdout);
}

[[noreturn]] inline void fail(const std::string& parameters, const std::string& why) {
  print_row(parameters, 0.0, "", "failed", why);
  std::exit(1);
}

[[noreturn]] inline void skip(const std::string& why) {
  print_row("{}", 0.0, "", "skipped", why);
  std::exit(3);
}

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  fail("{}", std::string(what) + ": " + cudaGetErrorString(error));
}
#define S0_CHECK(call) ::via::s0::check((call), #call)

// The device, and the time that is left.
class Session {
 public:
  Session(const char* name, int argc, char** argv)
      : start_(std::chrono::steady_clock::now()), limit_s_(argc > 1 ? std::atof(argv[1]) : 60.0) {
    g_benchmark = name;
    S0_CHECK(cudaSetDevice(0));
    S0_CHECK(cudaGetDeviceProperties(&properties, 0));
  }

  bool out_of_time() const {
    const std::chrono::duration<double> used = std::chrono::steady_clock::now() - start_;
    return used.count() > limit_s_;
  }
  int num_sms() const { return properties.multiProcessorCount; }
  bool is_at_least(int major) const { return properties.major >= major; }
  int max_smem() const { return static_cast<int>(properties.sharedMemPerBlockOptin); }

  cudaDeviceProp properties{};

 private:
  std::chrono::steady_clock::time_point start_;
  double limit_s_;
};

// Device memory for the length of a scope.
template <typename T>
class Buffer {
 public:
  explicit Buffer(std::size_t count) : count_(count) {
    S0_CHECK(cudaMalloc(&data_, count * sizeof(T)));
    zero();
  }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* get() const { return data_; }
  void zero() { S0_CHECK(cudaMemset(data_, 0, count_ * sizeof(T))); }
  std::vector<T> copy() const {
    std::vector<T> host(count_);
    S0_CHECK(cudaMemcpy(host.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }

 private:
  std::size_t count_;
  T* data_ = nullptr;
};

// Value at a fraction of the sorted sample.
template <typename T>
T quantile(std::vector<T> sample, double fraction) {
  const auto rank = static_cast<std::size_t>(fraction * static_cast<double>(sample.size() - 1));
  std::nth_element(sample.begin(), sample.begin() + static_cast<std::ptrdiff_t>(rank),
                   sample.end());
  return sample[rank];
}

// Median milliseconds of one launch, after one that warms up.
template <typename Launch>
double median_ms(Launch launch, int repeats) {
  cudaEvent_t begin, end;
  S0_CHECK(cudaEventCreate(&begin));
  S0_CHECK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i <= repeats; ++i) {
    S0_CHECK(cudaEventRecord(begin));
    launch();
    S0_CHECK(cudaGetLastError());
    S0_CHECK(cudaEventRecord(end));
    S0_CHECK(cudaEventSynchronize(end));
    float ms = 0.0f;
    S0_CHECK(cudaEventElapsedTime(&ms, begin, end));
    if (i > 0) times.push_back(ms);
  }
  S0_CHECK(cudaEventDestroy(begin));
  S0_CHECK(cudaEventDestroy(end));
  return quantile(times, 0.5);
}

}  // namespace via::s0
