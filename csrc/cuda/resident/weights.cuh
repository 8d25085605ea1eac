// The packed weights of a resident walk: those that lie in shared memory, and those that pass through it in chunks.
#pragma once

#include "cuda/resident/block.cuh"

namespace irf::cuda {
namespace {

// Hands out the weights of one product after the other. Weights that have no place of their own in shared memory stream
// through two buffers. Each chunk is fetched while the chunk before it is in use, and so the first chunk of a product
// is fetched during the product before it, also from one repeat or group of items to the next.
template <class T>
class WeightStream {
 public:
  __device__ WeightStream(const ResidentPlan& plan, T* shared, const T* const* weights)
      : plan_(plan), shared_(shared), weights_(weights), stage_(-1), row_(0), buffer_(0) {
    for (int i = 0; i < plan.stages; ++i) {
      const StagePlan& stage = plan.stage[i];
      if (stage.weight != kNotShared)
        copy_async(shared + stage.weight, weights[i], stage.flat_rows * stage.column_pitch);
      else if (stage_ < 0)
        stage_ = i;
    }
    if (stage_ >= 0) fetch();
    __pipeline_commit();
  }

  // The next chunk of stage i. It contains the barrier after which the state that the product before has written can be
  // read. Before the first product, the caller waits for the weights that stay in shared memory.
  __device__ __forceinline__ const T* next(int i) {
    const int resident = plan_.stage[i].weight;
    if (resident != kNotShared) {
      __syncthreads();
      return shared_ + resident;
    }
    __pipeline_wait_prior(0);
    __syncthreads();  // the chunk is complete, and nobody reads the other buffer any more
    const T* chunk = shared_ + plan_.stream + (buffer_ ^ 1) * plan_.stream_size;
    fetch();
    __pipeline_commit();
    return chunk;
  }

 private:
  __device__ void fetch() {
    const StagePlan& stage = plan_.stage[stage_];
    const int left = stage.flat_rows - row_, rows = left < stage.chunk ? left : stage.chunk;
    copy_async(shared_ + plan_.stream + buffer_ * plan_.stream_size, weights_[stage_] + row_ * stage.column_pitch,
               rows * stage.column_pitch);
    buffer_ ^= 1;
    row_ += rows;
    if (row_ < stage.flat_rows) return;
    row_ = 0;
    do {
      stage_ = stage_ + 1 < plan_.stages ? stage_ + 1 : 0;
    } while (plan_.stage[stage_].weight != kNotShared);
  }

  const ResidentPlan& plan_;
  T* shared_;
  const T* const* weights_;
  int stage_, row_, buffer_;  // of the next chunk to be fetched
};

}  // namespace
}  // namespace irf::cuda
