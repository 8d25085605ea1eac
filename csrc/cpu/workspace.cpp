#include "cpu/workspace.h"

#include <cstdlib>
#include <new>
#include <vector>

namespace irf {
namespace {

// A thread keeps at most this much between calls.
constexpr int64_t kKeptBytes = int64_t(256) << 20;

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

  void add(int64_t bytes) {
    void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (memory == nullptr) throw std::bad_alloc();
    blocks.push_back({static_cast<char*>(memory), bytes, 0});
  }
};

thread_local Scratch scratch;

}  // namespace

void* take_scratch(int64_t bytes) {
  bytes = (bytes + 63) / 64 * 64;
  if (scratch.blocks.empty() || scratch.blocks.back().used + bytes > scratch.blocks.back().size) {
    const int64_t grown = scratch.blocks.empty() ? 0 : 2 * scratch.blocks.back().size;
    scratch.add(bytes > grown ? bytes : grown);
  }
  Block& block = scratch.blocks.back();
  char* piece = block.memory + block.used;
  block.used += bytes;
  return piece;
}

void release_scratch() {
  int64_t used = 0;
  for (const Block& block : scratch.blocks) used += block.used;
  if (scratch.blocks.size() > 1 || used > kKeptBytes) {  // next time one block serves
    scratch.clear();
    if (used <= kKeptBytes) scratch.add(used);
  }
  for (Block& block : scratch.blocks) block.used = 0;
}

}  // namespace irf
