// The size of a weight, and a copy of it of ordinary size, so that squares of its products neither overflow nor
// underflow.
#pragma once

#include "cpu/krylov_basis.h"
#include "iresnet_fast/lanczos.h"

namespace irf {
namespace IRF_ISA {
namespace {

// The entry of largest magnitude, NaN if one is not finite.
template <class T>
T largest_entry(const T* a, int64_t size) {
  Vector<T> most{}, poison{};
  int64_t i = 0;
  for (; i + kLanes<T> <= size; i += kLanes<T>) {
    const Vector<T> entry = load(a + i), magnitude = entry < T(0) ? -entry : entry;
    most = magnitude > most ? magnitude : most;
    poison += entry * T(0);
  }
  T lane[kLanes<T>], largest = T(0), rest = sum_lanes<T>(poison);
  std::memcpy(lane, &most, sizeof most);
  auto include = [&](T entry) {
    const T magnitude = entry < T(0) ? -entry : entry;
    largest = magnitude > largest ? magnitude : largest;
    rest += entry * T(0);
  };
  for (T entry : lane) include(entry);
  for (; i < size; ++i) include(a[i]);
  return largest + rest;
}

// Points the layer to a copy of its weight times a power of two, unless that is 1, and returns it: 1 too if the weight
// is zero or not finite. `largest`, if given, takes the entry of largest magnitude.
template <class T>
T take_to_ordinary_size(NormLayer<T>& layer, Workspace& workspace, T* largest = nullptr) {
  const int64_t size = layer.weight_size();
  const T entry = largest_entry(layer.weight, size);
  if (largest) *largest = entry;
  const T factor = entry > T(0) && entry <= Lanczos<T>::kLargest ? weight_factor(entry) : T(1);
  if (factor == T(1)) return factor;
  T* weight = workspace.take<T>(size);
  std::memcpy(weight, layer.weight, sizeof(T) * size);
  scale(weight, size, factor);
  layer.weight = weight;
  return factor;
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
