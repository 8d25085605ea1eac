// Events in and out of a tile, and sums over one sample's event.
#pragma once

#include "cpu/layout.h"

namespace irf {
namespace IRF_ISA {
namespace {

// target[j][i] = source[i][j]: blocks of 4 x 4 in registers, the rest one by one.
template <class T>
void transpose(const T* source, int64_t source_stride, int rows, int columns, T* target, int64_t target_stride) {
  typedef T Four __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
  const int whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
  for (int i = 0; i < whole_rows; i += 4)
    for (int j = 0; j < whole_columns; j += 4) {
      const T* from = source + i * source_stride + j;
      Four row[4], pair[4];
      for (int k = 0; k < 4; ++k) row[k] = *reinterpret_cast<const Four*>(from + k * source_stride);
      for (int k = 0; k < 4; k += 2) {
        pair[k] = IRF_SHUFFLE(row[k], row[k + 1], 0, 4, 1, 5);
        pair[k + 1] = IRF_SHUFFLE(row[k], row[k + 1], 2, 6, 3, 7);
      }
      for (int k = 0; k < 2; ++k) {
        T* to = target + (j + 2 * k) * target_stride + i;
        *reinterpret_cast<Four*>(to) = IRF_SHUFFLE(pair[k], pair[k + 2], 0, 1, 4, 5);
        *reinterpret_cast<Four*>(to + target_stride) = IRF_SHUFFLE(pair[k], pair[k + 2], 2, 3, 6, 7);
      }
    }
  for (int i = 0; i < rows; ++i)
    for (int j = i < whole_rows ? whole_columns : 0; j < columns; ++j)
      target[j * target_stride + i] = source[i * source_stride + j];
}

// Calls body(column of the first pixel, index of the first number in [samples, channels, pixels]) for every image row.
template <class T, class Body>
IRF_ALWAYS_INLINE void each_row(const Layout<T>& layout, int samples, int channels, const Body& body) {
  int64_t at = 0;
  for (int s = 0; s < samples; ++s)
    for (int c = 0; c < channels; ++c)
      for (int y = 0; y < layout.height; ++y, at += layout.width)
        body(s, layout.size(c) + layout.lead + y * layout.pitch + s, at);
}

// source [samples, channels, pixels] -> tile; missing samples and covered pads become zero. `scale` [samples] may be
// null.
template <class T>
void load_events(const Layout<T>& layout, const T* source, int samples, int channels, T* tile,
                 const T* scale = nullptr) {
  if (layout.masked || samples < (layout.dense ? layout.pitch : layout.images))
    for (int c = 0; c < channels; ++c)
      for (int j = 0; j < layout.vectors; ++j) store(tile + layout.size(c) + layout.position[j], Vector<T>{});
  if (layout.dense) {
    transpose(source, channels, samples, channels, tile, layout.stride);
    for (int c = 0; scale && c < channels; ++c)
      for (int s = 0; s < samples; ++s) tile[layout.size(c) + s] *= scale[s];
    return;
  }
  each_row(layout, samples, channels, [&](int s, int64_t column, int64_t at) {
    const T factor = scale ? scale[s] : T(1);
    if (layout.images == 1)  // contiguous: the compiler vectorises it
      for (int x = 0; x < layout.width; ++x) tile[column + x] = factor * source[at + x];
    else
      for (int x = 0; x < layout.width; ++x) tile[column + x * layout.images] = factor * source[at + x];
  });
}

// tile (+ addend, in the layout of target) -> target [samples, channels, pixels].
template <class T>
void store_events(const Layout<T>& layout, const T* tile, int samples, int channels, T* target,
                  const T* addend = nullptr) {
  if (layout.dense)
    transpose(tile, layout.stride, channels, samples, target, channels);
  else
    each_row(layout, samples, channels, [&](int, int64_t column, int64_t at) {
      if (layout.images == 1)
        for (int x = 0; x < layout.width; ++x) target[at + x] = tile[column + x];
      else
        for (int x = 0; x < layout.width; ++x) target[at + x] = tile[column + x * layout.images];
    });
  const int64_t size = int64_t(samples) * channels * (layout.dense ? 1 : layout.height * layout.width);
  for (int64_t k = 0; addend && k < size; ++k) target[k] += addend[k];
}

// Numbers [samples, channels], or, with `by_pixel`, [samples, channels, pixels] -> tile: those of sample k / copies in
// the columns of k = 0 .. count - 1, the same at every pixel where there is one of a channel. Everything else is zero.
template <class T>
void load_operand(const Layout<T>& layout, const T* source, bool by_pixel, int count, int64_t copies, int channels,
                  T* tile) {
  if (copies == 1 && (layout.dense || by_pixel)) return load_events(layout, source, count, channels, tile);
  for (int c = 0; c < channels; ++c)
    for (int j = 0; j < layout.vectors; ++j) store(tile + layout.size(c) + layout.position[j], Vector<T>{});
  const int width = layout.dense ? 1 : layout.width;
  const int64_t pixels = by_pixel ? int64_t(layout.height) * width : 1;
  for (int k = 0; k < count; ++k)
    for (int c = 0; c < channels; ++c) {
      const T* plane = source + (k / copies * channels + c) * pixels;
      for (int y = 0; y < layout.height; ++y) {
        T* row = tile + layout.size(c) + layout.lead + y * layout.pitch + k;
        for (int x = 0; x < width; ++x) row[x * layout.images] = plane[by_pixel ? int64_t(y) * width + x : 0];
      }
    }
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

// The inverse of load_operand for gradients: tile -> target, sums over the pixels where a channel has one number. Pads
// are zero.
template <class T>
void store_operand(const Layout<T>& layout, const T* tile, bool by_pixel, int samples, int channels, T* target) {
  if (layout.dense || by_pixel) return store_events(layout, tile, samples, channels, target);
  T sums[kLanes<T>];
  for (int c = 0; c < channels; ++c) {
    Vector<T> sum{};
    for (int j = 0; j < layout.vectors; ++j) sum += load(tile + layout.size(c) + layout.position[j]);
    gather(layout, sum, sums);
    for (int s = 0; s < samples; ++s) target[int64_t(s) * channels + c] = sums[s];
  }
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
