#include "cuda/plan/constants.h"

namespace irf::cuda {
namespace {

// What data sheets say: the clock under load, and from the rates of a multiprocessor the cycles of a warp's FMA and of
// a fragment product on the tensor cores.
struct Sheet {
  double clock_megahertz, float_fma_cycles, double_fma_cycles, mma_cycles;
  double library_full_multiplies, library_tf32_multiplies;  // as in ModelConstants
};

// The rest is one estimate for all architectures: instructions counted in the kernels' machine code, latencies as
// commonly published.
constexpr ModelConstants estimate(const Sheet& sheet) {
  return {
      .clock_megahertz = sheet.clock_megahertz,
      .launch_microseconds = 3,
      .float_fma_cycles = sheet.float_fma_cycles,
      .double_fma_cycles = sheet.double_fma_cycles,
      .l2_bytes_per_cycle = 24,
      .memory_bytes_per_cycle = 12,
      .load_latency_cycles = 400,
      .shared_latency_cycles = 30,
      .barrier_cycles = 40,
      .step_cycles = 10,
      .mma_cycles = sheet.mma_cycles,
      .fragment_cycles = 4,
      .start_cycles = 25,
      .store_cycles = 12,
      .exchange_cycles = 4,
      .product_cycles = 60,
      .element_cycles = 8,
      .setup_cycles = 2000,
      .element_setup_cycles = 60,
      .layered_slot_cycles = 1,
      .layered_mma_cycles = 1.25 * sheet.mma_cycles,
      .layered_product_cycles = 1500,
      .library_full_multiplies = sheet.library_full_multiplies,
      .library_tf32_multiplies = sheet.library_tf32_multiplies,
  };
}

// In ascending order. No row has been fitted on a card yet. Those of sm_86, sm_89 and sm_120 multiply TF32 no faster
// than FMA does, and bf16 twice as fast. A layered product is taken to reach four fifths of the tensor cores' rate,
// since its loads keep shared memory busy for three quarters of the time; the libraries three quarters of the FMA rate,
// and of the tensor cores' what is published for products of this size, some 225 TFLOP/s on an H100.
struct Row {
  int architecture;
  ModelConstants constants;
};
constexpr Row kRows[] = {
    {75, estimate({.clock_megahertz = 1590,
                   .float_fma_cycles = 2,
                   .double_fma_cycles = 64,
                   .mma_cycles = 8,
                   .library_full_multiplies = 48,
                   .library_tf32_multiplies = 48})},
    {80, estimate({.clock_megahertz = 1410,
                   .float_fma_cycles = 2,
                   .double_fma_cycles = 4,
                   .mma_cycles = 8,
                   .library_full_multiplies = 48,
                   .library_tf32_multiplies = 330})},
    {86, estimate({.clock_megahertz = 1695,
                   .float_fma_cycles = 1,
                   .double_fma_cycles = 64,
                   .mma_cycles = 32,
                   .library_full_multiplies = 96,
                   .library_tf32_multiplies = 96})},
    {89, estimate({.clock_megahertz = 2520,
                   .float_fma_cycles = 1,
                   .double_fma_cycles = 64,
                   .mma_cycles = 32,
                   .library_full_multiplies = 96,
                   .library_tf32_multiplies = 96})},
    {90, estimate({.clock_megahertz = 1755,
                   .float_fma_cycles = 1,
                   .double_fma_cycles = 2,
                   .mma_cycles = 8,
                   .library_full_multiplies = 97,
                   .library_tf32_multiplies = 485})},
    {100, estimate({.clock_megahertz = 1965,
                    .float_fma_cycles = 1,
                    .double_fma_cycles = 2,
                    .mma_cycles = 8,
                    .library_full_multiplies = 97,
                    .library_tf32_multiplies = 700})},
    {120, estimate({.clock_megahertz = 2407,
                    .float_fma_cycles = 1,
                    .double_fma_cycles = 64,
                    .mma_cycles = 32,
                    .library_full_multiplies = 96,
                    .library_tf32_multiplies = 96})},
};

}  // namespace

const ModelConstants& model_constants(int architecture) {
  const Row* row = kRows;
  for (const Row& next : kRows)
    if (next.architecture <= architecture) row = &next;
  return row->constants;
}

}  // namespace irf::cuda
