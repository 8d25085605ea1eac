// For C functions that Python calls through ctypes.
#pragma once

#include <functional>

#include "cuda_api.h"

#define SIMT_EXPORT __attribute__((visibility("default")))

namespace simt {

// Runs `body` as one call of the user: null, or the message of the exception it threw.
const char* guarded(const std::function<void()>& body);

// Device memory of exactly this size, uninitialised, while the object lives.
struct Workspace {
  explicit Workspace(size_t bytes);
  Workspace(const Workspace&) = delete;
  ~Workspace();
  void* data() const { return memory; }
  void* const memory;
};

// The card has this much shared memory for a block, and `stream` is the only one that may be used.
struct OnStream {
  explicit OnStream(size_t shared_limit);
  ~OnStream();
  const cudaStream_t stream;
};

}  // namespace simt
