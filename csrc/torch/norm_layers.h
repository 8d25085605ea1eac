// The layers of a model as the spectral norm ops see them.
#pragma once

#include "torch/operands.h"

namespace irf::binding {

constexpr int64_t kGeometryNumbers = 10;

// Checks the sizes of a weight [out, in / groups, kernel height, kernel width], or [out, in] if the first number of its
// geometry is 0: all that NormLayer computes of them then fits an int.
void check_layer(const Tensor& weight, const int64_t* geometry);

struct LayerArguments {
  Tensors weights, us, vs;  // contiguous
  const std::vector<int64_t>& geometry;

  LayerArguments(const Tensors& weights_, const Tensors& us_, const Tensors& vs_, const std::vector<int64_t>& geometry_)
      : geometry(geometry_) {
    const size_t layers = weights_.size();
    STD_TORCH_CHECK(layers > 0, "weights must hold at least one layer, got none; pass one.");
    STD_TORCH_CHECK(us_.size() == layers && vs_.size() == layers && geometry.size() == layers * kGeometryNumbers,
                    "us, vs and geometry must have one, one and ", kGeometryNumbers, " entries per weight, got ",
                    us_.size(), ", ", vs_.size(), " and ", geometry.size(), " for ", layers, "; add what is missing.");
    for (size_t i = 0; i < layers; ++i) {
      check_layer(weights_[i], geometry.data() + i * kGeometryNumbers);
      weights.push_back(dense(weights_[i]));
      us.push_back(dense(us_[i]));
      vs.push_back(dense(vs_[i]));
    }
  }

  template <class T>
  std::vector<NormLayer<T>> fill() const {
    std::vector<NormLayer<T>> layers;
    for (size_t i = 0; i < weights.size(); ++i) {
      const int64_t* g = geometry.data() + i * kGeometryNumbers;
      const Tensor& w = weights[i];
      auto number = [&](int k) { return static_cast<int>(g[k]); };
      const bool matrix = g[0] == 0;
      NormLayer<T> layer{static_cast<int>(w.size(0)),
                         number(9),
                         number(0),
                         number(1),
                         matrix ? 1 : static_cast<int>(w.size(2)),
                         matrix ? 1 : static_cast<int>(w.size(3)),
                         number(2),
                         number(3),
                         number(4),
                         number(5),
                         number(6),
                         number(7),
                         number(8),
                         data<T>(w),
                         data<T>(us[i]),
                         data<T>(vs[i])};
      check_like(w, weights[0], layer.weight_size(), "weights");
      check_like(us[i], weights[0], layer.u_size(), "us");
      check_like(vs[i], weights[0], layer.v_size(), "vs");
      layers.push_back(layer);
    }
    return layers;
  }
};

inline int64_t total(const Tensors& tensors) {
  int64_t sum = 0;
  for (const Tensor& t : tensors) sum += t.numel();
  return sum;
}

// Where each tensor of a list stands in one packed tensor.
template <class T>
std::vector<T*> unpack(T* packed, const Tensors& tensors) {
  std::vector<T*> pieces;
  for (const Tensor& t : tensors) {
    pieces.push_back(packed);
    packed += t.numel();
  }
  return pieces;
}

}  // namespace irf::binding
