// From the Jacobians of a tile's samples to log|det(I + J)| and (I + J)^-1.
#pragma once

#include "cpu/determinant.h"
#include "cpu/unit_tangents.h"

namespace irf {
namespace IRF_ISA {
namespace {

// The matrices of the samples of a tile lie as [d * d][slots], slots = layout.slots(): those of no sample may hold
// anything.
template <class T>
struct TileDeterminants {
  const Layout<T>& layout;
  const int size;  // d
  double* lanes;   // [d * d][kMatrices]
  int64_t (*order)[kMatrices];

  TileDeterminants(const Layout<T>& layout_, int64_t size_, Workspace& workspace)
      : layout(layout_), size(static_cast<int>(size_)) {
    lanes = workspace.take<double>(int64_t(size) * size * kMatrices);
    order = reinterpret_cast<int64_t (*)[kMatrices]>(workspace.take<int64_t>(int64_t(size) * kMatrices));
  }

  // Column j of every Jacobian, a tile.
  void put_column(int channels, const T* column, int64_t j, T* matrices) const {
    const int slots = layout.slots();
    each_number(layout, channels, [&](int64_t i, int64_t at) {
      T* entry = matrices + (i * size + j) * slots;
      if (layout.dense)
        for (int v = 0; v < layout.vectors; ++v)
          store(entry + layout.position[v], load(column + at + layout.position[v]));
      else
        std::memcpy(entry, column + at, sizeof(T) * layout.images);
    });
  }

  // Jacobians -> log|det(I + J)| [samples]; `invert`: the matrices become (I + J)^-1, zero where there is no sample.
  void finish(T* matrices, int samples, bool invert, T* logdet) const {
    const int slots = layout.slots();
    const int64_t entries = int64_t(size) * size;
    for (int first = 0; first < samples; first += kMatrices) {
      for (int64_t k = 0; k < entries; ++k) {
        const Lanes entry = widen(matrices + k * slots + first);
        store(lanes + k * kMatrices, k % (size + 1) == 0 ? entry + 1.0 : entry);
      }
      double log_abs_det[kMatrices];
      eliminate(lanes, size, invert, order, log_abs_det);
      const int count = min_of(kMatrices, samples - first);
      for (int s = 0; s < count; ++s) logdet[first + s] = static_cast<T>(log_abs_det[s]);
      for (int64_t k = 0; invert && k < entries; ++k) narrow(load(lanes + k * kMatrices), matrices + k * slots + first);
    }
    for (int64_t k = 0; invert && k < entries; ++k)
      for (int s = samples; s < slots; ++s) matrices[k * slots + s] = T(0);
  }

  // Row j of every inverse times weight [slots], as a tile.
  void get_row(int channels, const T* matrices, int64_t j, const T* weight, T* row) const {
    const int slots = layout.slots();
    if (!layout.dense)
      for (int c = 0; c < channels; ++c)
        for (int v = 0; v < layout.vectors; ++v) store(row + layout.size(c) + layout.position[v], Vector<T>{});
    each_number(layout, channels, [&](int64_t i, int64_t at) {
      const T* entry = matrices + (j * size + i) * slots;
      if (layout.dense)
        for (int v = 0; v < layout.vectors; ++v)
          store(row + at + layout.position[v], load(entry + layout.position[v]) * load(weight + layout.position[v]));
      else
        for (int s = 0; s < layout.images; ++s) row[at + s] = entry[s] * weight[s];
    });
  }
};

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
