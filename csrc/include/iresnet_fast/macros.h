// Compiler differences, in one place. Torch-free; included by host and device code.
#pragma once

#if defined(__CUDACC__)
#define IRF_HOST_DEVICE __host__ __device__
#else
#define IRF_HOST_DEVICE
#endif

// Before a loop of at most 8 turns, all of them known: arrays indexed in it stay in registers.
#if defined(__CUDACC__)
#define IRF_UNROLL _Pragma("unroll")
#else
#define IRF_UNROLL _Pragma("GCC unroll 8")
#endif

#define IRF_RESTRICT __restrict__
#define IRF_ALWAYS_INLINE inline __attribute__((always_inline))
#define IRF_NOINLINE __attribute__((noinline))

// The numbers of the vectors a and b, counted through from those of a, that the indices name. A macro: a function that
// returns a vector wider than the registers makes GCC warn of its ABI.
#if defined(__clang__)
#define IRF_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define IRF_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, decltype((a) < (b)){__VA_ARGS__})
#endif
