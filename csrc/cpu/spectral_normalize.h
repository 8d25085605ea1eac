// W / max(1, sigma / c) for every layer of a model in one call, and its gradient, through sigma or not (d sigma / dW
// with u and v held constant is the weight gradient of the layer at input v and output gradient u).
#pragma once

#include "cpu/linear_map.h"
#include "cpu/parallel.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
T normalizer(T sigma, T coeff) {
  return sigma <= coeff ? T(1) : sigma / coeff;  // so that a NaN is not lost
}

template <class T>
void spectral_normalize(const SpectralNormalizeOperands<T>& op, const Parallel& parallel) {
  run_each(parallel, op.layers, [&](int64_t index) {
    const NormLayer<T>& layer = op.layer[index];
    const T factor = normalizer(op.sigma[index], op.coeff[index]);
    for (int64_t i = 0; i < layer.weight_size(); ++i) op.result[index][i] = layer.weight[i] / factor;
  });
}

// target += factor * (d sigma / dW).
template <class T>
void add_sigma_gradient(const NormLayer<T>& layer, T factor, T* target) {
  if (layer.matrix()) {
    for (int i = 0; i < layer.out_channels; ++i)
      add_multiple(factor * layer.u[i], layer.v, layer.in_channels, target + int64_t(i) * layer.in_channels);
    return;
  }
  Workspace workspace;
  GridConvolution<T> map(layer, false, workspace);
  map.read_input(layer.v);
  const T* u = layer.u;
  map.each_output([&](T& cell) { cell = factor * *u++; });
  map.add_weight_gradient(workspace, target);
}

template <class T>
void spectral_normalize_backward(const SpectralNormalizeOperands<T>& op, const Parallel& parallel) {
  run_each(parallel, op.layers, [&](int64_t index) {
    const NormLayer<T>& layer = op.layer[index];
    const T sigma = op.sigma[index], coeff = op.coeff[index], factor = normalizer(sigma, coeff);
    const T* grad = op.grad[index];
    T* result = op.result[index];
    const int64_t size = layer.weight_size();
    for (int64_t i = 0; i < size; ++i) result[i] = grad[i] / factor;
    // W_eff = W c / sigma: d/d sigma = -W c / sigma^2.
    if (op.through_sigma && sigma > coeff)
      add_sigma_gradient(layer, -(dot(grad, layer.weight, size) / sigma) * (coeff / sigma), result);
  });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
