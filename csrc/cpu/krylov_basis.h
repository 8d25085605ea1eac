// Vectors of a Lanczos basis, one after the other: inner products with all of them, combinations of them.
#pragma once

#include "cpu/linear_map.h"
#include "iresnet_fast/lanczos.h"

namespace irf {
namespace IRF_ISA {
namespace {

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

template <class T>
void scale(T* a, int64_t size, T factor) {
  const Vector<T> f = broadcast(factor);
  int64_t i = 0;
  for (; i + kLanes<T> <= size; i += kLanes<T>) store(a + i, f * load(a + i));
  for (; i < size; ++i) a[i] *= factor;
}

// a /= |a|; returns whether a had a length to speak of.
template <class T>
bool make_unit(T* a, int64_t size) {
  const T length = root(dot(a, a, size));
  if (!(length > T(0))) return false;
  scale(a, size, T(1) / length);
  return true;
}

// A random vector about as long as `length`, a hash of key and position.
template <class T>
void random_vector(uint32_t key, int64_t size, T length, T* target) {
  const T share = length * root(T(3) / T(size));
  for (int64_t i = 0; i < size; ++i) target[i] = share * random_number<T>(key, static_cast<uint32_t>(i));
}

template <class T>
struct KrylovBasis {
  T* vectors;  // [kLargestBasis + 1][size]
  int64_t size;

  T* vector(int i) const { return vectors + i * size; }

  // coefficients[i] = <vector i, w>, i < count
  void project(int count, const T* w, T* coefficients) const {
    int j = 0;
    for (; j + 4 <= count; j += 4) {  // four at a time read w once
      const T *a = vector(j), *b = vector(j + 1), *c = vector(j + 2), *d = vector(j + 3);
      Vector<T> sum[4] = {};
      T tail[4] = {};
      int64_t i = 0;
      for (; i + kLanes<T> <= size; i += kLanes<T>) {
        const Vector<T> x = load(w + i);
        sum[0] = fma(load(a + i), x, sum[0]);
        sum[1] = fma(load(b + i), x, sum[1]);
        sum[2] = fma(load(c + i), x, sum[2]);
        sum[3] = fma(load(d + i), x, sum[3]);
      }
      for (; i < size; ++i) {
        tail[0] += a[i] * w[i];
        tail[1] += b[i] * w[i];
        tail[2] += c[i] * w[i];
        tail[3] += d[i] * w[i];
      }
      for (int n = 0; n < 4; ++n) coefficients[j + n] = sum_lanes<T>(sum[n]) + tail[n];
    }
    for (; j < count; ++j) coefficients[j] = dot(vector(j), w, size);
  }

  // w += sign * sum of coefficients[i] * vector i
  void add_combination(int count, const T* coefficients, T sign, T* w) const {
    int j = 0;
    for (; j + 4 <= count; j += 4) {
      const T *a = vector(j), *b = vector(j + 1), *c = vector(j + 2), *d = vector(j + 3);
      T factor[4];
      Vector<T> f[4];
      for (int n = 0; n < 4; ++n) f[n] = broadcast(factor[n] = sign * coefficients[j + n]);
      int64_t i = 0;
      for (; i + kLanes<T> <= size; i += kLanes<T>) {
        const Vector<T> two = fma(f[1], load(b + i), fma(f[0], load(a + i), load(w + i)));
        store(w + i, fma(f[3], load(d + i), fma(f[2], load(c + i), two)));
      }
      for (; i < size; ++i) w[i] += factor[0] * a[i] + factor[1] * b[i] + factor[2] * c[i] + factor[3] * d[i];
    }
    for (; j < count; ++j) add_multiple(sign * coefficients[j], vector(j), size, w);
  }

  void combine(int count, const T* coefficients, T* target) const {
    std::memset(target, 0, sizeof(T) * size);
    add_combination(count, coefficients, T(1), target);
  }

  // Makes w orthogonal to the first `count` vectors and returns its length; twice is enough (Kahan and Parlett).
  T orthogonalize(int count, T* w) const {
    T coefficients[kLargestBasis], before, length = root(dot(w, w, size));
    for (int round = 0; round < 2; ++round) {
      before = length;
      project(count, w, coefficients);
      add_combination(count, coefficients, T(-1), w);
      length = root(dot(w, w, size));
      if (length > T(0.7) * before) break;
    }
    return length;
  }
};

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
