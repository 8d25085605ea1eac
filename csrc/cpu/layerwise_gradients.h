// The gradients of what a stage has besides its weight, layer by layer: sums over events, or a sample's own.
#pragma once

#include "cpu/layerwise_rows.h"

namespace irf {
namespace IRF_ISA {
namespace {

constexpr int64_t kSlopeBlock = 4096;

// What a slab adds to the gradient of beta: source [1 + m][n] is A^T [s, r], `a` [1 + m][n] holds a and the tangents,
// of_d [n], or null, is what arrives at D itself.
// Sums of blocks of fixed size, added in order: the same for any number of threads.
template <class T>
T slope_gradient_of_rows(const Stage<T>& stage, const Parallel& parallel, const EventSizes& sizes, int m,
                         const RowOperand<T>& factor, const T* source, const T* a, const T* of_d, T* block_sums) {
  const int64_t n = sizes.numbers();
  const Parameters<Vector<T>> p{broadcast(slope_of(stage)), broadcast(stage.constant)};
  const int64_t blocks = divide_up(n, kSlopeBlock);
  each_share(parallel, blocks, n * (1 + m), 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      Vector<T> sum{};
      each_vector<T>(block * kSlopeBlock, min_of(n, (block + 1) * kSlopeBlock), [&](int64_t k, int lanes) {
        auto by_slope = slope_gradient<VectorMath<T>>(stage.activation, load_first(a + k, lanes), p);
        if (factor.numbers) {
          const Vector<T> f = lane_factors(factor, sizes, k, lanes);
          by_slope = {f * by_slope.h, f * by_slope.d};
        }
        sum += load_first(source + k, lanes) * by_slope.h;
        for (int j = 1; j <= m; ++j)
          sum += load_first(source + j * n + k, lanes) * load_first(a + j * n + k, lanes) * by_slope.d;
        if (of_d) sum += load_first(of_d + k, lanes) * by_slope.d;
      });
      block_sums[block] = sum_lanes<T>(sum);
    }
  });
  T total{};
  for (int64_t block = 0; block < blocks; ++block) total += block_sums[block];
  return total * slope_derivative(stage);
}

// sums[c] += the sum of source[.][c][.], block by block, so that long sums round like short ones.
template <class T>
void add_channel_sums(const Parallel& parallel, const EventSizes& sizes, const T* source, T* sums) {
  constexpr int64_t kBlock = 64;
  const int64_t channels = sizes.channels, pixels = sizes.pixels;
  each_share(parallel, channels, sizes.numbers(), pixels == 1 ? kLanes<T> : 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; pixels > 1 && c < end; ++c)
      for (int64_t s = 0; s < sizes.samples; ++s) {
        Vector<T> sum{};
        const T* plane = source + (s * channels + c) * pixels;
        each_vector<T>(0, pixels, [&](int64_t k, int lanes) { sum += load_first(plane + k, lanes); });
        sums[c] += sum_lanes<T>(sum);
      }
    for (int64_t first = 0; pixels == 1 && first < sizes.samples; first += kBlock)
      each_vector<T>(begin, end, [&](int64_t c, int lanes) {
        Vector<T> sum{};
        for (int64_t s = first; s < min_of(sizes.samples, first + kBlock); ++s)
          sum += load_first(source + s * channels + c, lanes);
        store_first(sums + c, load_first(sums + c, lanes) + sum, lanes);
      });
  });
}

// target[plane] = the sum over the pixels of every channel of every sample; body(offset, lanes) gives the numbers.
template <class T, class Body>
void sum_planes(const Parallel& parallel, const EventSizes& sizes, int copies, const Body& body, T* target) {
  const int64_t planes = sizes.samples * sizes.channels;
  each_share(parallel, planes, sizes.numbers() * copies, 1, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      Vector<T> sum{};
      each_vector<T>(plane * sizes.pixels, (plane + 1) * sizes.pixels,
                     [&](int64_t k, int lanes) { sum += body(k, lanes); });
      target[plane] = sum_lanes<T>(sum);
    }
  });
}

// The gradient of a per-sample bias from the cotangents behind it.
template <class T>
void set_bias_gradient(const Parallel& parallel, const EventSizes& sizes, Spread spread, const T* source, T* target) {
  if (spread == Spread::kPixel || sizes.pixels == 1)
    std::memcpy(target, source, sizeof(T) * sizes.numbers());
  else
    sum_planes(parallel, sizes, 1, [source](int64_t k, int lanes) { return load_first(source + k, lanes); }, target);
}

// The gradient of a factor: phi S + phi' (sum_j t_j R_j + of_d). source [1 + m][n] is A^T [s, r], `a` [1 + m][n] holds
// a and the tangents; of_d [n] is what arrives at D itself, or null.
template <class T, class Act>
void set_factor_gradient_as(const Parallel& parallel, const EventSizes& sizes, int m, const Parameters<T>& p,
                            Spread spread, const T* source, const T* a, const T* of_d, T* target) {
  const int64_t n = sizes.numbers();
  auto gradient = [&](int64_t at, int lanes) {
    const Jet<Vector<T>> jet =
        Act::template jet<VectorMath<T>>(load_first(a + at, lanes), lane_parameters<Act>(p, sizes, at));
    Vector<T> sum = jet.h * load_first(source + at, lanes);
    for (int j = 1; j <= m; ++j)
      sum = fma(jet.d * load_first(a + j * n + at, lanes), load_first(source + j * n + at, lanes), sum);
    if (of_d) sum = fma(jet.d, load_first(of_d + at, lanes), sum);
    return sum;
  };
  if (spread == Spread::kPixel || sizes.pixels == 1)
    each_biased_vector<T>(parallel, sizes, 1 + m, {}, [&](int64_t at, int lanes, Vector<T>) {
      store_first(target + at, gradient(at, lanes), lanes);
    });
  else
    sum_planes(parallel, sizes, 1 + m, gradient, target);
}

template <class T>
void set_factor_gradient(Activation activation, const Parallel& parallel, const EventSizes& sizes, int m,
                         const Parameters<T>& p, Spread spread, const T* source, const T* a, const T* of_d, T* target) {
  switch (activation) {
#define IRF_CASE(name, Struct) \
  case Activation::k##Struct:  \
    return set_factor_gradient_as<T, Struct>(parallel, sizes, m, p, spread, source, a, of_d, target);
    IRF_FOR_EACH_ACTIVATION(IRF_CASE)
#undef IRF_CASE
    case Activation::kCount:
      break;
  }
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
