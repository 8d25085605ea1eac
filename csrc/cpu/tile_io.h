// Events in and out of a tile, and sums over one sample's event.
#pragma once

#include "cpu/layout.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Calls body(column, source index) for every number of sample s in channel c.
template <class T, class Body>
IRF_ALWAYS_INLINE void each_pixel(const Layout<T>& layout, int s, int channels, int c, const Body& body) {
  if (layout.dense) return body(s, int64_t(s) * channels + c);
  int64_t at = (int64_t(s) * channels + c) * layout.height * layout.width;
  for (int y = 0; y < layout.height; ++y)
    for (int x = 0; x < layout.width; ++x) body(layout.lead + y * layout.pitch + x * layout.images + s, at++);
}

// source [samples, channels, pixels] -> tile; missing samples and covered pads become zero. `scale` [samples] may be
// null.
template <class T>
void load_events(const Layout<T>& layout, const T* source, int samples, int channels, T* tile,
                 const T* scale = nullptr) {
  for (int c = 0; c < channels; ++c) {
    T* row = tile + layout.size(c);
    if (layout.masked || samples < (layout.dense ? layout.pitch : layout.images))
      for (int j = 0; j < layout.vectors; ++j) store(row + layout.position[j], Vector<T>{});
  }
  for (int s = 0; s < samples; ++s) {
    const T factor = scale ? scale[s] : T(1);
    for (int c = 0; c < channels; ++c)
      each_pixel(layout, s, channels, c,
                 [&, row = tile + layout.size(c)](int column, int64_t at) { row[column] = factor * source[at]; });
  }
}

// tile (+ addend, in the layout of target) -> target [samples, channels, pixels].
template <class T>
void store_events(const Layout<T>& layout, const T* tile, int samples, int channels, T* target,
                  const T* addend = nullptr) {
  for (int s = 0; s < samples; ++s)
    for (int c = 0; c < channels; ++c)
      each_pixel(layout, s, channels, c, [&, row = tile + layout.size(c)](int column, int64_t at) {
        target[at] = row[column] + (addend ? addend[at] : T(0));
      });
}

// The vector of per-sample numbers at `column`.
template <class T>
IRF_ALWAYS_INLINE Vector<T> sample_vector(const Layout<T>& layout, const T* per_sample, int column) {
  return load(per_sample + (layout.dense ? column : 0));
}

// Repeats the numbers of the interleaved images over all lanes, as the columns of a vector do.
template <class T>
void spread(const Layout<T>& layout, T* per_sample) {
  for (int l = layout.images; !layout.dense && l < kLanes<T>; ++l) per_sample[l] = per_sample[l - layout.images];
}

// Adds up the lanes of each image: the inverse of `spread`.
template <class T>
void gather(const Layout<T>& layout, Vector<T> lanes, T* per_sample) {
  store(per_sample, lanes);
  for (int half = kLanes<T> / 2; half >= layout.images; half /= 2)
    for (int l = 0; l < half; ++l) per_sample[l] += per_sample[l + half];
}

// dot[s] = <a, b> and square[s] = |a|^2 per sample of the tile.
template <class T>
void sample_sums(const Layout<T>& layout, const T* a, const T* b, int channels, T* dot, T* square) {
  Vector<T> all_dot{}, all_square{};
  for (int j = 0; j < layout.vectors; ++j) {
    Vector<T> sum_dot{}, sum_square{};
    for (int c = 0; c < channels; ++c) {
      const int64_t at = layout.size(c) + layout.position[j];
      const Vector<T> x = load(a + at);
      sum_dot = fma(x, load(b + at), sum_dot);
      sum_square = fma(x, x, sum_square);
    }
    if (layout.dense) {
      store(dot + layout.position[j], sum_dot);
      store(square + layout.position[j], sum_square);
    }
    all_dot += sum_dot;
    all_square += sum_square;
  }
  if (layout.dense) return;
  gather(layout, all_dot, dot);
  gather(layout, all_square, square);
}

// target += coefficient[s] * source (coefficients spread), or = if `overwrite`.
template <class T>
void add_scaled(const Layout<T>& layout, const T* coefficient, const T* source, int channels, bool overwrite,
                T* target) {
  for (int c = 0; c < channels; ++c)
    for (int j = 0; j < layout.vectors; ++j) {
      const int64_t at = layout.size(c) + layout.position[j];
      const Vector<T> factor = sample_vector(layout, coefficient, layout.position[j]);
      const Vector<T> before = overwrite ? Vector<T>{} : load(target + at);
      store(target + at, fma(factor, load(source + at), before));
    }
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
