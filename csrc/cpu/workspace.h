// Scratch memory of one call: pieces of blocks that the calling thread keeps between calls, so a warm call allocates
// nothing.
#pragma once

#include <cstdint>

#include "iresnet_fast/macros.h"

namespace irf {

// Room for `count` pieces of `size` bytes: 64-byte aligned memory of the calling thread, valid until its next
// release_scratch(). Throws std::runtime_error if there is no room.
void* take_scratch(int64_t count, int64_t size);
void release_scratch() noexcept;

// Asks for huge pages under large memory: a tile's channels are far apart, and each would need a page of its own.
void advise_huge_pages(void* memory, int64_t bytes);

// All scratch of a call is taken by the calling thread before it starts any other thread.
class Workspace {
 public:
  IRF_ALWAYS_INLINE Workspace() {}
  IRF_ALWAYS_INLINE ~Workspace() { release_scratch(); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  template <class T>
  IRF_ALWAYS_INLINE T* take(int64_t count) {
    return static_cast<T*>(take_scratch(count, sizeof(T)));
  }
  // Zeroed: what a layout never writes must read as zero.
  template <class T>
  IRF_ALWAYS_INLINE T* take_zeroed(int64_t count) {
    T* piece = take<T>(count);
    __builtin_memset(piece, 0, count * sizeof(T));
    return piece;
  }
};

}  // namespace irf
