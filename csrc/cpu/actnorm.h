// ActNorm: a scale and a shift per channel, their log-determinant, and their gradients. Sums are added up in pieces of
// so many samples, whatever the number of threads, and the pieces in float64.
#pragma once

#include "cpu/parallel.h"
#include "cpu/workspace.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
T* exponentials(const T* values, int count, Workspace& workspace) {
  T* result = workspace.take<T>(count);
  for (int c = 0; c < count; ++c) result[c] = static_cast<T>(__builtin_exp(static_cast<double>(values[c])));
  return result;
}

template <class T>
void actnorm(const ActNormOperands<T>& op, const Parallel& parallel) {
  Workspace workspace;
  const auto [batch, channels, pixels] = op.sizes;
  const T* scale = exponentials(op.log_scale, channels, workspace);
  double total = 0;
  for (int c = 0; c < channels; ++c) total += op.log_scale[c];
  for (int64_t b = 0; b < batch; ++b) op.logdet[b] = static_cast<T>(total * static_cast<double>(pixels));
  for_each_share(parallel, batch, op.sizes.event_size(), [&, channels = channels, pixels = pixels](int64_t b) {
    const T* x = op.x + b * channels * pixels;
    T* z = op.z + b * channels * pixels;
    if (pixels == 1)  // contiguous: the compiler vectorises it
      for (int c = 0; c < channels; ++c) z[c] = (x[c] + op.bias[c]) * scale[c];
    else
      for (int c = 0; c < channels; ++c)
        for (int64_t p = c * pixels; p < (c + 1) * pixels; ++p) z[p] = (x[p] + op.bias[c]) * scale[c];
  });
}

// The sums of grad and of grad * z of one channel, a vector or a number of them at a time.
template <class V>
struct ChannelSums {
  V grad{}, product{};

  IRF_ALWAYS_INLINE void add(V upstream, V z) {
    grad += upstream;
    product = fma(upstream, z, product);
  }
};

// The sums of `samples` samples of vectors [C], and grad_x.
template <class T>
void add_up_vectors(int64_t samples, int channels, const T* grad, const T* z, const T* scale, T* grad_x, T* sums) {
  int c = 0;
  for (; c + kLanes<T> <= channels; c += kLanes<T>) {
    ChannelSums<Vector<T>> sum;
    const Vector<T> factor = load(scale + c);
    for (int64_t at = c; at < samples * channels; at += channels) {
      const Vector<T> upstream = load(grad + at);
      sum.add(upstream, load(z + at));
      if (grad_x) store(grad_x + at, upstream * factor);
    }
    store(sums + c, sum.grad);
    store(sums + channels + c, sum.product);
  }
  for (; c < channels; ++c) {
    ChannelSums<T> sum;
    for (int64_t at = c; at < samples * channels; at += channels) {
      sum.add(grad[at], z[at]);
      if (grad_x) grad_x[at] = grad[at] * scale[c];
    }
    sums[c] = sum.grad;
    sums[channels + c] = sum.product;
  }
}

// The same of images [C, pixels].
template <class T>
void add_up_images(int64_t samples, int channels, int64_t pixels, const T* grad, const T* z, const T* scale, T* grad_x,
                   T* sums) {
  std::memset(sums, 0, sizeof(T) * 2 * channels);
  for (int64_t at = 0; at < samples * channels * pixels; at += pixels) {
    const int c = static_cast<int>(at / pixels % channels);
    ChannelSums<Vector<T>> whole;
    ChannelSums<T> rest;
    const Vector<T> factor = broadcast(scale[c]);
    int64_t p = at;
    for (; p + kLanes<T> <= at + pixels; p += kLanes<T>) {
      const Vector<T> upstream = load(grad + p);
      whole.add(upstream, load(z + p));
      if (grad_x) store(grad_x + p, upstream * factor);
    }
    for (; p < at + pixels; ++p) {
      rest.add(grad[p], z[p]);
      if (grad_x) grad_x[p] = grad[p] * scale[c];
    }
    sums[c] += sum_lanes<T>(whole.grad) + rest.grad;
    sums[channels + c] += sum_lanes<T>(whole.product) + rest.product;
  }
}

template <class T>
void actnorm_backward(const ActNormBackwardOperands<T>& op, const Parallel& parallel) {
  constexpr int64_t kNumbersPerPiece = 16;  // of a channel, at least: then the sums are small beside the numbers
  Workspace workspace;
  const auto [batch, channels, pixels] = op.sizes;
  const int64_t event = op.sizes.event_size(), piece = max_of(kNumbersPerPiece / pixels, int64_t(1));
  const int64_t pieces = divide_up(batch, piece);
  const T* scale = exponentials(op.log_scale, channels, workspace);
  T* sums = workspace.take<T>(pieces * 2 * channels);
  for_each_share(parallel, pieces, piece * event, [&, batch = batch, channels = channels, pixels = pixels](int64_t i) {
    const int64_t samples = min_of(piece, batch - i * piece), at = i * piece * event;
    T* grad_x = op.grad_x ? op.grad_x + at : nullptr;
    T* own = sums + i * 2 * channels;
    if (pixels == 1)
      add_up_vectors(samples, channels, op.grad + at, op.z + at, scale, grad_x, own);
    else
      add_up_images(samples, channels, pixels, op.grad + at, op.z + at, scale, grad_x, own);
  });
  double weight = 0;
  for (int64_t b = 0; op.weight && b < batch; ++b) weight += op.weight[b];
  for (int c = 0; c < channels; ++c) {
    double grad = 0, product = 0;
    for (int64_t i = 0; i < pieces; ++i) {
      grad += sums[i * 2 * channels + c];
      product += sums[(i * 2 + 1) * channels + c];
    }
    op.grad_bias[c] = static_cast<T>(grad * scale[c]);
    op.grad_log_scale[c] = static_cast<T>(product + weight * static_cast<double>(pixels));
  }
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
