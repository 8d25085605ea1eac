// A 64-bit hash of the bits of every weight: the sum over words of 64 bits of low half * high half + itself, each after
// adding its position times a constant. A sum has no order, so all instruction sets and thread counts agree.
#pragma once

#include "cpu/parallel.h"

namespace irf {
namespace IRF_ISA {
namespace {

typedef uint64_t Words __attribute__((vector_size(kVectorBytes)));
typedef uint64_t UnalignedWords __attribute__((vector_size(kVectorBytes), aligned(1), may_alias));
constexpr int kWords = kVectorBytes / 8;

// Low half times high half of every word.
IRF_ALWAYS_INLINE Words multiply_halves(Words a) {
  const Words high = a >> 32;
#if defined(__AVX512F__)
  return (Words)_mm512_mul_epu32((__m512i)a, (__m512i)high);
#elif defined(__AVX2__)
  return (Words)_mm256_mul_epu32((__m256i)a, (__m256i)high);
#elif defined(IRF_NEON)
  return (Words)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)high));
#else
  return (a & 0xffffffffu) * high;
#endif
}

inline uint64_t word_hash(uint64_t word, int64_t position) {
  word += kFingerprintStep * static_cast<uint64_t>(position + 1);
  return (word & 0xffffffffu) * (word >> 32) + word;
}

inline uint64_t fingerprint_of(const char* bytes, int64_t size) {
  const int64_t words = size / 8;
  Words step, sum[2] = {};
  for (int i = 0; i < kWords; ++i) step[i] = kFingerprintStep * static_cast<uint64_t>(i + 1);
  int64_t at = 0;
  for (; at + 2 * kWords <= words; at += 2 * kWords)  // two sums hide the latency of the product
    for (int n = 0; n < 2; ++n) {
      const Words word = *reinterpret_cast<const UnalignedWords*>(bytes + 8 * (at + n * kWords)) + step;
      sum[n] += multiply_halves(word) + word;
      step += kFingerprintStep * uint64_t(kWords);
    }
  uint64_t total = 0;
  for (int i = 0; i < kWords; ++i) total += sum[0][i] + sum[1][i];
  for (; 8 * at < size; ++at) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + 8 * at, min_of(size - 8 * at, int64_t(8)));
    total += word_hash(word, at);
  }
  return total;
}

// Below this one thread is done before others have started.
constexpr int64_t kBytesWorthThreads = int64_t(1) << 20;

template <class T>
void fingerprint(const FingerprintOperands& op, const Parallel& parallel) {
  int64_t bytes = 0;
  for (int i = 0; i < op.layers; ++i) bytes += op.bytes[i];
  auto one_layer = [&](int64_t index) {
    op.result[index] = fingerprint_of(static_cast<const char*>(op.weight[index]), op.bytes[index]);
  };
  if (bytes >= kBytesWorthThreads) return run_each(parallel, op.layers, one_layer);
  for (int i = 0; i < op.layers; ++i) one_layer(i);
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
