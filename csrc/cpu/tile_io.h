// Events in and out of a tile, and sums over one sample's event.
#pragma once

#include "cpu/layout.h"

namespace irf {
namespace IRF_ISA {
namespace {

// source [samples, channels, pixels] -> tile; missing samples of a dense tile become zero. `scale` [samples] may be
// null.
template <class T>
void load_events(const Layout<T>& layout, bool dense, const T* source, int samples, int channels, T* tile,
                 const T* scale = nullptr) {
  if (dense) {
    for (int s = 0; s < samples; ++s) {
      const T factor = scale ? scale[s] : T(1);
      for (int c = 0; c < channels; ++c)
        tile[int64_t(c) * layout.stride + s] = factor * source[int64_t(s) * channels + c];
    }
    for (int c = 0; c < channels; ++c)
      for (int s = samples; s < layout.pitch; ++s) tile[int64_t(c) * layout.stride + s] = T(0);
    return;
  }
  const T factor = scale ? *scale : T(1);
  const int covered = layout.position[layout.vectors - 1] + kLanes<T>;
  for (int c = 0; c < channels; ++c) {
    T* channel = tile + layout.size(c);
    for (int y = 0; y < layout.height; ++y) {
      const int first = layout.lead + y * layout.pitch, end = first + layout.width;
      for (int x = 0; x < layout.width; ++x) channel[first + x] = factor * source[x];
      source += layout.width;
      if (!layout.masked) continue;  // the pads are uncovered, and so zero already
      const int next = y + 1 < layout.height ? first + layout.pitch : covered;
      for (int column = end; column < next; ++column) channel[column] = T(0);
    }
  }
}

// tile (+ addend, in the layout of target) -> target [samples, channels, pixels].
template <class T>
void store_events(const Layout<T>& layout, bool dense, const T* tile, int samples, int channels, T* target,
                  const T* addend = nullptr) {
  if (dense) {
    for (int s = 0; s < samples; ++s)
      for (int c = 0; c < channels; ++c) {
        const int64_t at = int64_t(s) * channels + c;
        target[at] = tile[int64_t(c) * layout.stride + s] + (addend ? addend[at] : T(0));
      }
    return;
  }
  int64_t at = 0;
  for (int c = 0; c < channels; ++c)
    for (int y = 0; y < layout.height; ++y) {
      const T* row = tile + int64_t(c) * layout.stride + layout.lead + y * layout.pitch;
      for (int x = 0; x < layout.width; ++x, ++at) target[at] = row[x] + (addend ? addend[at] : T(0));
    }
}

// Per-sample numbers of a tile, kept one per column for dense tiles (so that they load as vectors) and one in all for
// an image.
template <class T>
IRF_ALWAYS_INLINE Vector<T> sample_vector(bool dense, const T* per_sample, int position) {
  return dense ? load(per_sample + position) : broadcast(per_sample[0]);
}

// dot[s] = <a, b> and square[s] = |a|^2 per sample of the tile.
template <class T>
void sample_sums(const Layout<T>& layout, bool dense, const T* a, const T* b, int channels, T* dot, T* square) {
  Vector<T> image_dot{}, image_square{};
  for (int j = 0; j < layout.vectors; ++j) {
    Vector<T> sum_dot{}, sum_square{};
    for (int c = 0; c < channels; ++c) {
      const int64_t at = int64_t(c) * layout.stride + layout.position[j];
      const Vector<T> x = load(a + at);
      sum_dot = fma(x, load(b + at), sum_dot);
      sum_square = fma(x, x, sum_square);
    }
    if (dense) {
      store(dot + layout.position[j], sum_dot);
      store(square + layout.position[j], sum_square);
    }
    image_dot += sum_dot;
    image_square += sum_square;
  }
  if (!dense) {
    dot[0] = sum_lanes<T>(image_dot);
    square[0] = sum_lanes<T>(image_square);
  }
}

// target += coefficient[s] * source, or = if `overwrite`.
template <class T>
void add_scaled(const Layout<T>& layout, bool dense, const T* coefficient, const T* source, int channels,
                bool overwrite, T* target) {
  for (int c = 0; c < channels; ++c)
    for (int j = 0; j < layout.vectors; ++j) {
      const int64_t at = int64_t(c) * layout.stride + layout.position[j];
      const Vector<T> factor = sample_vector(dense, coefficient, layout.position[j]);
      const Vector<T> before = overwrite ? Vector<T>{} : load(target + at);
      store(target + at, fma(factor, load(source + at), before));
    }
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
