#include "cpu/workspace.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace irf {
namespace {

// A thread keeps at most this much between calls.
constexpr int64_t kKeptBytes = int64_t(256) << 20;

// Under the address sanitizer every piece is a block of its own, so that running over its end is seen, and full of NaN.
#ifdef __SANITIZE_ADDRESS__
constexpr bool kSeparatePieces = true;
#else
constexpr bool kSeparatePieces = false;
#endif

constexpr int64_t kHugePage = int64_t(2) << 20;

struct Block {
  char* memory;
  int64_t size, used;
};

struct Scratch {
  std::vector<Block> blocks;

  ~Scratch() { clear(); }

  void clear() {
    for (const Block& block : blocks) std::free(block.memory);
    blocks.clear();
  }

  // Whether there was memory for a block of this size.
  bool add(int64_t bytes) {
    const int64_t unit = bytes < kHugePage ? 64 : kHugePage;
    blocks.reserve(blocks.size() + 1);
    void* memory = std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
    if (memory == nullptr) return false;
    advise_huge_pages(memory, bytes);
    blocks.push_back({static_cast<char*>(memory), bytes, 0});
    return true;
  }
};

thread_local Scratch scratch;

}  // namespace

void advise_huge_pages(void* memory, int64_t bytes) {
#ifdef __linux__
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / kHugePage * kHugePage;
  if (begin < end)
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a hint: failing changes nothing
#else
  (void)memory, (void)bytes;
#endif
}

void* take_scratch(int64_t count, int64_t size) {
  // No machine has half of this, so that the sums below cannot overflow either.
  constexpr int64_t kMost = int64_t(1) << 60;
  int64_t bytes;
  if (count < 0 || __builtin_mul_overflow(count, size, &bytes) || bytes > kMost) bytes = kMost;
  bytes = (bytes + 63) / 64 * 64;
  const Block* last = scratch.blocks.empty() ? nullptr : &scratch.blocks.back();
  if (kSeparatePieces || !last || last->used + bytes > last->size) {
    const int64_t grown = kSeparatePieces || !last ? 0 : 2 * last->size;
    if (!(bytes < grown && scratch.add(grown)) && !scratch.add(bytes))
      throw std::runtime_error("iresnet_fast needs " + std::to_string(bytes) +
                               " bytes of scratch memory and there are not as many; pass fewer or smaller samples.");
  }
  if (kSeparatePieces) std::memset(scratch.blocks.back().memory, 0xff, bytes);
  Block& block = scratch.blocks.back();
  char* piece = block.memory + block.used;
  block.used += bytes;
  return piece;
}

void release_scratch() noexcept {
  int64_t used = 0;
  for (const Block& block : scratch.blocks) used += block.used;
  if (scratch.blocks.size() > 1 || used > kKeptBytes) {
    scratch.clear();
    if (used <= kKeptBytes && !kSeparatePieces) scratch.add(used);  // next time one block serves, if there is room
  }
  for (Block& block : scratch.blocks) block.used = 0;
}

}  // namespace irf
