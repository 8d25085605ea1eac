// The decisions of a layered power series: small kernels before its first term, after its terms, and instead of the
// last one where J v is known.
#pragma once

#include "cuda/layered/item_sums.cuh"

namespace irf::cuda {
namespace {

// A series and the state of its items.
template <class T>
struct SeriesState : Series<T> {
  int64_t items, samples;
  T* limit;           // [items]: stop at |w_k| tail_k <= limit
  int* last;          // [items] the term an item ends with at the latest; 0: it has stopped before
  unsigned* stopped;  // how many items have; or null

  __device__ __forceinline__ const T* q(int64_t item) const { return this->coefficients_of(item % samples); }
  // The factor of <w_k, v>: none where the trace takes its place.
  __device__ __forceinline__ T factor(int64_t item, int k) const {
    if (k <= this->traces.count) return T(0);
    const T own = q(item)[k - 1];
    return (k % 2 ? own : -own) / static_cast<T>(k);
  }
};

// Before the first term: |v| sets the limit, and is the norm of an empty series.
template <class T>
__global__ void __launch_bounds__(kItemThreads)
    start_series_kernel(const SeriesState<T> series, const T* v, int64_t size) {
  const int64_t item = int64_t(blockIdx.x) * (kItemThreads / kWarp) + threadIdx.x / kWarp;
  if (item >= series.items) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  T square = T(0);
  for (int64_t i = lane * kVector<T>; i < size; i += kWarp * kVector<T>) {
    const Vector<T> part = load16_readonly(v + item * size + i);
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) square += part[e] * part[e];
  }
  const T length = sqrt(sum_lanes(square));
  if (lane != 0) return;
  if (series.tail) series.limit[item] = series.relative ? series.tolerance * length : series.tolerance / length;
  series.last[item] = last_term(series.q(item), series.terms);
  if (series.terms == 0) {
    series.value[item] = T(0);
    series.norms[item] = length;
    series.terms_used[item] = 0;
  }
}

// After terms `first` to `end`, whose sums lie one behind the other: adds up the items' sums and decides which of them
// go on. Where a series may stop, these are the same term.
template <class T>
__global__ void __launch_bounds__(kItemThreads)
    finish_terms_kernel(const SeriesState<T> series, const ItemSums<T, 2> sums, int first, int end) {
  for (int k = first; k <= end; ++k) {
    int64_t item;
    T values[2];
    // A series that may stop writes the numbers of the last terms here, while other lanes would read them.
    const int* active = series.tail ? nullptr : series.last;
    if (!sums.number(k - first).gather(item, values, active, k) || series.last[item] < k) continue;
    const T norm = sqrt(values[1]);
    series.value[item] = (k == 1 ? T(0) : series.value[item]) + series.factor(item, k) * values[0];
    series.norms[item] = norm;
    series.terms_used[item] = k;
    const bool stops = series.tail && norm * series.tail[k - 1] <= series.limit[item];
    if (series.stopped && (stops || k == series.last[item])) atomicAdd(series.stopped, 1u);
    if (stops) series.last[item] = 0;
  }
}

// The last term of one probe, from w_{n-1} and J v.
template <class T>
__global__ void __launch_bounds__(kItemThreads)
    shortcut_kernel(const SeriesState<T> series, const T* w, const T* tangent, int64_t size) {
  const int64_t item = int64_t(blockIdx.x) * (kItemThreads / kWarp) + threadIdx.x / kWarp;
  if (item >= series.items || series.last[item] < series.terms) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, n = series.terms;
  T dot = T(0), square = T(0);
  for (int64_t i = item * size + lane * kVector<T>; i < (item + 1) * size; i += kWarp * kVector<T>) {
    const Vector<T> left = load16_readonly(w + i), right = load16_readonly(tangent + i);
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) {
      dot += left[e] * right[e];
      square += left[e] * left[e];
    }
  }
  dot = sum_lanes(dot);
  square = sum_lanes(square);
  if (lane != 0) return;
  series.value[item] = (n == 1 ? T(0) : series.value[item]) + series.factor(item, n) * dot;
  series.norms[item] = sqrt(square);
  series.terms_used[item] = n;
}

}  // namespace
}  // namespace irf::cuda
