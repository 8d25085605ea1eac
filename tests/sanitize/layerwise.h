// Both ways over a branch behind one set of names: tiles, and layer by layer with products in plain loops, whose
// results are exactly as large as they must be.
#pragma once

#include "checks.h"
#include "cpu/library.h"

namespace {

template <class T>
class PlainProducts {
 public:
  explicit PlainProducts(const irf::Branch<T>& branch, const irf::Traces<T>& traces = {})
      : branch_(branch), traces_(traces) {}

  irf::LibraryProducts<T> table() {
    return {this,
            [](void* self, int i, bool transpose, const T* events, int64_t samples) {
              return static_cast<PlainProducts*>(self)->multiply(i, transpose, events, samples);
            },
            [](void* self, int i, const T* events, const T* grad, int64_t samples, bool accumulate, T* result) {
              static_cast<PlainProducts*>(self)->weight_gradient(i, events, grad, samples, accumulate, result);
            }};
  }

 private:
  // A linear map as cpu/library.h counts them, as a stage.
  irf::Stage<T> map(int i) const {
    if (i < branch_.stages) return branch_.stage[i];
    const irf::Trace<T>& trace = traces_.trace[i - branch_.stages];
    return {.activation = irf::Activation::kIdentity,
            .in_channels = branch_.stage[trace.right].in_channels,
            .out_channels = branch_.stage[trace.left].in_channels,
            .kernel = trace.kernel,
            .weight = trace.map,
            .bias = nullptr,
            .beta = nullptr};
  }

  // Calls body(place of an input, place of an output, place of a weight) for every multiply-add.
  template <class Body>
  void each(int i, int64_t samples, const Body& body) const {
    const irf::Stage<T> stage = map(i);
    const int64_t in = stage.in_channels, out = stage.out_channels, side = stage.kernel, pixels = branch_.pixels();
    const int64_t height = branch_.dense() ? 1 : branch_.height, width = branch_.dense() ? 1 : branch_.width;
    for (int64_t s = 0; s < samples; ++s)
      for (int64_t o = 0; o < out; ++o)
        for (int64_t c = 0; c < in; ++c)
          for (int64_t tap = 0; tap < side * side; ++tap)
            for (int64_t p = 0; p < pixels; ++p) {
              const int64_t y = p / width + tap / side - side / 2, x = p % width + tap % side - side / 2;
              if (y < 0 || y >= height || x < 0 || x >= width) continue;
              body((s * in + c) * pixels + y * width + x, (s * out + o) * pixels + p, (o * in + c) * side * side + tap);
            }
  }

  const T* multiply(int i, bool transpose, const T* events, int64_t samples) {
    const irf::Stage<T> stage = map(i);
    const int64_t channels = transpose ? stage.in_channels : stage.out_channels;
    result_ = Numbers<T>(samples * channels * branch_.pixels(), T(0));
    each(i, samples, [&](int64_t input, int64_t output, int64_t weight) {
      if (transpose)
        result_[input] += stage.weight[weight] * events[output];
      else
        result_[output] += stage.weight[weight] * events[input];
    });
    return result_.data();
  }

  void weight_gradient(int i, const T* events, const T* grad, int64_t samples, bool accumulate, T* result) {
    const irf::Stage<T> stage = map(i);
    const int64_t size = int64_t(stage.in_channels) * stage.out_channels * stage.kernel * stage.kernel;
    if (!accumulate) std::fill(result, result + size, T(0));
    each(i, samples,
         [&](int64_t input, int64_t output, int64_t weight) { result[weight] += events[input] * grad[output]; });
  }

  const irf::Branch<T>& branch_;
  const irf::Traces<T> traces_;
  Numbers<T> result_;
};

template <class T>
struct Ways {
  const irf::Kernels<T>& table;
  bool layers;

  using B = irf::Branch<T>;
  using P = irf::Parallel;
  void branch(const B& b, const irf::BranchOperands<T>& o, const P& p) const {
    layers ? table.layerwise_branch(b, o, p, PlainProducts<T>(b).table()) : table.branch(b, o, p);
  }
  void branch_backward(const B& b, const irf::BranchBackwardOperands<T>& o, const P& p) const {
    layers ? table.layerwise_branch_backward(b, o, p, PlainProducts<T>(b, o.traces).table())
           : table.branch_backward(b, o, p);
  }
  int64_t kept_size(const B& b, const P& p) const {
    return layers ? table.layerwise_kept_size(b) : table.kept_size(b, p);
  }
  void residual_logdet(const B& b, const irf::ResidualLogdetOperands<T>& o, const P& p) const {
    layers ? table.layerwise_residual_logdet(b, o, p, PlainProducts<T>(b, o.series.traces).table())
           : table.residual_logdet(b, o, p);
  }
  void jacobian_powers(const B& b, const irf::JacobianPowersOperands<T>& o, const P& p) const {
    layers ? table.layerwise_jacobian_powers(b, o, p, PlainProducts<T>(b).table()) : table.jacobian_powers(b, o, p);
  }
  void residual_inverse(const B& b, const irf::ResidualInverseOperands<T>& o, const P& p) const {
    layers ? table.layerwise_residual_inverse(b, o, p, PlainProducts<T>(b).table()) : table.residual_inverse(b, o, p);
  }
  void jacobian(const B& b, const irf::JacobianOperands<T>& o, const P& p) const { table.jacobian(b, o, p); }
  int64_t exact_kept_size(const B& b, const P& p) const { return table.exact_kept_size(b, p); }
  void residual_logdet_exact(const B& b, const irf::ResidualLogdetExactOperands<T>& o, const P& p) const {
    table.residual_logdet_exact(b, o, p);
  }
  void residual_logdet_exact_backward(const B& b, const irf::ResidualLogdetExactBackwardOperands<T>& o,
                                      const P& p) const {
    table.residual_logdet_exact_backward(b, o, p);
  }
};

}  // namespace
