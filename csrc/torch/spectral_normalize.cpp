#include <torch/csrc/stable/library.h>

#include "device.h"
#include "torch/norm_layers.h"

namespace irf::binding {
namespace {

Tensor spectral_normalize(const Tensors& weights, const Tensor& sigmas, const Tensor& coeffs) {
  STD_TORCH_CHECK(!weights.empty(), "weights must hold at least one layer, got none; pass one.");
  Tensors kept;
  for (const Tensor& w : weights) {
    STD_TORCH_CHECK(w.dim() > 0, "a weight must have at least one dimension, got none; reshape it.");
    kept.push_back(dense(w));
  }
  const int64_t layers = static_cast<int64_t>(weights.size());
  const Tensor sigma = dense(sigmas), coeff = dense(coeffs);
  check_like(sigma, kept[0], layers, "sigmas");
  check_like(coeff, kept[0], layers, "coeffs");
  Tensor packed = make({total(kept)}, kept[0]);
  with_type(kept[0], "weights", [&]<class T>(T) {
    std::vector<NormLayer<T>> layer;
    for (const Tensor& w : kept) {
      check_like(w, kept[0], w.numel(), "weights");
      NormLayer<T> matrix{};  // only the weight and its size matter here
      matrix.out_channels = checked_int(w.size(0), 0, "the outputs of a weight");
      matrix.in_channels = checked_int(w.numel() / (w.size(0) ? w.size(0) : 1), 0, "the inputs of a weight");
      matrix.weight = data<T>(w);
      layer.push_back(matrix);
    }
    const std::vector<T*> result = unpack(mutable_data<T>(packed), kept);
    OnDevice<T>(kept[0]).spectral_normalize(
        {static_cast<int>(layers), layer.data(), data<T>(sigma), data<T>(coeff), nullptr, false, result.data()});
  });
  return packed;
}

Tensor spectral_normalize_backward(const Tensors& grads, const Tensors& weights, const Tensors& us, const Tensors& vs,
                                   const Tensor& sigmas, const Tensor& coeffs, const std::vector<int64_t>& geometry,
                                   bool through_sigma) {
  const LayerArguments arguments(weights, us, vs, geometry);
  const Tensor& like = arguments.weights[0];
  const int64_t layers = static_cast<int64_t>(weights.size());
  const Tensor sigma = dense(sigmas), coeff = dense(coeffs);
  check_like(sigma, like, layers, "sigmas");
  check_like(coeff, like, layers, "coeffs");
  STD_TORCH_CHECK(grads.size() == weights.size(), "grads must have one entry per weight, ", layers, ", got ",
                  grads.size(), "; add zeros.");
  Tensors upstream;
  for (size_t i = 0; i < grads.size(); ++i) {
    upstream.push_back(dense(grads[i]));
    check_like(upstream[i], like, weights[i].numel(), "grads");
  }
  Tensor packed = make({total(arguments.weights)}, like);
  with_type(like, "weights", [&]<class T>(T) {
    const std::vector<NormLayer<T>> layer = arguments.fill<T>();
    std::vector<const T*> grad;
    for (const Tensor& g : upstream) grad.push_back(data<T>(g));
    const std::vector<T*> result = unpack(mutable_data<T>(packed), arguments.weights);
    OnDevice<T>(like).spectral_normalize_backward({static_cast<int>(layers), layer.data(), data<T>(sigma),
                                                   data<T>(coeff), grad.data(), through_sigma, result.data()});
  });
  return packed;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(iresnet_fast, IRF_DEVICE, m) {
  m.impl("spectral_normalize", TORCH_BOX(&spectral_normalize));
  m.impl("spectral_normalize_backward", TORCH_BOX(&spectral_normalize_backward));
}

}  // namespace irf::binding
