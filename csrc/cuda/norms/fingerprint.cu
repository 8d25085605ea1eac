// A 64-bit hash of the bits of every weight, as csrc/cpu/fingerprint.h defines it: a sum of integers, so blocks add to
// it with atomics in any order. The layers travel as kernel arguments; a model with more of them than a page holds
// takes another launch.
#include <algorithm>

#include "cuda/device/table.cuh"
#include "cuda/ops.h"

namespace irf::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kBlockBytes = 1 << 16;
constexpr int kMostBlocks = 64;  // per layer

struct HashedLayer {
  const unsigned char* bytes;
  int64_t size;
};
using HashedPage = Page<HashedLayer, 16>;

__device__ __forceinline__ uint64_t word_hash(uint64_t word, int64_t position) {
  word += kFingerprintStep * static_cast<uint64_t>(position + 1);
  return (word & 0xffffffffu) * (word >> 32) + word;
}

// Words of a layer whose bytes are aligned to 8 are read whole, else byte by byte.
__global__ __launch_bounds__(kThreads) void hash_bytes(const __grid_constant__ HashedPage page,
                                                       unsigned long long* result) {
  const HashedLayer& layer = page.row[blockIdx.y];
  const int64_t words = ceil_div(layer.size, int64_t(8));
  const bool aligned = reinterpret_cast<uintptr_t>(layer.bytes) % 8 == 0;
  uint64_t sum = 0;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < words; i += int64_t(gridDim.x) * kThreads) {
    uint64_t word = 0;
    if (aligned && 8 * (i + 1) <= layer.size) {
      word = __ldg(reinterpret_cast<const unsigned long long*>(layer.bytes) + i);
    } else {
      const int64_t end = 8 * (i + 1) < layer.size ? 8 * (i + 1) : layer.size;
      for (int64_t at = end - 1; at >= 8 * i; --at) word = word << 8 | __ldg(layer.bytes + at);
    }
    sum += word_hash(word, i);
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
  if (threadIdx.x % kWarp == 0) atomicAdd(result + blockIdx.y, static_cast<unsigned long long>(sum));
}

struct Hash {
  FingerprintOperands op;

  cudaError_t launch(const Context& context) const {
    const size_t bytes = sizeof(uint64_t) * static_cast<size_t>(op.layers);
    if (const cudaError_t error = cudaMemsetAsync(op.result, 0, bytes, context.stream)) return error;
    for (int first = 0; first < op.layers; first += HashedPage::kRows) {
      HashedPage page;
      const int count = std::min(op.layers - first, HashedPage::kRows);
      int64_t largest = 0;
      for (int i = 0; i < count; ++i) {
        page.row[i] = {static_cast<const unsigned char*>(op.weight[first + i]), op.bytes[first + i]};
        largest = std::max(largest, op.bytes[first + i]);
      }
      const int blocks = static_cast<int>(std::min(ceil_div(largest, kBlockBytes), int64_t(kMostBlocks)));
      if (blocks > 0)
        hash_bytes<<<dim3(blocks, count), kThreads, 0, context.stream>>>(
            page, reinterpret_cast<unsigned long long*>(op.result + first));
    }
    return cudaGetLastError();
  }
};

}  // namespace

Operation fingerprint(const FingerprintOperands& op, const Target& target) {
  return Operation(target, Workspace(), Hash{op});
}

}  // namespace irf::cuda
