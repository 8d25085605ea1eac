// How a tile of columns lies in memory. One thread owns it for the whole walk, so it stays in its cache.
//
// A tile is [channels][stride]. Dense branch: its columns are samples. Convolution: its columns are the pixels of a few
// images, interleaved (pixel 0 of every image, pixel 1 of every image, ...) and flattened with one shared pad of r
// pixels between rows and r rows above and below. So a kernel tap is a constant offset, and enough images fill whole
// vectors with each row. Only the vectors at `position` are ever written; everything else stays zero.
#pragma once

#include <type_traits>

#include "cpu/simd.h"
#include "cpu/workspace.h"
#include "iresnet_fast/params.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Channels must not be a multiple of 4 KiB apart (they would fight for the same cache sets): an odd number of cache
// lines.
template <class T>
int channel_stride(int columns) {
  const int line = 64 / static_cast<int>(sizeof(T));
  return (divide_up(columns, line) | 1) * line;
}

template <class T>
struct Layout {
  bool dense;
  int images;         // interleaved images; dense: 0
  int height, width;  // of an image; dense: 1 x samples
  int pitch;          // columns from one image row to the next
  int lead;           // column of the first pixel
  int stride;         // from one channel to the next
  int vectors;
  const int* position;  // [vectors] first column of each vector
  bool masked;          // vectors also cover pad columns: what is written there must be zeroed
  const T* mask;        // [stride] all-ones bits on pixels, zero on pads (only if masked)

  int64_t size(int channels) const { return int64_t(channels) * stride; }
  // Of samples or pixels, from the first of a row to the last.
  int row_columns() const { return dense ? width : width * images; }
  // Room for one number per sample of the tile, in whole vectors.
  int slots() const { return dense ? pitch : kLanes<T>; }
};

template <class T>
Layout<T> dense_layout(int samples, Workspace& workspace) {
  Layout<T> layout{};
  layout.dense = true;
  layout.height = 1;
  layout.width = samples;
  layout.vectors = divide_up(samples, kLanes<T>);
  layout.pitch = layout.vectors * kLanes<T>;
  layout.stride = channel_stride<T>(layout.pitch);
  int* position = workspace.take<int>(layout.vectors);
  for (int j = 0; j < layout.vectors; ++j) position[j] = j * kLanes<T>;
  layout.position = position;
  return layout;
}

// Vectors that cover a padded image (times `images`): whole rows if those are whole vectors, else everything with the
// pads.
template <class T>
int grid_vectors(int height, int width, int gap, int images) {
  const int row = width * images;
  return row % kLanes<T> == 0 ? height * (row / kLanes<T>) : divide_up(height * (width + gap) * images, kLanes<T>);
}

// Padded grid for kernels that reach `reach_rows`, `reach_columns` pixels beyond the image; `gap` pad pixels between
// rows.
template <class T>
Layout<T> grid_layout(int height, int width, int gap, int reach_rows, int reach_columns, int images,
                      Workspace& workspace) {
  Layout<T> layout{};
  const int lanes = kLanes<T>, row = width * images;
  layout.images = images;
  layout.height = height;
  layout.width = width;
  layout.pitch = (width + gap) * images;
  const int reach = reach_rows * layout.pitch + reach_columns * images;
  layout.lead = round_up(reach, lanes);
  const bool whole_rows = row % lanes == 0;  // vectors that end with the row leave the pads alone
  layout.masked = !whole_rows;
  layout.vectors = grid_vectors<T>(height, width, gap, images);
  int* position = workspace.take<int>(layout.vectors);
  for (int j = 0; j < layout.vectors; ++j) {
    const int per_row = row / lanes;
    position[j] = layout.lead + (whole_rows ? (j / per_row) * layout.pitch + (j % per_row) * lanes : j * lanes);
  }
  layout.position = position;
  layout.stride = channel_stride<T>(position[layout.vectors - 1] + lanes + reach);
  if (layout.masked) {
    T* mask = workspace.take_zeroed<T>(layout.stride);
    for (int y = 0; y < height; ++y) std::memset(mask + layout.lead + y * layout.pitch, 0xff, sizeof(T) * row);
    layout.mask = mask;
  }
  return layout;
}

// Zeroes what no vector covers: the columns that kernels read but never write.
template <class T>
void zero_uncovered(const Layout<T>& layout, T* tile, int channels) {
  for (int c = 0; c < channels; ++c) {
    T* row = tile + layout.size(c);
    int from = 0;
    for (int j = 0; j <= layout.vectors; ++j) {
      const int to = j < layout.vectors ? layout.position[j] : layout.stride;
      if (to > from) std::memset(row + from, 0, sizeof(T) * (to - from));
      from = to + kLanes<T>;
    }
  }
}

// Zeroes the pad lanes of the vector at `column`.
template <class T>
IRF_ALWAYS_INLINE Vector<T> keep_pixels(const Layout<T>& layout, int column, Vector<T> v) {
  if (!layout.masked) return v;
  typedef typename std::conditional<sizeof(T) == 4, int32_t, int64_t>::type Int;
  typedef Int Bits __attribute__((vector_size(kVectorBytes)));
  return (Vector<T>)((Bits)v & (Bits)load(layout.mask + column));
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
