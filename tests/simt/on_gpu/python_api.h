// The twin of shim/python_api.h on a real GPU: the entries are compiled with this header instead of that one.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

#define SIMT_EXPORT __attribute__((visibility("default")))

namespace simt {

// Runs `body` as one call of the user: null, or what went wrong in it, on the host or on the GPU.
const char* guarded(const std::function<void()>& body);

// Device memory of exactly this size, poisoned, between guard zones that must be untouched at the end.
struct Workspace {
  explicit Workspace(size_t bytes);
  Workspace(const Workspace&) = delete;
  ~Workspace();
  void* data() const { return memory; }
  void* const memory;
  const size_t bytes;
};

// A stream of this call alone, waited for at the end. With gpu_time_calls what is put on it is captured and replayed.
struct OnStream {
  explicit OnStream(size_t shared_limit);
  OnStream(const OnStream&) = delete;
  ~OnStream();
  const cudaStream_t stream;
};

}  // namespace simt
