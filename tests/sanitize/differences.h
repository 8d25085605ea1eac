// Gradients beside differences of what they are gradients of, in float64.
#pragma once

#include "branch_data.h"
#include "layerwise.h"

namespace {

constexpr double kStep = 1e-6;

// A central difference is off by step^2 / 6 times the third derivative, here some thousands along a direction of all
// parameters, and by the rounding of its two values, eps / step of them.
inline bool near_difference(double derivative, double difference) {
  return std::abs(derivative - difference) <= 1e-6 * std::max(1.0, std::abs(difference));
}

// What is asked of a branch: <grad, g> + sum_j sum_b weight_b / m <y_j, J v_j>, or <grad, x + g> + <weight, log|det(I +
// J)|>.
struct Questions {
  int pairs;
  Numbers<double> x, grad, v, y, weight;
};

inline double value_of_pairs(const Ways<double>& kernels, const irf::Branch<double>& branch, const Questions& q,
                             const irf::Parallel& parallel) {
  const int64_t all = int64_t(q.x.size()), size = all / branch.batch;
  Numbers<double> g(all), moved(all);
  kernels.branch(branch, {q.x.data(), g.data(), false}, parallel);
  double value = dot(g.data(), q.grad.data(), all);
  for (int j = 0; j < q.pairs; ++j) {
    kernels.jacobian_powers(branch, {q.x.data(), q.v.data() + j * all, 1, false, moved.data()}, parallel);
    for (int64_t b = 0; b < branch.batch; ++b)
      value += q.weight[b] / q.pairs * dot(q.y.data() + j * all + b * size, moved.data() + b * size, size);
  }
  return value;
}

inline double value_of_logdet(const Ways<double>& kernels, const irf::Branch<double>& branch, const Questions& q,
                              const irf::Parallel& parallel) {
  const int64_t all = int64_t(q.x.size());
  Numbers<double> z(all), logdet(branch.batch);
  kernels.residual_logdet_exact(branch, {q.x.data(), z.data(), logdet.data(), nullptr}, parallel);
  return dot(z.data(), q.grad.data(), all) + dot(logdet.data(), q.weight.data(), branch.batch);
}

// The derivative by x and every parameter along a random direction.
template <class Value>
void check_direction(const BranchData<double>& data, const Questions& q, const Numbers<double>& grad_x,
                     const Numbers<double>& packed, const Value& value, const std::string& where) {
  const int64_t all = int64_t(q.x.size());
  const Numbers<double> along_x = random_numbers<double>(all), along = random_numbers<double>(data.parameter_count);
  double difference = 0;
  for (double sign : {-1.0, 1.0}) {
    const BranchData<double> moved = data.moved(along, sign * kStep);
    Questions there(q);
    for (int64_t i = 0; i < all; ++i) there.x[i] += sign * kStep * along_x[i];
    difference += sign * value(moved.branch, there) / (2 * kStep);
  }
  const double derivative =
      dot(grad_x.data(), along_x.data(), all) + dot(packed.data(), along.data(), data.parameter_count);
  expect(near_difference(derivative, difference), where,
         "a derivative is " + std::to_string(derivative) + ", not " + std::to_string(difference));
}

inline void check_differences(const BranchData<double>& data, const Ways<double>& kernels, const Questions& q,
                              const irf::Parallel& parallel, const std::string& where) {
  const irf::Branch<double>& branch = data.branch;
  const uint64_t state = random_state<double>;  // float32 draws no directions
  Numbers<double> grad_x = unwritten<double>(int64_t(q.x.size())), packed = unwritten<double>(data.parameter_count);
  irf::BranchBackwardOperands<double> op{};
  op.x = q.x.data(), op.grad = q.grad.data();
  op.pairs = q.pairs, op.tangents = q.v.data(), op.cotangents = q.y.data(), op.weight = q.weight.data();
  op.grad_x = grad_x.data(), op.grad_parameters = packed.data();
  kernels.branch_backward(branch, op, parallel);
  check_direction(
      data, q, grad_x, packed,
      [&](const irf::Branch<double>& at, const Questions& there) {
        return value_of_pairs(kernels, at, there, parallel);
      },
      where + ", pairs");
  random_state<double> = state;
  if (data.size > 64 || kernels.layers) return;
  kernels.residual_logdet_exact_backward(
      branch, {q.x.data(), q.grad.data(), q.weight.data(), grad_x.data(), packed.data(), nullptr, 0}, parallel);
  check_direction(
      data, q, grad_x, packed,
      [&](const irf::Branch<double>& at, const Questions& there) {
        return value_of_logdet(kernels, at, there, parallel);
      },
      where + ", exact");
  random_state<double> = state;
}

}  // namespace
