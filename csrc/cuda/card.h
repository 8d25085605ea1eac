// What the kernels need to know about a GPU, and the cards whose numbers are known without one. Plain C++, no CUDA
// header: plans are computed, tested and printed on any machine.
#pragma once

namespace irf::cuda {

struct Card {
  const char* name;
  int architecture;      // 10 * major + minor
  int multiprocessors;   //
  int shared_per_block;  // bytes, the opt-in limit
  int shared_per_multiprocessor;
};

constexpr Card kKnownCards[] = {
    {"t4", 75, 40, 65536, 65536},          {"a100", 80, 108, 166912, 167936}, {"rtx3090", 86, 82, 101376, 102400},
    {"rtx4090", 89, 128, 101376, 102400},  {"h100", 90, 132, 232448, 233472}, {"b200", 100, 148, 232448, 233472},
    {"rtx5090", 120, 170, 101376, 102400},
};
constexpr int kReservedPerBlock = 1024;  // bytes the runtime takes from each block's share (none before sm_80)

// How products of float32 operands are formed; sums are float32 always. float64 knows kFull only.
enum class Precision : int { kFull, kTf32, kBf16 };

}  // namespace irf::cuda
