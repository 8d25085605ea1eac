// CUDA C++ for g++: what a translated kernel needs to run on the CPU, one fiber per CUDA thread. Included in front of
// every emulated source (g++ -include); translate.py rewrites what no header can express. What no kernel uses is
// missing: it does not compile.
#pragma once

#include <math.h>

#include <bit>
#include <cstdint>
#include <source_location>
#include <string>
#include <type_traits>

#include "cuda_api.h"

#define SIMT_EMULATED 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
#define __grid_constant__

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
constexpr float2 make_float2(float x, float y) { return {x, y}; }

namespace simt {

[[noreturn]] void fail(const std::string& what);  // ends the launch; the message reaches Python

extern dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the running thread
struct Launch {
  const void* kernel;
  const char* name;
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
  void (*body)(void*);
  void* arguments;
};
extern Launch launch;  // the one that runs
void run(const Launch& what);

// kernel<<<grid, block, shared, stream>>>(arguments...) becomes launcher(kernel, "kernel", grid, ...)(arguments...).
// The arguments are evaluated once, on the host, and every thread gets a copy, which is not an access to memory.
template <class... P> auto launcher(void (*kernel)(P...), const char* name, dim3 grid, dim3 block, size_t shared = 0,
                                    cudaStream_t stream = nullptr) {
  return [=](P... arguments) {
    auto body = [&]() __attribute__((no_sanitize("thread"))) { kernel(arguments...); };
    const auto call = [](void* b) { (*static_cast<decltype(body)*>(b))(); };
    run({reinterpret_cast<const void*>(kernel), name, grid, block, shared, stream, call, &body});
  };
}

// The storage of a __shared__ variable; `key` identifies its declaration. Aligned as its type demands and no better.
void* shared_storage(const void* key, size_t bytes, size_t alignment, const char* name);
void* dynamic_shared_storage();

using Place = std::source_location;
int __syncthreads_count(int predicate, Place place = Place::current());

// Every lane of the mask gives `bytes`, and gets those of all in `all`, by lane. Returns the lanes that gave: others
// have left the kernel. An error if one of `needed` did not give.
unsigned exchange(const char* what, unsigned mask, const void* given, size_t bytes, void* all, unsigned needed,
                  Place place);
int lane();
unsigned __activemask();

enum class Access { kRead, kWrite, kAtomic };
// A code address relative to the library, as debug information has it; null: the host. Python makes file:line of it.
enum class Code : uint32_t {};
Code code_at(const void* return_address);
void access(const void* address, size_t bytes, Access kind, Code code, bool counted = true);

// cuda_pipeline.h. A copy happens at its wait; until then its target is poisoned and counts as uninitialised.
void __pipeline_memcpy_async(void* target, const void* source, size_t bytes, size_t zfill = 0);
void __pipeline_commit();
void __pipeline_wait_prior(unsigned still_open);

// For the twins of matrix instructions.
inline void gather(const void* mine, size_t bytes, void* all, const char*, int, Place place = Place::current()) {
  exchange("gather", ~0u, mine, bytes, all, ~0u, place);
}
inline unsigned bits(float v) { return std::bit_cast<unsigned>(v); }
template <class T> T unbits(unsigned v) { return std::bit_cast<T>(v); }

}  // namespace simt

using simt::__pipeline_commit, simt::__pipeline_memcpy_async, simt::__pipeline_wait_prior;
using simt::threadIdx, simt::blockIdx, simt::blockDim, simt::gridDim, simt::__activemask, simt::__syncthreads_count;
constexpr int warpSize = 32;

#define SIMT_PLACE simt::Place place = simt::Place::current()
inline int __syncthreads_or(int p, SIMT_PLACE) { return __syncthreads_count(p, place) > 0; }
inline int __syncthreads_and(int p, SIMT_PLACE) { return __syncthreads_count(!p, place) == 0; }
inline void __syncthreads(SIMT_PLACE) { __syncthreads_count(0, place); }
inline void __syncwarp(unsigned mask = ~0u, SIMT_PLACE) {
  simt::exchange("__syncwarp", mask, nullptr, 0, nullptr, 0, place);
}

// From a lane outside its segment of `width` lanes a lane gets its own value.
#define SIMT_SHUFFLE(name, from)                                                      \
  template <class T> T name(unsigned mask, T v, int by, int width = 32, SIMT_PLACE) { \
    const int own = simt::lane(), first = own & -width, source = from;                \
    const int inside = source >= first && source < first + width ? source : own;      \
    T all[32];                                                                        \
    simt::exchange(#name, mask, &v, sizeof v, all, 1u << inside, place);              \
    return all[inside];                                                               \
  }
SIMT_SHUFFLE(__shfl_sync, first | (by & (width - 1)))
SIMT_SHUFFLE(__shfl_down_sync, own + by)
SIMT_SHUFFLE(__shfl_up_sync, own - by)
SIMT_SHUFFLE(__shfl_xor_sync, own ^ by)

#define SIMT_REDUCE(name, folded)                                                    \
  template <class T> T name(unsigned mask, T a, SIMT_PLACE) {                        \
    T all[32];                                                                       \
    const unsigned lanes = simt::exchange(#name, mask, &a, sizeof a, all, 0, place); \
    for (int l = 0; l < 32; ++l)                                                     \
      if (const T b = all[l]; lanes >> l & 1 && l != simt::lane()) a = folded;       \
    return a;                                                                        \
  }
SIMT_REDUCE(__reduce_add_sync, a + b)
SIMT_REDUCE(__reduce_max_sync, a > b ? a : b)
SIMT_REDUCE(__reduce_min_sync, a < b ? a : b)
SIMT_REDUCE(__reduce_or_sync, a | b)
inline unsigned __ballot_sync(unsigned mask, int p, SIMT_PLACE) {
  return __reduce_or_sync(mask, unsigned(p != 0) << simt::lane(), place);
}
inline int __any_sync(unsigned mask, int p, SIMT_PLACE) { return __ballot_sync(mask, p, place) != 0; }
inline int __all_sync(unsigned mask, int p, SIMT_PLACE) { return __ballot_sync(mask, !p, place) == 0; }
#undef SIMT_PLACE

// The whole update is one access, marked atomic.
template <class T> __attribute__((noinline, no_sanitize("thread"))) T atomicAdd(T* p, std::type_identity_t<T> v) {
  simt::access(p, sizeof(T), simt::Access::kAtomic, simt::code_at(__builtin_return_address(0)));
  const T old = *p;
  *p = old + v;
  return old;
}

template <class T> T __ldg(const T* p) { return *p; }
[[noreturn]] inline void __trap() { simt::fail("__trap()"); }
inline int __popc(unsigned v) { return std::popcount(v); }
inline int __clz(unsigned v) { return std::countl_zero(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __float_as_int(float v) { return std::bit_cast<int>(v); }

// As in CUDA: mixed numbers convert as usual, and of a NaN and a number the number wins.
template <class A, class B, class T = std::common_type_t<A, B>> constexpr T max(A a, B b) {
  return T(a) != T(a) || T(a) < T(b) ? T(b) : T(a);
}
template <class A, class B, class T = std::common_type_t<A, B>> constexpr T min(A a, B b) {
  return T(a) != T(a) || T(b) < T(a) ? T(b) : T(a);
}
inline double rsqrt(double v) { return 1.0 / sqrt(v); }
inline float rsqrt(float v) { return float(rsqrt(double(v))); }
inline void sincos(float v, float* s, float* c) { sincosf(v, s, c); }
