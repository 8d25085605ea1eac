// The Lanczos iteration of one layer by one block. Element i of every vector belongs to thread i % kNormThreads: what a
// thread reads of its own elements needs no barrier. Helpers are functions of their own, else their addresses fill the
// registers that the tiles of products need.
#pragma once

#include "cuda/device/block_sum.cuh"
#include "cuda/norms/convolution_map.cuh"
#include "cuda/norms/largest_entry.cuh"
#include "cuda/norms/matrix_map.cuh"
#include "iresnet_fast/lanczos.h"

namespace irf::cuda {
namespace {

struct RootMath {
  template <class T>
  static __device__ __forceinline__ T sqrt(T x) {
    return ::sqrt(x);
  }
};

// What a layer has beside its task.
template <class T>
struct LanczosRow {
  const T* companion_hint;
  T* companion;
  T* basis;  // vectors, one after the other
};

template <class T>
struct LanczosNorm {
  T sigma, residual;
  int steps;
};

// Calls body(i) for the thread's elements of `size`.
template <class Body>
__device__ __forceinline__ void each(int size, const Body& body) {
  for (int i = threadIdx.x; i < size; i += kNormThreads) body(i);
}

// Operands and state, all in shared memory.
template <class T>
struct LanczosBlock {
  NormTask<T> task;
  LanczosRow<T> row;
  const int64_t* seed;
  T* partial;  // for sums over the block
  T alpha[kLargestBasis], beta[kLargestBasis], leading[kLargestBasis], coordinates[kLargestBasis];
  T inverse[kLargestBasis];
  T value;         // Ritz value
  T factor;        // of the weight
  T square;        // |B q|^2 of the last product
  T largest;       // of alpha
  int used;        // vectors of the basis that have been multiplied; vector(used) is the next
  int steps;       // of all bases
  bool probing;    // vector(used) is the old vector
  bool finishing;  // vector(used) is the result

  template <class Map>
  __device__ __forceinline__ LanczosNorm<T> run(Map map, int most, T tolerance) {
    const T entry = largest_entry(task.layer, partial);
    if (!(entry > T(0) && entry <= Lanczos<T>::kLargest)) return without_norm(entry * T(0), 0);
    map.prepare();
    if (threadIdx.x == 0) {
      factor = weight_factor(entry);
      used = steps = 0;
      finishing = false;
    }
    const bool hint = take_hint();
    if (threadIdx.x == 0) probing = hint;
    if (!hint) start(Lanczos<T>::kMostShare);
    // One product after the other at one place of the code: for the old vector, for the steps and for the result.
    for (;;) {
      __syncthreads();
      gram(map);
      if (finishing) return result(map);
      if (probing) {
        subtract_neighbours(product(map));
        start(start_share(square, length(vector(1), size())));
        if (threadIdx.x == 0) probing = false;
        continue;
      }
      extend(map);
      const int k = used;
      const bool invariant = k == size() || !(beta[k - 1] > T(16) * Lanczos<T>::kEps * largest);
      const bool full = steps == most || k == kLargestBasis;
      if (!invariant && !full && !look_after(k, tolerance)) {
        scale(vector(k), size(), T(1) / beta[k - 1]);
        continue;
      }
      if (threadIdx.x == 0) value = matrix().lead(leading);
      __syncthreads();
      const bool settled = invariant || beta[k - 1] * leading[k - 1] <= tolerance * value;
      if (!settled && !full) {
        scale(vector(k), size(), T(1) / beta[k - 1]);
        continue;
      }
      if (!(value > T(0))) return without_norm(T(0), steps);
      begin_anew(settled || steps == most);
    }
  }

 private:
  __device__ __forceinline__ bool left() { return task.u_size < task.v_size; }
  __device__ __forceinline__ int size() { return left() ? task.u_size : task.v_size; }
  __device__ __forceinline__ int far_size() { return left() ? task.v_size : task.u_size; }
  __device__ __forceinline__ T* vector(int k) { return row.basis + int64_t(k) * size(); }
  __device__ __forceinline__ Tridiagonal<T, RootMath> matrix() { return {used, alpha, beta, inverse}; }

  __device__ IRF_NOINLINE T length(const T* a, int count) {
    T sum = T(0);
    each(count, [&](int i) { sum += a[i] * a[i]; });
    return RootMath::sqrt(block_sum(sum, partial));
  }

  __device__ IRF_NOINLINE void scale(T* a, int count, T by) {
    each(count, [&](int i) { a[i] *= by; });
  }

  // 1 / |a|, or 0 for a vector whose length is not a positive finite number.
  __device__ __forceinline__ T inverse_length(const T* a, int count) {
    const T norm = length(a, count);
    return norm > T(0) ? T(1) / norm : T(0);
  }

  __device__ IRF_NOINLINE void random_unit(T* target, int count) {
    const uint32_t key = random_key(*seed);
    each(count, [&](int i) { target[i] = random_number<T>(key, i); });
    scale(target, count, T(1) / length(target, count));
  }

  // vector(0) = the old vector, of unit length. Returns whether it has a direction.
  __device__ IRF_NOINLINE bool take_hint() {
    const T* hint = left() ? task.layer.u : task.layer.v;
    const T by = inverse_length(hint, size());
    T* q = vector(0);
    each(size(), [&](int i) { q[i] = by * hint[i]; });
    return by > T(0);
  }

  // vector(0) = the direction of hint, companion and random vector, the last two by this share.
  __device__ IRF_NOINLINE void start(T share) {
    const T *hint = left() ? task.layer.u : task.layer.v, *other = row.companion_hint;
    const T hint_share = inverse_length(hint, size());
    const T other_share = share * inverse_length(other, size());
    const T random_share = share * RootMath::sqrt(T(3) / T(size()));
    const uint32_t key = random_key(*seed);
    T* q = vector(0);
    each(size(), [&](int i) {
      T entry = random_share * random_number<T>(key, i);
      if (hint_share > T(0)) entry += hint_share * hint[i];
      if (other_share > T(0)) entry += other_share * other[i];
      q[i] = entry;
    });
    const T norm = length(q, size());
    if (norm > Lanczos<T>::kCancelled)
      scale(q, size(), T(1) / norm);
    else
      random_unit(q, size());
  }

  template <class Map>
  __device__ __forceinline__ T* far(const Map& map) {
    return left() ? map.v() : map.u();
  }
  // Where `gram` leaves B^T B q over factor.
  template <class Map>
  __device__ __forceinline__ const T* product(const Map& map) {
    return left() ? map.u() : map.image();
  }

  // far = B q, square = |far|^2 and product = B^T far / factor, with q = vector(used) and B = factor A, or its
  // transpose on the left side.
  template <class Map>
  __device__ __forceinline__ void gram(Map& map) {
    T* near = left() ? map.u() : map.v();
    const T* q = vector(used);
    each(size(), [&](int i) { near[i] = factor * q[i]; });
#pragma unroll 1
    for (int turn = 0; turn < 2; ++turn) {
      __syncthreads();
      map.apply(left() == (turn == 0), !left());
      __syncthreads();
      if (turn == 0) take_image(left() ? map.image() : map.u(), far(map));
    }
  }

  __device__ IRF_NOINLINE void take_image(const T* image, T* target) {
    T sum = T(0);
    each(far_size(), [&](int i) {
      const T entry = image[i];
      if (image != target) target[i] = entry;
      sum += entry * entry;
    });
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) square = sum;
  }

  // Makes vector(used + 1), not yet of unit length, from what the product has beyond the basis, and counts the step.
  template <class Map>
  __device__ __forceinline__ void extend(const Map& map) {
    subtract_neighbours(product(map));
    orthogonalize();
    if (threadIdx.x == 0) {
      alpha[used] = square;
      largest = used > 0 && largest > square ? largest : square;
      ++used, ++steps;
    }
    __syncthreads();
  }

  __device__ IRF_NOINLINE void subtract_neighbours(const T* from) {
    const int k = used;
    const T *q = vector(k), before = k > 0 ? beta[k - 1] : T(0);
    T* w = vector(k + 1);
    each(size(), [&](int i) { w[i] = factor * from[i] - square * q[i] - (k > 0 ? before * vector(k - 1)[i] : T(0)); });
  }

  // Makes vector(used + 1) orthogonal to those before it and puts its length into beta[used]; twice is enough (Kahan
  // and Parlett). A warp takes whole inner products.
  __device__ IRF_NOINLINE void orthogonalize() {
    const int count = used + 1;
    T* w = vector(count);
    T norm = length(w, size());
    for (int round = 0; round < 2; ++round) {
      const T before = norm;
      for (int j = threadIdx.x / kWarp; j < count; j += kNormWarps) {
        T sum = T(0);
        for (int i = threadIdx.x % kWarp; i < size(); i += kWarp) sum += vector(j)[i] * w[i];
        sum = sum_lanes(sum);
        if (threadIdx.x % kWarp == 0) coordinates[j] = sum;
      }
      __syncthreads();
      add_combination(coordinates, count, T(-1), w);
      norm = length(w, size());
      if (norm > T(0.7) * before) break;
    }
    if (threadIdx.x == 0) beta[used] = norm;
  }

  // target += sign * the sum of weights[j] vector(j), j < count
  __device__ IRF_NOINLINE void add_combination(const T* weights, int count, T sign, T* target) {
    each(size(), [&](int i) {
      T entry = T(0);
      for (int j = 0; j < count; ++j) entry += weights[j] * vector(j)[i];
      target[i] += sign * entry;
    });
  }

  // Puts the Ritz vector where the next product takes it: at the end, with the companion made, or where a basis begins.
  __device__ IRF_NOINLINE void begin_anew(bool finish) {
    const int k = used;
    if (finish) {
      if (threadIdx.x == 0) matrix().accompany(value, leading, coordinates);
      __syncthreads();
      each(size(), [&](int i) { row.companion[i] = T(0); });
      add_combination(coordinates, k, T(1), row.companion);
    }
    T* y = vector(k);
    each(size(), [&](int i) { y[i] = T(0); });
    add_combination(leading, k, T(1), y);
    scale(y, size(), T(1) / length(y, size()));
    if (!finish) each(size(), [&](int i) { vector(0)[i] = y[i]; });
    if (threadIdx.x == 0) {
      finishing = finish;
      if (!finish) used = 0;
    }
  }

  // After `gram` of the Ritz vector.
  template <class Map>
  __device__ __forceinline__ LanczosNorm<T> result(const Map& map) {
    return result_of(product(map), far(map));
  }
  __device__ IRF_NOINLINE LanczosNorm<T> result_of(const T* from, const T* image) {
    const T sigma = RootMath::sqrt(square), *y = vector(used);
    T *near_result = left() ? task.u : task.v, *far_result = left() ? task.v : task.u, sum = T(0);
    each(size(), [&](int i) {
      const T rest = factor * from[i] / sigma - sigma * y[i];
      sum += rest * rest;
      near_result[i] = y[i];
    });
    each(far_size(), [&](int i) { far_result[i] = image[i] / sigma; });
    return {sigma / factor, RootMath::sqrt(block_sum(sum, partial)) / factor, steps};
  }

  // A weight that is zero or not finite keeps the directions of its hints.
  __device__ IRF_NOINLINE LanczosNorm<T> without_norm(T sigma, int count) {
    keep(task.layer.u, task.u_size, task.u);
    keep(task.layer.v, task.v_size, task.v);
    each(size(), [&](int i) { row.companion[i] = T(0); });
    return {sigma, sigma, count};
  }
  __device__ __forceinline__ void keep(const T* hint, int count, T* target) {
    const T by = inverse_length(hint, count);
    if (by > T(0))
      each(count, [&](int i) { target[i] = hint[i] * by; });
    else
      random_unit(target, count);
  }
};

}  // namespace
}  // namespace irf::cuda
