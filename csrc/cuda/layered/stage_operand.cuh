// A bias or a given factor of a stage as epilogues read it: its numbers at the place of a row. It is shared by the
// batch, or each sample, or each pixel of a sample, has its own: only the strides tell, so no kernel asks which.
#pragma once

#include "cuda/layered/row_place.cuh"
#include "iresnet_fast/params.h"

namespace irf::cuda {

template <class T>
struct StageOperand {
  const T* numbers;       // in torch's layout, or null: there is none
  int64_t sample_stride;  // from one sample to the next; 0: they share it
  int channel_stride, pixel_stride;
  int channels;

  // Those of a vector of channels; `missing` if there is no operand, and zeros past the last channel.
  __device__ __forceinline__ Vector<T> load(const RowPlace& place, int column, T missing) const {
    Vector<T> result;
    const int64_t first = place.sample * sample_stride + place.pixel * pixel_stride + int64_t(column) * channel_stride;
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e)
      result[e] = !numbers ? missing : column + e < channels ? __ldg(numbers + first + e * channel_stride) : T(0);
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
