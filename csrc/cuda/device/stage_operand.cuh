// A bias or a given factor of a stage as kernels read it from global memory: its numbers at one pixel of a sample. It
// is shared by the batch, or each sample, or each pixel of a sample, has its own: only the strides tell, so no kernel
// asks which.
#pragma once

#include "cuda/device/device.cuh"
#include "iresnet_fast/params.h"

namespace irf::cuda {

template <class T>
struct StageOperand {
  const T* numbers;       // in torch's layout, or null: there is none
  int64_t sample_stride;  // from one sample to the next; 0: they share it
  int channel_stride, pixel_stride;
  int channels;

  // Those of a vector of channels; `missing` if there is no operand, and zeros past the last channel.
  __device__ __forceinline__ Vector<T> load(int64_t sample, int pixel, int column, T missing) const {
    Vector<T> result;
    if (!numbers) {
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) result[e] = missing;
      return result;
    }
    const int64_t first = sample * sample_stride + pixel * pixel_stride + int64_t(column) * channel_stride;
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e)
      result[e] = column + e < channels ? __ldg(numbers + first + e * channel_stride) : T(0);
    return result;
  }
};

template <class T>
StageOperand<T> stage_operand(const T* numbers, Spread spread, int channels, int64_t pixels) {
  const bool by_pixel = spread == Spread::kPixel;
  const int64_t size = channels * (by_pixel ? pixels : 1);  // of one sample
  return {numbers, spread == Spread::kShared ? 0 : size, by_pixel ? static_cast<int>(pixels) : 1, by_pixel ? 1 : 0,
          channels};
}

template <class T>
StageOperand<T> bias_of(const Branch<T>& branch, int i) {
  const Stage<T>& stage = branch.stage[i];
  return stage_operand(stage.bias, stage.bias_spread, stage.out_channels, branch.pixels());
}

template <class T>
StageOperand<T> factor_of(const Branch<T>& branch, int i) {
  const Stage<T>& stage = branch.stage[i];
  return stage_operand(stage.factor, stage.factor_spread, stage.in_channels, branch.pixels());
}

}  // namespace irf::cuda
