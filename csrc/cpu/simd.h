// One SIMD vector per instruction set, written with the compiler's vector extensions: kVectorBytes is the only thing
// that differs between the copies of the kernels. Included once per kernels_<isa>.cpp; everything has internal linkage,
// so code of one instruction set can never be merged with that of another.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>

#include "iresnet_fast/macros.h"

#if defined(__AVX512F__) || defined(__AVX2__)
// GCC 12's header reads a variable that it leaves uninitialised on purpose (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace irf {
namespace IRF_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kVectorRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kVectorRegisters = 16;
#else
constexpr int kVectorBytes = 16;  // what every x86-64 and AArch64 has; elsewhere the compiler lowers it to scalars
constexpr int kVectorRegisters = 16;
#endif

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  typedef T unaligned __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;

template <class T>
IRF_ALWAYS_INLINE Vector<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(p);
}

template <class T>
IRF_ALWAYS_INLINE void store(T* p, Vector<T> v) {
  *reinterpret_cast<typename VectorOf<T>::unaligned*>(p) = v;
}

template <class T>
IRF_ALWAYS_INLINE Vector<T> broadcast(T x) {
  return x - Vector<T>{};  // `x - 0` keeps -0 and folds to one broadcast
}

// One bit per lane.
using LaneMask = uint16_t;
#if defined(__AVX512F__)
constexpr bool kLaneMasks = true;
IRF_ALWAYS_INLINE Vector<float> load_lanes(const float* p, LaneMask mask) {
  return (Vector<float>)_mm512_maskz_loadu_ps(mask, p);
}
IRF_ALWAYS_INLINE Vector<double> load_lanes(const double* p, LaneMask mask) {
  return (Vector<double>)_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p);
}
#else
constexpr bool kLaneMasks = false;  // loads that leave lanes zero do not come for free
template <class T>
IRF_ALWAYS_INLINE Vector<T> load_lanes(const T* p, LaneMask) {
  return load(p);
}
#endif

template <class V>
IRF_ALWAYS_INLINE V fma(V a, V b, V c) {
  return a * b + c;
}
#if defined(__AVX512F__)
IRF_ALWAYS_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return (Vector<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
IRF_ALWAYS_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return (Vector<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
#elif defined(__FMA__)
IRF_ALWAYS_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return (Vector<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
IRF_ALWAYS_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return (Vector<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
#endif

// Sum of all lanes, by halves: the same order on every call.
template <class T>
IRF_ALWAYS_INLINE T sum_lanes(Vector<T> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_reduce_add_ps((__m512)v);
  if constexpr (sizeof(T) == 8) return _mm512_reduce_add_pd((__m512d)v);
#endif
  T lane[kLanes<T>];
  std::memcpy(lane, &v, sizeof v);
  for (int half = kLanes<T> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
}

template <class I>
constexpr I min_of(I a, I b) {
  return b < a ? b : a;
}
template <class I>
constexpr I max_of(I a, I b) {
  return a < b ? b : a;
}
template <class I>
constexpr I divide_up(I a, I b) {
  return (a + b - 1) / b;
}
template <class I>
constexpr I round_up(I a, I b) {
  return divide_up(a, b) * b;
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
