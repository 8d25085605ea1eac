// The map of tr J = sum_p <D_1[:, p], map[:, p]> of two stages, from their weights on the CPU (docs/mathematics.md,
// 3a). The tap t of the first kernel, which takes pixel p + t to p, meets the tap -t of the last: with their products
// over channels S[k, t] = sum_c W_0[k, c, t] W_1[c, k, -t], map[k, p] is the sum of S[k, t] over t with p + t in the
// image.
#include <algorithm>
#include <type_traits>

#include "torch/traces.h"

namespace irf::binding {
namespace {

struct Sizes {
  int64_t hidden, channels, first, last, height, width;  // first, last: sides of the kernels

  Sizes(const BranchArguments& branch, const Tensor& map) {
    const Tensor &w0 = branch.weight(0), &w1 = branch.weight(1);
    hidden = w0.size(0), channels = w0.size(1);
    first = w0.dim() == 4 ? w0.size(2) : 1, last = w1.dim() == 4 ? w1.size(2) : 1;
    height = map.dim() == 3 ? map.size(1) : 1, width = map.dim() == 3 ? map.size(2) : 1;
  }
};

constexpr int64_t kTogether = 16;  // hidden channels, whose numbers lie side by side in W_1

// Calls body(k, count, i0, i1, y, x) for some hidden channels k, k + 1, ... at a time and every tap (y, x) of both
// kernels. W_0[k, 0] is at i0 there and W_1[0, k] at i1. The count is a constant where it is kTogether.
template <class Body>
void each_tap(const Sizes& sizes, const Body& body) {
  const int64_t reach = std::min(sizes.first, sizes.last) / 2, r0 = sizes.first / 2, r1 = sizes.last / 2;
  const int64_t products = kTogether * sizes.channels * (2 * reach + 1) * (2 * reach + 1);
  auto some = [&](int64_t begin, int64_t end) {
    for (int64_t k = begin * kTogether; k < std::min(end * kTogether, sizes.hidden); k += kTogether)
      for (int64_t y = -reach; y <= reach; ++y)
        for (int64_t x = -reach; x <= reach; ++x) {
          const int64_t i0 = (k * sizes.channels * sizes.first + y + r0) * sizes.first + x + r0;
          const int64_t i1 = (k * sizes.last - y + r1) * sizes.last - x + r1;
          if (k + kTogether <= sizes.hidden)
            body(k, std::integral_constant<int64_t, kTogether>(), i0, i1, y, x);
          else
            body(k, sizes.hidden - k, i0, i1, y, x);
        }
  };
  // A thread must have some microseconds of work, or starting it takes longer.
  constexpr int64_t kLeastProducts = 4096;
  torch::stable::parallel_for(0, (sizes.hidden + kTogether - 1) / kTogether, kLeastProducts / products + 1, some);
}

// How far it is in a weight to the next hidden channel, and to the next channel of the input.
struct Steps {
  int64_t hidden, channel;

  static Steps of_first(const Sizes& s) { return {s.channels * s.first * s.first, s.first * s.first}; }
  static Steps of_last(const Sizes& s) { return {s.last * s.last, s.hidden * s.last * s.last}; }
};

// Calls body(p) for every pixel from which a step by (y, x) stays in the image.
template <class Body>
void each_pixel(const Sizes& sizes, int64_t y, int64_t x, const Body& body) {
  for (int64_t row = std::max<int64_t>(0, -y); row < std::min(sizes.height, sizes.height - y); ++row)
    for (int64_t column = std::max<int64_t>(0, -x); column < std::min(sizes.width, sizes.width - x); ++column)
      body(row * sizes.width + column);
}

}  // namespace

void make_map(const BranchArguments& branch, Tensor& map) {
  const Sizes sizes(branch, map);
  const Steps step0 = Steps::of_first(sizes), step1 = Steps::of_last(sizes);
  const int64_t pixels = sizes.height * sizes.width;
  with_type(map, "a map", [&]<class T>(T) {
    const T *w0 = data<T>(branch.weight(0)), *w1 = data<T>(branch.weight(1));
    T* result = mutable_data<T>(map);
    std::fill(result, result + map.numel(), T(0));
    each_tap(sizes, [&](int64_t k, auto count, int64_t i0, int64_t i1, int64_t y, int64_t x) {
      double sum[kTogether] = {};
      for (int64_t c = 0; c < sizes.channels; ++c, i0 += step0.channel, i1 += step1.channel)
        for (int64_t n = 0; n < count; ++n) sum[n] += double(w0[i0 + n * step0.hidden]) * w1[i1 + n * step1.hidden];
      for (int64_t n = 0; n < count; ++n)
        each_pixel(sizes, y, x, [&](int64_t p) { result[(k + n) * pixels + p] += static_cast<T>(sum[n]); });
    });
  });
}

void add_map_gradient(const BranchArguments& branch, const Tensor& map, const void* gradient, void* of_first,
                      void* of_last) {
  const Sizes sizes(branch, map);
  const Steps step0 = Steps::of_first(sizes), step1 = Steps::of_last(sizes);
  const int64_t pixels = sizes.height * sizes.width;
  with_type(map, "a map", [&]<class T>(T) {
    const T *w0 = data<T>(branch.weight(0)), *w1 = data<T>(branch.weight(1));
    const T* of_map = static_cast<const T*>(gradient);
    T *IRF_RESTRICT g0 = static_cast<T*>(of_first), *IRF_RESTRICT g1 = static_cast<T*>(of_last);
    each_tap(sizes, [&](int64_t k, auto count, int64_t i0, int64_t i1, int64_t y, int64_t x) {
      T sum[kTogether];
      for (int64_t n = 0; n < count; ++n) {
        double total = 0;
        each_pixel(sizes, y, x, [&](int64_t p) { total += of_map[(k + n) * pixels + p]; });
        sum[n] = static_cast<T>(total);
      }
      for (int64_t c = 0; c < sizes.channels; ++c, i0 += step0.channel, i1 += step1.channel) {
        for (int64_t n = 0; n < count; ++n) g0[i0 + n * step0.hidden] += sum[n] * w1[i1 + n * step1.hidden];
        for (int64_t n = 0; n < count; ++n) g1[i1 + n * step1.hidden] += sum[n] * w0[i0 + n * step0.hidden];
      }
    });
  });
}

}  // namespace irf::binding
