// CUDA C++ for g++: what a translated kernel needs to run on the CPU, one fiber per CUDA thread. Included in front of
// every emulated source (g++ -include); translate.py rewrites what no header can express.
#pragma once

#include <math.h>
#include <stdlib.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "cuda_api.h"

#define SIMT_EMULATED 1
#define __CUDA_ARCH__ 800
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
#define __grid_constant__

#define SIMT_VECTORS(T, name)                                   \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };            \
  struct alignas(16) name##4 { T x, y, z, w; };                 \
  constexpr name##2 make_##name##2(T x, T y) { return {x, y}; } \
  constexpr name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SIMT_VECTORS(float, float)
SIMT_VECTORS(double, double)
SIMT_VECTORS(int, int)
SIMT_VECTORS(unsigned, uint)

namespace simt {

struct Indices {
  uint3 thread, block;
};
extern const Indices* running;
extern dim3 block_size, grid_size;

// Ends the launch with an error; the message reaches Python.
[[noreturn]] void fail(const std::string& what);

struct Launch {
  const void* kernel;
  const char* name;
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
void run(const Launch& launch, void (*body)(void*), void* arguments);

// kernel<<<grid, block, shared, stream>>>(arguments...) becomes launcher(kernel, "kernel", grid, ...)(arguments...).
// The arguments are evaluated once, on the host, and every thread gets a copy, which is not an access to memory.
template <class... P>
auto launcher(void (*kernel)(P...), const char* name, dim3 grid, dim3 block, size_t shared = 0,
              cudaStream_t stream = nullptr) {
  return [=](P... arguments) {
    auto body = [&]() __attribute__((no_sanitize("thread"))) { kernel(arguments...); };
    run(
        {reinterpret_cast<const void*>(kernel), name, grid, block, shared, stream},
        [](void* b) { (*static_cast<decltype(body)*>(b))(); }, &body);
  };
}

// The storage of a __shared__ variable; `key` identifies its declaration. Aligned as its type demands and no better.
void* shared_storage(const void* key, size_t bytes, size_t alignment, const char* name);
void* dynamic_shared_storage();
template <class V>
V& shared(const void* key, const char* name) {
  return *static_cast<V*>(shared_storage(key, sizeof(V), alignof(V), name));
}

struct Place {
  const char* file;
  int line;
};
int barrier(int predicate, Place place);  // how many threads had a true predicate

// Every lane of the mask gives a number, and gets those of all.
struct Lanes {
  unsigned mask;
  uint64_t value[32];
};
const Lanes& exchange(const char* what, unsigned mask, uint64_t value, Place place);
uint64_t exchange_with(int source, const char* what, unsigned mask, uint64_t value, Place place);  // that of one lane
// The same for `bytes` of a whole warp: for the twins of matrix instructions.
void gather(const void* mine, size_t bytes, void* all, const char* file, int line);
unsigned lane();
unsigned active_mask();

void begin_atomic(void* address, size_t bytes);
void end_atomic();
void async_copy(void* target, const void* source, size_t bytes, size_t zeros);
void async_commit();
void async_wait(int still_open);

template <class T>
uint64_t bits(T v) {
  static_assert(sizeof(T) <= 8);
  uint64_t word = 0;
  std::memcpy(&word, &v, sizeof v);
  return word;
}
template <class T>
T unbits(uint64_t word) {
  T v;
  std::memcpy(&v, &word, sizeof v);
  return v;
}
// From a lane outside its segment of `width` lanes a lane gets its own value.
template <class T>
T shuffle(const char* what, unsigned mask, T v, int source, int width, Place place) {
  const int own = lane(), first = own & ~(width - 1);
  const bool inside = source >= first && source < first + width;
  return unbits<T>(exchange_with(inside ? source : own, what, mask, bits(v), place));
}
template <class T, class Fold>
T reduce(const char* what, unsigned mask, T v, Place place, Fold fold) {
  const Lanes& all = exchange(what, mask, bits(v), place);
  const int first = std::countr_zero(all.mask);
  T result = unbits<T>(all.value[first]);
  for (int l = first + 1; l < 32; ++l)
    if (all.mask >> l & 1) result = fold(result, unbits<T>(all.value[l]));
  return result;
}

}  // namespace simt

#define threadIdx (simt::running->thread)
#define blockIdx (simt::running->block)
#define blockDim (simt::block_size)
#define gridDim (simt::grid_size)
constexpr int warpSize = 32;

#define SIMT_PLACE simt::Place place = {__builtin_FILE(), __builtin_LINE()}
inline int __syncthreads_count(int p, SIMT_PLACE) { return simt::barrier(p, place); }
inline int __syncthreads_or(int p, SIMT_PLACE) { return simt::barrier(p, place) > 0; }
inline int __syncthreads_and(int p, SIMT_PLACE) { return simt::barrier(!p, place) == 0; }
inline void __syncthreads(SIMT_PLACE) { simt::barrier(0, place); }
inline void __syncwarp(unsigned mask = ~0u, SIMT_PLACE) { simt::exchange("__syncwarp", mask, 0, place); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline unsigned __activemask() { return simt::active_mask(); }

inline auto __shfl_sync(unsigned mask, auto v, int source, int width = 32, SIMT_PLACE) {
  const int first = simt::lane() & ~(width - 1);
  return simt::shuffle("__shfl_sync", mask, v, first | (source & (width - 1)), width, place);
}
inline auto __shfl_down_sync(unsigned mask, auto v, int delta, int width = 32, SIMT_PLACE) {
  return simt::shuffle("__shfl_down_sync", mask, v, int(simt::lane()) + delta, width, place);
}
inline auto __shfl_up_sync(unsigned mask, auto v, int delta, int width = 32, SIMT_PLACE) {
  return simt::shuffle("__shfl_up_sync", mask, v, int(simt::lane()) - delta, width, place);
}
inline auto __shfl_xor_sync(unsigned mask, auto v, int bits, int width = 32, SIMT_PLACE) {
  return simt::shuffle("__shfl_xor_sync", mask, v, simt::lane() ^ bits, width, place);
}
inline auto __reduce_add_sync(unsigned mask, auto v, SIMT_PLACE) {
  return simt::reduce("__reduce_add_sync", mask, v, place, [](auto a, auto b) { return a + b; });
}
inline auto __reduce_max_sync(unsigned mask, auto v, SIMT_PLACE) {
  return simt::reduce("__reduce_max_sync", mask, v, place, [](auto a, auto b) { return a > b ? a : b; });
}
inline auto __reduce_min_sync(unsigned mask, auto v, SIMT_PLACE) {
  return simt::reduce("__reduce_min_sync", mask, v, place, [](auto a, auto b) { return a < b ? a : b; });
}
inline unsigned __ballot_sync(unsigned mask, int p, SIMT_PLACE) {
  const unsigned mine = unsigned(p != 0) << simt::lane();
  return simt::reduce("vote", mask, mine, place, [](unsigned a, unsigned b) { return a | b; });
}
inline int __any_sync(unsigned mask, int p, SIMT_PLACE) { return __ballot_sync(mask, p, place) != 0; }
inline int __all_sync(unsigned mask, int p, SIMT_PLACE) { return __ballot_sync(mask, !p, place) == 0; }
#undef SIMT_PLACE

// cuda_pipeline.h. A copy happens at its wait; until then its target is poisoned and counts as uninitialised.
inline void __pipeline_memcpy_async(void* target, const void* source, size_t bytes, size_t zfill = 0) {
  simt::async_copy(target, source, bytes, zfill);
}
inline void __pipeline_commit() { simt::async_commit(); }
inline void __pipeline_wait_prior(int still_open) { simt::async_wait(still_open); }

#include "device_functions.h"
