// Where a row lies: which image, which sample, which pixel.
#pragma once

#include "cuda/device/device.cuh"

namespace irf::cuda {

struct RowPlace {
  int64_t item, sample;
  int64_t row;  // item * pixels + pixel
  int pixel, pixels;

  __device__ RowPlace() {}
  __device__ RowPlace(int64_t item_, int64_t sample_, int pixel_, int pixels_)
      : item(item_), sample(sample_), row(item_ * pixels_ + pixel_), pixel(pixel_), pixels(pixels_) {}
  __device__ RowPlace(int64_t item_, int pixel_, int pixels_, int64_t samples)
      : RowPlace(item_, item_ < samples ? item_ : item_ % samples, pixel_, pixels_) {}
  __device__ RowPlace(int64_t row_, int pixels_, int64_t samples)
      : RowPlace(row_ / pixels_, static_cast<int>(row_ % pixels_), pixels_, samples) {}

  // The row of what all items of a sample share.
  __device__ int64_t sample_row() const { return sample * pixels + pixel; }
};

// From a row to the one `stride` further, again and again, without a division or a branch a row.
class RowWalk {
 public:
  RowPlace place;

  __device__ RowWalk(int64_t row, int stride, int pixels, int64_t samples)
      : place(row, pixels, samples),
        samples_(samples),
        stride_(stride),
        pixels_(stride % pixels),
        items_(stride / pixels),
        item_samples_(static_cast<int>(items_ % samples)) {}

  __device__ void advance() {
    place.row += stride_;
    place.pixel += pixels_;
    const int carry = place.pixel >= place.pixels;
    place.pixel -= carry ? place.pixels : 0;
    place.item += items_ + carry;
    place.sample += item_samples_ + carry;
    place.sample -= place.sample >= samples_ ? samples_ : 0;
  }

 private:
  int64_t samples_;
  int stride_, pixels_, items_, item_samples_;
};

}  // namespace irf::cuda
