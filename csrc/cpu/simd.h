// One SIMD vector per instruction set, written with the compiler's vector extensions: kVectorBytes is the only thing
// that differs between the copies of the kernels. Included once per kernels_<isa>.cpp; everything has internal linkage,
// so code of one instruction set can never be merged with that of another.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>

#include "iresnet_fast/macros.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#pragma GCC diagnostic push
#if !defined(__clang__)  // GCC 12's header reads a variable that it leaves uninitialised on purpose (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(IRF_NEON)
#include <arm_neon.h>
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
#elif defined(IRF_NEON)
constexpr int kVectorBytes = 16;
constexpr int kVectorRegisters = 32;
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
#elif defined(IRF_NEON)
IRF_ALWAYS_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return (Vector<float>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
IRF_ALWAYS_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return (Vector<double>)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
#endif

// kCount numbers side by side, each to be multiplied with whole vectors. NEON loads them as vectors, since a product
// takes its factor from any lane of a register there; elsewhere an access that broadcasts costs no more than a load.
template <class T, int kCount>
class Factors {
 public:
  IRF_ALWAYS_INLINE explicit Factors(const T* factors) : factors_(factors) {
#pragma GCC unroll 8
    for (int i = 0; i < kWhole; ++i) whole_[i] = load(factors + i * kLanes<T>);
  }

  // The factor of index i, known when this is compiled, in every lane.
  IRF_ALWAYS_INLINE Vector<T> operator[](int i) const {
    return broadcast(i < kWhole * kLanes<T> ? whole_[i / kLanes<T>][i % kLanes<T>] : factors_[i]);
  }

 private:
#if defined(IRF_NEON)
  static constexpr int kWhole = kCount / kLanes<T>;
#else
  static constexpr int kWhole = 0;
#endif
  const T* factors_;
  Vector<T> whole_[kWhole > 0 ? kWhole : 1];
};

// Sum of all lanes, by halves: the same order on every call.
template <class T>
IRF_ALWAYS_INLINE T sum_lanes(Vector<T> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_reduce_add_ps((__m512)v);
  if constexpr (sizeof(T) == 8) return _mm512_reduce_add_pd((__m512d)v);
#elif defined(IRF_NEON)
  if constexpr (sizeof(T) == 4) return vaddvq_f32((float32x4_t)v);
  if constexpr (sizeof(T) == 8) return vaddvq_f64((float64x2_t)v);
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
