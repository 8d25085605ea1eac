// What every kernel uses: 16-byte accesses, asynchronous copies, sums over a warp, activations on scalars. With
// device/mma.cuh the only place where the CPU emulator of tests/simt needs a twin.
#pragma once

#ifndef SIMT_EMULATED
#include <cuda_pipeline.h>
#include <cuda_runtime.h>
#endif

#include <cstdint>
#include <limits>

#include "cuda/device/card.h"
#include "cuda/device/sincos.cuh"
#include "iresnet_fast/activations.h"

namespace irf::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

constexpr IRF_HOST_DEVICE int ceil_div(int n, int m) { return (n + m - 1) / m; }
constexpr IRF_HOST_DEVICE int round_up(int n, int m) { return ceil_div(n, m) * m; }
constexpr IRF_HOST_DEVICE int64_t ceil_div(int64_t n, int64_t m) { return (n + m - 1) / m; }
constexpr IRF_HOST_DEVICE int64_t round_up(int64_t n, int64_t m) { return ceil_div(n, m) * m; }

// Lets launches of a kernel that holds `static_bytes` itself have all the shared memory the card has for a block. The
// limit belongs to the kernel, so a call must not set what it alone needs: another thread, with a smaller plan of the
// same kernel, would lower it between this call and the launch.
template <class Kernel>
cudaError_t allow_shared(Kernel* kernel, const Card& card, int static_bytes = 0) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              card.shared_per_block - static_bytes);
}

template <class T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

// 16 bytes: 4 floats or 2 doubles.
template <class T>
struct Vector {
  T at[kVector<T>];
  __device__ __forceinline__ T& operator[](int i) { return at[i]; }
  __device__ __forceinline__ const T& operator[](int i) const { return at[i]; }
};

#ifdef SIMT_EMULATED
// g++ splits a struct whose fields are used apart into scalars; a vector type keeps one 16-byte access for the checker.
template <class T>
struct Native {
  typedef T Type __attribute__((vector_size(16), may_alias));
};
template <class T>
inline Vector<T> load16(const T* p) {
  const typename Native<T>::Type v = *reinterpret_cast<const typename Native<T>::Type*>(p);
  Vector<T> result;
  for (int i = 0; i < kVector<T>; ++i) result[i] = v[i];
  return result;
}
template <class T>
inline Vector<T> load16_readonly(const T* p) {
  return load16(p);
}
template <class T>
inline void store16(T* p, const Vector<T>& value) {
  typename Native<T>::Type v;
  for (int i = 0; i < kVector<T>; ++i) v[i] = value[i];
  *reinterpret_cast<typename Native<T>::Type*>(p) = v;
}
#else
__device__ __forceinline__ Vector<float> unpack(float4 v) { return {{v.x, v.y, v.z, v.w}}; }
__device__ __forceinline__ Vector<double> unpack(double2 v) { return {{v.x, v.y}}; }
__device__ __forceinline__ float4 pack(const Vector<float>& v) { return make_float4(v[0], v[1], v[2], v[3]); }
__device__ __forceinline__ double2 pack(const Vector<double>& v) { return make_double2(v[0], v[1]); }
template <class T>
struct Native;
template <>
struct Native<float> {
  using Type = float4;
};
template <>
struct Native<double> {
  using Type = double2;
};
template <class T>
__device__ __forceinline__ Vector<T> load16(const T* p) {
  return unpack(*reinterpret_cast<const typename Native<T>::Type*>(p));
}
// From global memory that no thread writes while the kernel runs.
template <class T>
__device__ __forceinline__ Vector<T> load16_readonly(const T* p) {
  return unpack(__ldg(reinterpret_cast<const typename Native<T>::Type*>(p)));
}
template <class T>
__device__ __forceinline__ void store16(T* p, const Vector<T>& value) {
  *reinterpret_cast<typename Native<T>::Type*>(p) = pack(value);
}
#endif

// 8 bytes: 2 floats, or 4 Bf16.
#ifdef SIMT_EMULATED
inline void store8(void* p, unsigned first, unsigned second) {
  typedef unsigned Pair __attribute__((vector_size(8), may_alias));
  *static_cast<Pair*>(p) = Pair{first, second};
}
inline void load8(const void* p, unsigned& first, unsigned& second) {
  typedef unsigned Pair __attribute__((vector_size(8), may_alias));
  const Pair pair = *static_cast<const Pair*>(p);
  first = pair[0];
  second = pair[1];
}
#else
__device__ __forceinline__ void store8(void* p, unsigned first, unsigned second) {
  *static_cast<uint2*>(p) = make_uint2(first, second);
}
__device__ __forceinline__ void load8(const void* p, unsigned& first, unsigned& second) {
  const uint2 pair = *static_cast<const uint2*>(p);
  first = pair.x;
  second = pair.y;
}
#endif

template <class T>
__device__ __forceinline__ Vector<T> zero16() {
  Vector<T> v;
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) v[i] = T(0);
  return v;
}

// The row that group number `group` of LANES neighbouring threads copies to, 16 bytes each, among rows PITCH bytes
// apart in shared memory. The eight threads that a store takes at once meet no bank twice: where their rows would
// overlap, they are so many rows apart that they lie LANES pieces of 16 bytes apart.
template <int LANES, int PITCH>
__device__ __forceinline__ int copied_row(int group) {
  static_assert(LANES > 0 && (8 % LANES == 0 || LANES % 8 == 0) && PITCH % 16 == 0);
  constexpr int kPieces = PITCH / 16, kStep = kPieces & -kPieces;
  constexpr int kTogether = LANES < 8 ? 8 / LANES : 1, kApart = LANES > kStep && LANES < 8 ? LANES / kStep : 1;
  return group / (kTogether * kApart) * (kTogether * kApart) + group % kTogether * kApart + group / kTogether % kApart;
}

// Copies `count` elements to shared memory without passing through registers; both pointers 16-byte aligned, count a
// multiple of 16 bytes. The caller commits and waits.
template <class T>
__device__ __forceinline__ void copy_async(T* shared, const T* global, int count) {
  for (int i = kVector<T> * static_cast<int>(threadIdx.x); i < count; i += kVector<T> * static_cast<int>(blockDim.x))
    __pipeline_memcpy_async(shared + i, global + i, 16);
}

// Sum over the lanes that differ from this one in bits below `width` (a power of two); every lane gets it.
template <class T>
__device__ __forceinline__ T sum_lanes(T v, int width = kWarp) {
  for (int offset = width / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(kAllLanes, v, offset);
  return v;
}

// The Math policy of iresnet_fast/activations.h on one number.
template <class T>
struct ScalarMath;

template <>
struct ScalarMath<float> {
  using V = float;
  static __device__ __forceinline__ float constant(double x) { return static_cast<float>(x); }
  static __device__ __forceinline__ float select(bool mask, float yes, float no) { return mask ? yes : no; }
  static __device__ __forceinline__ float exp_nonpositive(float x) { return expf(x); }
  static __device__ __forceinline__ float expm1_nonpositive(float x) { return expm1f(x); }
  static __device__ __forceinline__ float log1p_unit(float x) { return log1pf(x); }
  static __device__ __forceinline__ void sincos(float x, float& s, float& c) { sincos_without_stack(x, s, c); }
  static __device__ __forceinline__ float normal_tail(float x, float& gaussian) {
    gaussian = expf(-0.5f * x * x);
    return 0.5f * erfcf(x * 0.70710678118654752440f);
  }
};

template <>
struct ScalarMath<double> {
  using V = double;
  static __device__ __forceinline__ double constant(double x) { return x; }
  static __device__ __forceinline__ double select(bool mask, double yes, double no) { return mask ? yes : no; }
  static __device__ __forceinline__ double exp_nonpositive(double x) { return exp(x); }
  static __device__ __forceinline__ double expm1_nonpositive(double x) { return expm1(x); }
  static __device__ __forceinline__ double log1p_unit(double x) { return log1p(x); }
  static __device__ __forceinline__ void sincos(double x, double& s, double& c) { ::sincos(x, &s, &c); }
  static __device__ __forceinline__ double normal_tail(double x, double& gaussian) {
    gaussian = exp(-0.5 * x * x);
    return 0.5 * erfc(x * 0.70710678118654752440);
  }
};

// phi, phi', phi'' at a.
template <class T>
__device__ __forceinline__ Jet<T> jet(Activation activation, T a, Parameters<T> p) {
  switch (activation) {
#define IRF_CASE(name, Struct) \
  case Activation::k##Struct:  \
    return Struct::jet<ScalarMath<T>>(a, p);
    IRF_FOR_EACH_ACTIVATION(IRF_CASE)
#undef IRF_CASE
    default:
      return {a, T(1), T(0)};
  }
}

// The parameters of one of the channels; `p` is that of the stage.
template <class T>
__device__ __forceinline__ Parameters<T> parameters_of(Activation activation, Parameters<T> p, int channel,
                                                       int channels) {
  if (activation == Activation::kHalfAbs) p.constant = static_cast<T>(HalfAbs::constant_of(channel, channels));
  return p;
}

template <class T>
constexpr T kLeastNormal = std::numeric_limits<T>::min();

// The slope softplus(beta) of an activation with a learnable parameter; 1 without one. Never zero, which times infinity
// is no number.
template <class T>
__device__ __forceinline__ T slope_of(const T* beta) {
  if (!beta) return T(1);
  const T slope = Softplus::jet<ScalarMath<T>>(*beta, {}).h;
  return slope < kLeastNormal<T> ? T(kLeastNormal<T>) : slope;
}

}  // namespace irf::cuda
