// Device scratch is one allocation made by the caller. The description of a call takes its buffers from a Workspace, as
// offsets, before the memory exists; when the call is launched, a Memory turns them into pointers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace irf::cuda {

// Device memory that a description names: an operand by its pointer, a piece of the workspace by its offset, or none.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(T* operand) : operand_(operand) {}

  explicit operator bool() const { return operand_ || offset_ != kNone; }

 private:
  friend class Memory;
  friend class Workspace;
  static constexpr size_t kNone = SIZE_MAX;

  T* operand_ = nullptr;
  size_t offset_ = kNone;
};

// The memory of one launch.
class Memory {
 public:
  Memory(void* workspace, size_t shared) : workspace_(static_cast<char*>(workspace)), shared_(shared) {}

  template <class T>
  T* operator[](const Buffer<T>& buffer) const {
    if (buffer.offset_ == Buffer<T>::kNone) return buffer.operand_;
    return reinterpret_cast<T*>(workspace_ + buffer.offset_);
  }

  template <class T>
  std::vector<T*> all(const std::vector<Buffer<T>>& buffers) const {
    std::vector<T*> pointers;
    pointers.reserve(buffers.size());
    for (const Buffer<T>& buffer : buffers) pointers.push_back((*this)[buffer]);
    return pointers;
  }

  // The region of Workspace::share.
  void* shared() const { return workspace_ + shared_; }

 private:
  char* workspace_;
  size_t shared_;
};

// What lies where in the workspace of a call. Every piece begins at a multiple of 256 bytes.
class Workspace {
 public:
  template <class T>
  Buffer<T> take(int64_t count) {
    Buffer<T> buffer;
    buffer.offset_ = taken_;
    taken_ += whole(sizeof(T) * static_cast<size_t>(count));
    return buffer;
  }

  // Asks for scratch that one launch needs for itself alone. The launches of a call follow one another on the stream,
  // so all of them get the same region behind the pieces, as large as the largest request.
  void share(size_t bytes) { shared_ = std::max(shared_, bytes); }

  size_t bytes() const { return taken_ + whole(shared_); }
  Memory at(void* workspace) const { return {workspace, taken_}; }

 private:
  static size_t whole(size_t bytes) { return (bytes + 255) / 256 * 256; }

  size_t taken_ = 0, shared_ = 0;
};

}  // namespace irf::cuda
