#include <torch/csrc/stable/library.h>

#include "device.h"
#include "torch/norm_layers.h"

namespace irf::binding {
namespace {

std::tuple<Tensor, Tensor, Tensor> spectral_norm(const Tensors& weights, const Tensors& us, const Tensors& vs,
                                                 const std::vector<int64_t>& geometry, int64_t max_iterations,
                                                 double tolerance) {
  const LayerArguments arguments(weights, us, vs, geometry);
  STD_TORCH_CHECK(max_iterations >= 0, "max_iterations must not be negative, got ", max_iterations, "; pass e.g. 1.");
  STD_TORCH_CHECK(tolerance == tolerance, "tolerance must be a number, got NaN; pass -1 to take all iterations.");
  const Tensor& like = arguments.weights[0];
  const int64_t layers = static_cast<int64_t>(weights.size());
  Tensor sigma = make({layers}, like);
  Tensor iterations = make({layers}, like, ScalarType::Long);
  Tensor packed = make({total(arguments.us) + total(arguments.vs)}, like);
  with_type(like, "weights", [&]<class T>(T) {
    const std::vector<NormLayer<T>> layer = arguments.fill<T>();
    T* start = mutable_data<T>(packed);
    const std::vector<T*> u = unpack(start, arguments.us), v = unpack(start + total(arguments.us), arguments.vs);
    OnDevice<T>(like).spectral_norm({static_cast<int>(layers), layer.data(), max_iterations, static_cast<T>(tolerance),
                                     mutable_data<T>(sigma), mutable_data<int64_t>(iterations), u.data(), v.data()});
  });
  return {sigma, iterations, packed};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(iresnet_fast, IRF_DEVICE, m) { m.impl("spectral_norm", TORCH_BOX(&spectral_norm)); }

}  // namespace irf::binding
