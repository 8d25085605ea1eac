// Device functions: atomics, bits, and the mathematics that <math.h> lacks or spells differently.
#pragma once

// The whole update is one access, marked atomic.
#define SIMT_ATOMIC(name, updated)          \
  template <class T>                        \
  T name(T* p, std::type_identity_t<T> v) { \
    simt::begin_atomic(p, sizeof(T));       \
    const T old = *p;                       \
    *p = updated;                           \
    simt::end_atomic();                     \
    return old;                             \
  }
SIMT_ATOMIC(atomicAdd, old + v)
SIMT_ATOMIC(atomicSub, old - v)
SIMT_ATOMIC(atomicMax, old > v ? old : v)
SIMT_ATOMIC(atomicMin, old < v ? old : v)
SIMT_ATOMIC(atomicExch, v)
SIMT_ATOMIC(atomicAnd, old& v)
SIMT_ATOMIC(atomicOr, old | v)
template <class T>
T atomicCAS(T* p, T expected, T v) {
  simt::begin_atomic(p, sizeof(T));
  const T old = *p;
  if (old == expected) *p = v;
  simt::end_atomic();
  return old;
}

template <class T>
T __ldg(const T* p) {
  return *p;
}
[[noreturn]] inline void __trap() { simt::fail("__trap()"); }
inline int __popc(unsigned v) { return std::popcount(v); }
inline int __clz(unsigned v) { return std::countl_zero(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline float __int_as_float(int v) { return std::bit_cast<float>(v); }
inline int __float_as_int(float v) { return std::bit_cast<int>(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline double __longlong_as_double(long long v) { return std::bit_cast<double>(v); }
inline long long __double_as_longlong(double v) { return std::bit_cast<long long>(v); }
inline float __double2float_rn(double v) { return float(v); }

// As in CUDA: mixed numbers convert as usual, and of a NaN and a number the number wins.
template <class A, class B, class T = std::common_type_t<A, B>>
constexpr T max(A a, B b) {
  return T(a) != T(a) || T(a) < T(b) ? T(b) : T(a);
}
template <class A, class B, class T = std::common_type_t<A, B>>
constexpr T min(A a, B b) {
  return T(a) != T(a) || T(b) < T(a) ? T(b) : T(a);
}
inline double rsqrt(double v) { return 1.0 / sqrt(v); }
inline float rsqrt(float v) { return float(rsqrt(double(v))); }
inline float rsqrtf(float v) { return rsqrt(v); }
inline void sincos(float v, float* s, float* c) { sincosf(v, s, c); }
inline float __expf(float v) { return expf(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
