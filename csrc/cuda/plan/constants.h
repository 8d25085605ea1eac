// The numbers of the plan model (plan/model.cpp), one row for each architecture. They decide which of several right
// ways runs, never whether a result is right. Plain data, so that a row can be replaced by one fitted on a card.
#pragma once

namespace irf::cuda {

// Cycles are those of a multiprocessor's clock; "of a warp" means issue slots of its scheduler.
struct ModelConstants {
  // The card.
  double clock_megahertz;         // MHz under load
  double launch_microseconds;     // us of a launch behind another on the stream
  double float_fma_cycles;        // cycles of a warp's FMA instruction, float32
  double double_fma_cycles;       // the same, float64
  double l2_bytes_per_cycle;      // that a multiprocessor draws from L2 while all the others do too
  double memory_bytes_per_cycle;  // that a multiprocessor moves from and to global memory while all the others do too
  double load_latency_cycles;     // of a first load from global memory in an epilogue
  double shared_latency_cycles;   // of shared memory, which a lone warp of a scheduler cannot hide
  double barrier_cycles;          // of a barrier of a block
  // A resident product.
  double step_cycles;      // of a warp per step of an FMA tile, besides FMA and loads: loop and addresses
  double mma_cycles;       // of a warp per fragment product of 16 x 8 on the tensor cores
  double fragment_cycles;  // of a warp per word of its fragments that it rounds to the tensor cores' type
  double start_cycles;     // of a warp at the first step of a tap or of a streamed chunk
  double store_cycles;     // of a warp for the epilogue of one 16-byte vector per thread
  double exchange_cycles;  // of a warp to give one such vector of partial sums to another warp
  double product_cycles;   // once per product
  // A resident walk.
  double element_cycles;        // of a thread per element of its events, at the end of every repeat
  double setup_cycles;          // once per group of items
  double element_setup_cycles;  // of a thread per element of its events, once per group
  // A layered product.
  double layered_slot_cycles;     // of a scheduler per issue slot of its inner loop
  double layered_mma_cycles;      // of a scheduler per fragment product of 16 x 8
  double layered_product_cycles;  // once a product: the first fetch, the epilogue
  // A product by torch's libraries.
  double library_full_multiplies;  // multiply-adds per cycle of a multiprocessor, float32
  double library_tf32_multiplies;  // the same, TF32
};

// In the order of the struct, for programs that fit them.
constexpr const char* kModelConstantNames[] = {
    "clock_megahertz",
    "launch_microseconds",
    "float_fma_cycles",
    "double_fma_cycles",
    "l2_bytes_per_cycle",
    "memory_bytes_per_cycle",
    "load_latency_cycles",
    "shared_latency_cycles",
    "barrier_cycles",
    "step_cycles",
    "mma_cycles",
    "fragment_cycles",
    "start_cycles",
    "store_cycles",
    "exchange_cycles",
    "product_cycles",
    "element_cycles",
    "setup_cycles",
    "element_setup_cycles",
    "layered_slot_cycles",
    "layered_mma_cycles",
    "layered_product_cycles",
    "library_full_multiplies",
    "library_tf32_multiplies",
};
static_assert(sizeof(ModelConstants) == sizeof(kModelConstantNames) / sizeof(const char*) * sizeof(double),
              "a name for every constant");

// The row of an architecture (10 * major + minor), or of the last one before it.
const ModelConstants& model_constants(int architecture);

}  // namespace irf::cuda
