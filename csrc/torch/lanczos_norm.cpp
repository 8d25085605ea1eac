#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "device.h"
#include "torch/norm_layers.h"

namespace irf::binding {
namespace {

std::tuple<Tensor, Tensor, Tensor> lanczos_norm(const Tensors& weights, const Tensors& us, const Tensors& vs,
                                                const Tensors& companions, const Tensor& seed,
                                                const std::vector<int64_t>& geometry, int64_t max_iterations,
                                                double tolerance) {
  const LayerArguments arguments(weights, us, vs, geometry);
  const Tensor& like = arguments.weights[0];
  const int64_t layers = static_cast<int64_t>(weights.size());
  STD_TORCH_CHECK(companions.size() == weights.size(), "companions must have one entry per weight, ", layers, ", got ",
                  companions.size(), "; add zeros.");
  Tensors hints;
  for (size_t i = 0; i < companions.size(); ++i) {
    hints.push_back(dense(companions[i]));
    check_like(hints[i], like, std::min(us[i].numel(), vs[i].numel()), "companions");
  }
  STD_TORCH_CHECK(seed.device() == like.device() && seed.scalar_type() == ScalarType::Long && seed.numel() == 1,
                  "seed must be one int64 on the device of the weights; convert it.");
  STD_TORCH_CHECK(max_iterations > 0, "max_iterations must be positive, got ", max_iterations, "; pass e.g. 16.");
  STD_TORCH_CHECK(tolerance >= 0.0, "tolerance must not be negative or NaN, got ", tolerance, "; pass e.g. 3e-4.");
  Tensor norms = make({2, layers}, like);
  Tensor iterations = make({layers}, like, ScalarType::Long);
  const int64_t u_total = total(arguments.us), v_total = total(arguments.vs);
  Tensor packed = make({u_total + v_total + total(hints)}, like);
  with_type(like, "weights", [&]<class T>(T) {
    const std::vector<NormLayer<T>> layer = arguments.fill<T>();
    std::vector<const T*> hint;
    for (const Tensor& t : hints) hint.push_back(data<T>(t));
    T* start = mutable_data<T>(packed);
    const std::vector<T*> u = unpack(start, arguments.us), v = unpack(start + u_total, arguments.vs),
                          companion = unpack(start + u_total + v_total, hints);
    T* sigma = mutable_data<T>(norms);
    OnDevice<T>(like).lanczos_norm({static_cast<int>(layers), layer.data(), hint.data(), data<int64_t>(seed),
                                    max_iterations, static_cast<T>(tolerance), sigma, sigma + layers,
                                    mutable_data<int64_t>(iterations), u.data(), v.data(), companion.data()});
  });
  return {norms, iterations, packed};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(iresnet_fast, IRF_DEVICE, m) { m.impl("lanczos_norm", TORCH_BOX(&lanczos_norm)); }

}  // namespace irf::binding
