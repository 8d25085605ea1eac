// Device scratch is one allocation made by the caller. An op carves its buffers from it in one function, which counts
// the bytes when given a null base: <op>_workspace and the launch run the same code.
#pragma once

#include <cstddef>
#include <cstdint>

namespace irf::cuda {

class Carver {
 public:
  explicit Carver(void* base) : base_(reinterpret_cast<uintptr_t>(base)) {}

  template <class T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(base_ + used_);
    used_ += (sizeof(T) * static_cast<size_t>(count) + 255) / 256 * 256;
    return piece;
  }

  size_t used() const { return used_; }
  bool counting() const { return base_ == 0; }  // nothing may be launched

 private:
  uintptr_t base_;
  size_t used_ = 0;
};

}  // namespace irf::cuda
