#include "torch/cpu/recycled.h"

#include <cstdlib>
#include <mutex>

#include "cpu/workspace.h"

namespace irf::binding {
namespace {

constexpr int64_t kKeptBytes = int64_t(512) << 20;
constexpr int64_t kUnit = int64_t(1) << 16;  // sizes are rounded up, so that slightly different ones share blocks

struct Block {
  void* memory;
  int64_t bytes;
};

class Pool {
 public:
  Block take(int64_t bytes) {
    bytes = (bytes + kUnit - 1) / kUnit * kUnit;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (size_t i = 0; i < free_.size(); ++i)
        if (free_[i].bytes == bytes) {
          const Block block = free_[i];
          free_.erase(free_.begin() + i);
          held_ -= bytes;
          return block;
        }
    }
    void* memory = std::aligned_alloc(kUnit, bytes);
    STD_TORCH_CHECK(memory != nullptr, "out of memory: ", bytes, " bytes for the backward pass");
    advise_huge_pages(memory, bytes);
    return {memory, bytes};
  }

  void give(Block block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(block);
    held_ += block.bytes;
    while (held_ > kKeptBytes) {  // the one that has waited longest goes first
      held_ -= free_.front().bytes;
      std::free(free_.front().memory);
      free_.erase(free_.begin());
    }
  }

 private:
  std::mutex mutex_;
  std::vector<Block> free_;
  int64_t held_ = 0;
};

Pool& pool() {
  static Pool* const pool = new Pool;  // never destroyed: tensors may die after static objects
  return *pool;
}

}  // namespace

Tensor recycled(int64_t numel, const Tensor& like) {
  const Block block = pool().take(numel * static_cast<int64_t>(like.element_size()));
  return torch::stable::from_blob(block.memory, {numel}, {1}, torch::stable::Device(torch::headeronly::DeviceType::CPU),
                                  like.scalar_type(), [block](void*) { pool().give(block); });
}

}  // namespace irf::binding
