// For C functions that Python calls through ctypes.
#pragma once

#include <functional>

#include "cuda_api.h"

#define SIMT_EXPORT __attribute__((visibility("default")))

namespace simt {

// Runs `body` as one call of the user: null, or the message of the exception it threw.
const char* guarded(const std::function<void()>& body);

// Device memory of exactly this size, uninitialised, while the object lives.
class Workspace {
 public:
  explicit Workspace(size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  void* data() const { return data_; }

 private:
  void* data_;
};

// The card has this much shared memory for a block, and `stream` is the only one that may be used.
struct OnStream {
  cudaStream_t stream;
  explicit OnStream(size_t shared_limit);
  ~OnStream();
};

}  // namespace simt
