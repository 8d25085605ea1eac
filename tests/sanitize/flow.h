// What stands between the blocks of a flow: ActNorm, rearrangements and the sum of log-determinants.
#pragma once

#include "checks.h"

namespace {

template <class T>
void check_actnorm(const std::string& name, const irf::ChannelSizes& sizes) {
  const int64_t batch = sizes.batch, all = batch * sizes.event_size();
  const int channels = sizes.channels;
  const Numbers<T> x = random_numbers<T>(all), bias = random_numbers<T>(channels), grad = random_numbers<T>(all);
  const Numbers<T> log_scale = random_numbers<T>(channels), weight = random_numbers<T>(batch);
  on_all_machines<T>(name, [&](const std::string& where, const irf::Parallel& parallel) {
    Numbers<T> z = unwritten<T>(all), logdet = unwritten<T>(batch), grad_x = unwritten<T>(all);
    Numbers<T> grad_bias = unwritten<T>(channels), grad_log_scale = unwritten<T>(channels);
    irf::kernels<T>().actnorm({sizes, x.data(), bias.data(), log_scale.data(), z.data(), logdet.data()}, parallel);
    irf::ActNormBackwardOperands<T> op{sizes,         z.data(),      log_scale.data(), grad.data(),
                                       weight.data(), grad_x.data(), grad_bias.data(), grad_log_scale.data()};
    irf::kernels<T>().actnorm_backward(op, parallel);
    // z = x scale + ..., so <grad, x scale> = <grad_x, x>; and z is linear in the bias as in x.
    double by_bias = 0, by_x = 0;
    for (T number : grad_bias) by_bias += double(number);
    for (T number : grad_x) by_x += double(number);
    expect(near<T>(by_bias, by_x, double(all)), where, "the gradients of bias and of x have different sums");
    const Numbers<T> before = grad_bias;
    op.grad_x = nullptr;
    op.weight = nullptr;
    irf::kernels<T>().actnorm_backward(op, parallel);
    expect(before == grad_bias, where, "the gradient of the bias depends on what else is asked for");
    return std::vector<Numbers<T>>{z, logdet, grad_x, grad_bias, grad_log_scale};
  });
}

template <class T>
void check_rearrange(const std::string& name, int64_t batch, int64_t size, int64_t run) {
  const Numbers<T> x = random_numbers<T>(batch * size);
  std::vector<int64_t> index(size);
  for (int64_t i = 0; i < size; ++i) index[i] = (size / run - 1 - i / run) * run + i % run;  // runs, last first
  on_all_machines<T>(name, [&](const std::string& where, const irf::Parallel& parallel) {
    Numbers<T> z = unwritten<T>(batch * size), back = unwritten<T>(batch * size);
    irf::kernels<T>().rearrange({batch, size, x.data(), index.data(), false, z.data()}, parallel);
    irf::kernels<T>().rearrange({batch, size, z.data(), index.data(), true, back.data()}, parallel);
    bool ordered = true;
    for (int64_t i = 0; i < batch * size; ++i) ordered = ordered && z[i] == x[i / size * size + index[i % size]];
    expect(ordered, where, "the numbers are not in the order of the index");
    expect(back == x, where, "the transpose does not undo it");
    return std::vector<Numbers<T>>{z, back};
  });
}

template <class T>
void check_flow(const std::string& name) {
  const irf::ChannelSizes sizes[] = {{1, 1, 1}, {33, 3, 1}, {7, 35, 1}, {200, 400, 1},
                                     {1, 2, 2}, {5, 3, 15}, {3, 2, 77}, {40, 5, 400}};
  for (size_t i = 0; i < std::size(sizes); ++i) check_actnorm<T>(name + " ActNorm " + std::to_string(i), sizes[i]);
  check_rearrange<T>(name + " one number", 3, 1, 1);
  check_rearrange<T>(name + " numbers", 5, 21, 1);
  check_rearrange<T>(name + " runs", 5, 60, 20);
  check_rearrange<T>(name + " many", 200, 400, 2);
  const Numbers<T> values = random_numbers<T>(3 * 37);
  on_all_machines<T>(name + " sum", [&](const std::string&, const irf::Parallel& parallel) {
    Numbers<T> sum = unwritten<T>(37);
    irf::kernels<T>().sum_rows({3, 37, values.data(), sum.data()}, parallel);
    return std::vector<Numbers<T>>{sum};
  });
}

}  // namespace
