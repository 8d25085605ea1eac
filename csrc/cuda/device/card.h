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
  int64_t memory;          // bytes
  int64_t l2_bytes = 0;    // of the second-level cache
  bool libraries = false;  // products of cuBLAS and cuDNN can be called (device/library.h)
};

constexpr int64_t kGigabyte = 1000000000, kMegabyte = 1000000;
constexpr Card kKnownCards[] = {
    {"t4", 75, 40, 65536, 65536, 16 * kGigabyte, 4 * kMegabyte},
    {"a100", 80, 108, 166912, 167936, 40 * kGigabyte, 40 * kMegabyte},
    {"rtx3090", 86, 82, 101376, 102400, 24 * kGigabyte, 6 * kMegabyte},
    {"rtx4090", 89, 128, 101376, 102400, 24 * kGigabyte, 72 * kMegabyte},
    {"h100", 90, 132, 232448, 233472, 80 * kGigabyte, 50 * kMegabyte},
    {"b200", 100, 148, 232448, 233472, 180 * kGigabyte, 126 * kMegabyte},
    {"rtx5090", 120, 170, 101376, 102400, 32 * kGigabyte, 96 * kMegabyte},
};
constexpr int kReservedPerBlock = 1024;  // bytes the runtime takes from each block's share (none before sm_80)

// How products of float32 operands are formed; sums are float32 always. float64 knows kFull only.
enum class Precision : int { kFull, kTf32, kBf16 };

}  // namespace irf::cuda
