// D and E / D of an activation whose value tells both: with them, E t = (E / D) D t, and of the tangents D t is enough.
// E / D may not be wanted.
#pragma once

#include "cpu/from_value.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T, class Act>
void value_ratio_as(const Layout<T>& layout, const T* h, int channels, T* d, T* ratio) {
  using F = FromValue<Act>;
  using M = VectorMath<T>;
  if constexpr (F::possible)
    for (int c = 0; c < channels; ++c)
      for (int j = 0; j < layout.vectors; ++j) {
        const int column = layout.position[j];
        const int64_t at = layout.size(c) + column;
        const Vector<T> value = load(h + at);
        store(d + at, keep_pixels(layout, column, F::template derivative<M>(value)));
        if (ratio) store(ratio + at, keep_pixels(layout, column, F::template ratio<M>(value)));
      }
}

template <class T>
void value_ratio(Activation activation, const Layout<T>& layout, const T* h, int channels, T* d, T* ratio) {
  switch (activation) {
#define IRF_CASE(name, Struct) \
  case Activation::k##Struct:  \
    return value_ratio_as<T, Struct>(layout, h, channels, d, ratio);
    IRF_FOR_EACH_ACTIVATION(IRF_CASE)
#undef IRF_CASE
    case Activation::kCount:
      break;
  }
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
