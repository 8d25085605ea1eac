// The Lanczos iteration on ragged layers: vectors of unit length, and a sigma that only rises with the steps.
#pragma once

#include "cases.h"
#include "checks.h"

namespace {

template <class T>
struct LanczosRun {
  std::vector<Numbers<T>> u, v, companion;
  Numbers<T> sigma, residual;
  Numbers<int64_t> iterations;

  LanczosRun(const std::vector<irf::NormLayer<T>>& layers, const std::vector<Numbers<T>>& companions, int64_t most,
             const irf::Parallel& parallel)
      : sigma(unwritten<T>(layers.size())), residual(sigma), iterations(layers.size(), -1) {
    for (size_t i = 0; i < layers.size(); ++i) {
      u.push_back(unwritten<T>(layers[i].u_size()));
      v.push_back(unwritten<T>(layers[i].v_size()));
      companion.push_back(unwritten<T>(companions[i].size()));
    }
    std::vector<T*> u_data, v_data, companion_data;
    std::vector<const T*> hint;
    for (size_t i = 0; i < layers.size(); ++i) {
      u_data.push_back(u[i].data()), v_data.push_back(v[i].data()), companion_data.push_back(companion[i].data());
      hint.push_back(companions[i].data());
    }
    const int64_t seed = 7;
    irf::kernels<T>().lanczos_norm(
        {int(layers.size()), layers.data(), hint.data(), &seed, most, T(0), sigma.data(), residual.data(),
         iterations.data(), u_data.data(), v_data.data(), companion_data.data()},
        parallel);
  }
};

template <class T>
void check_lanczos(const std::string& name, const std::vector<LayerCase>& cases) {
  const size_t n = cases.size();
  std::vector<Numbers<T>> weights, us, vs, companions;
  std::vector<irf::NormLayer<T>> layers;
  for (const LayerCase& c : cases) {
    irf::NormLayer<T> layer{c.out, c.in, c.height, c.width, c.kh,     c.kw, c.sh, c.sw,
                            c.ph,  c.pw, c.dh,     c.dw,    c.groups, {},   {},   {}};
    weights.push_back(random_numbers<T>(layer.weight_size()));
    us.push_back(random_numbers<T>(layer.u_size()));
    vs.push_back(random_numbers<T>(layer.v_size()));
    companions.push_back(random_numbers<T>(std::min(layer.u_size(), layer.v_size())));
    layers.push_back(layer);
  }
  for (T& number : weights[0]) number = 0;
  for (T& number : weights[1]) number *= T(1e-20f);  // so that it is copied
  for (size_t i = 0; i < n; ++i)
    layers[i].weight = weights[i].data(), layers[i].u = us[i].data(), layers[i].v = vs[i].data();

  on_all_machines<T>(name, [&](const std::string& where, const irf::Parallel& parallel) {
    const LanczosRun<T> few(layers, companions, 2, parallel), many(layers, companions, 90, parallel);
    expect(many.sigma[0] == 0 && many.iterations[0] == 0, where, "a zero weight");
    for (size_t i = 0; i < n; ++i) {
      const std::string layer = " of layer " + std::to_string(i);
      const auto of_unit_length = [&](const Numbers<T>& a) { return near<T>(dot(a.data(), a.data(), a.size()), 1, 1); };
      expect(of_unit_length(many.u[i]) && of_unit_length(many.v[i]), where, "the length of u or v" + layer);
      expect(many.iterations[i] <= 90 && few.iterations[i] <= 2, where, "the number of steps" + layer);
      expect(many.sigma[i] >= few.sigma[i] * (1 - tolerance<T>()), where, "more steps lower sigma" + layer);
      const Numbers<T>& leading = us[i].size() < vs[i].size() ? many.u[i] : many.v[i];
      expect(near<T>(dot(leading.data(), many.companion[i].data(), leading.size()), 0, 1), where,
             "the companion is not orthogonal" + layer);
    }
    return std::vector<Numbers<T>>{few.sigma, many.sigma};
  });
}

}  // namespace
