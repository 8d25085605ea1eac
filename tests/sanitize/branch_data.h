// A branch for the driver.
#pragma once

#include "cases.h"
#include "checks.h"

namespace {

// The numbers of a case and the plain structs over them.
template <class T>
struct BranchData {
  std::vector<Numbers<T>> weights, biases, betas;
  std::vector<irf::Stage<T>> stages;
  irf::Branch<T> branch;
  int64_t size, parameters = 0;

  explicit BranchData(const BranchCase& c) {
    const size_t n = c.kernels.size();
    for (size_t i = 0; i < n; ++i) {
      const int in = c.widths[i], out = c.widths[i + 1], area = c.kernels[i] * c.kernels[i];
      // Row and column sums below 0.8, so the norm is.
      weights.push_back(random_numbers<T>(int64_t(in) * out * area, 0.8f / float(std::max(in, out) * area)));
      biases.push_back(random_numbers<T>(c.biases ? out : 0));
      betas.push_back(random_numbers<T>(c.activations[i] == irf::Activation::kLipSwish ? 1 : 0));
      parameters += weights[i].size() + biases[i].size() + betas[i].size();
    }
    for (size_t i = 0; i < n; ++i)
      stages.push_back({c.activations[i], c.widths[i], c.widths[i + 1], c.kernels[i], weights[i].data(),
                        biases[i].empty() ? nullptr : biases[i].data(), betas[i].empty() ? nullptr : betas[i].data()});
    branch = {int(n), stages.data(), c.height, c.width, c.batch};
    size = branch.in_size();
  }
};

}  // namespace
