// A branch for the driver.
#pragma once

#include "cases.h"
#include "checks.h"

namespace {

// The numbers of a case and the plain structs over them.
template <class T>
struct BranchData {
  // Weight, bias, beta and factor of every stage, as gradients are packed; empty where there is none.
  std::vector<Numbers<T>> parameters;
  std::vector<irf::Stage<T>> stages;
  irf::Branch<T> branch;
  int64_t size, parameter_count = 0;

  explicit BranchData(const BranchCase& c) {
    const int64_t pixels = c.height == 0 ? 1 : int64_t(c.height) * c.width;
    // How many numbers an operand of so many channels has.
    auto numbers = [&](irf::Spread spread, int channels) {
      return channels * (spread == irf::Spread::kShared ? 1 : c.batch) * (spread == irf::Spread::kPixel ? pixels : 1);
    };
    for (size_t i = 0; i < c.kernels.size(); ++i) {
      const int in = c.widths[i], out = c.widths[i + 1], area = c.kernels[i] * c.kernels[i];
      const irf::Spread of_bias = c.bias_spreads.empty() ? irf::Spread::kShared : c.bias_spreads[i];
      const irf::Spread of_factor = c.factor_spreads.empty() ? irf::Spread::kShared : c.factor_spreads[i];
      // Row and column sums below 0.8, so the norm is.
      parameters.push_back(random_numbers<T>(int64_t(in) * out * area, 0.8f / float(std::max(in, out) * area)));
      parameters.push_back(random_numbers<T>(c.biases ? numbers(of_bias, out) : 0));
      parameters.push_back(random_numbers<T>(irf::learns_slope(c.activations[i]) ? 1 : 0));
      parameters.push_back(random_numbers<T>(of_factor == irf::Spread::kShared ? 0 : numbers(of_factor, in)));
      irf::Stage<T> stage{c.activations[i], in, out, c.kernels[i], nullptr, nullptr, nullptr};
      stage.constant = T(0.5);
      stage.bias_spread = of_bias;
      stage.factor_spread = of_factor;
      stages.push_back(stage);
    }
    for (const Numbers<T>& each : parameters) parameter_count += each.size();
    branch = {int(stages.size()), nullptr, c.height, c.width, c.batch};
    point();
    size = branch.in_size();
  }

  // The same with parameters moved by `step` times a direction, packed.
  BranchData moved(const Numbers<T>& direction, T step) const {
    BranchData result(*this);
    int64_t at = 0;
    for (Numbers<T>& each : result.parameters)
      for (T& number : each) number += step * direction[at++];
    result.point();
    return result;
  }

  BranchData(BranchData&&) = default;

 private:
  BranchData(const BranchData&) = default;  // points to the other's numbers

  void point() {
    auto data = [](const Numbers<T>& numbers) { return numbers.empty() ? nullptr : numbers.data(); };
    for (size_t i = 0; i < stages.size(); ++i) {
      irf::Stage<T>& stage = stages[i];
      stage.weight = data(parameters[4 * i]), stage.bias = data(parameters[4 * i + 1]);
      stage.beta = data(parameters[4 * i + 2]), stage.factor = data(parameters[4 * i + 3]);
    }
    branch.stage = stages.data();
  }
};

}  // namespace
