// What the kernels need to know about a GPU, and the cards whose numbers are known without one. Plain C++, no CUDA
// header: plans are computed, tested and printed on any machine.
#pragma once

#include <cstdint>

namespace irf::cuda {

struct Card {
  const char* name;
  int architecture;      // 10 * major + minor
  int multiprocessors;   //
  int shared_per_block;  // bytes, the opt-in limit
  int shared_per_multiprocessor;
  int64_t memory;  // bytes
};

constexpr int64_t kGigabyte = 1000000000;
constexpr Card kKnownCards[] = {
    {"t4", 75, 40, 65536, 65536, 16 * kGigabyte},          {"a100", 80, 108, 166912, 167936, 40 * kGigabyte},
    {"rtx3090", 86, 82, 101376, 102400, 24 * kGigabyte},   {"rtx4090", 89, 128, 101376, 102400, 24 * kGigabyte},
    {"h100", 90, 132, 232448, 233472, 80 * kGigabyte},     {"b200", 100, 148, 232448, 233472, 180 * kGigabyte},
    {"rtx5090", 120, 170, 101376, 102400, 32 * kGigabyte},
};
constexpr int kReservedPerBlock = 1024;  // bytes the runtime takes from each block's share (none before sm_80)

// How products of float32 operands are formed; sums are float32 always. float64 knows kFull only.
enum class Precision : int { kFull, kTf32, kBf16 };

}  // namespace irf::cuda
