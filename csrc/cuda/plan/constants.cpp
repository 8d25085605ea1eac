#include "cuda/plan/constants.h"

namespace irf::cuda {
namespace {

struct Row {
  int architecture;
  ModelConstants constants;
};

// No row has been fitted on a card yet. Clocks are the data sheets' (of an H100, what it keeps up under load); cycles
// of FMA and of the tensor cores follow from the sheets' rates of a multiprocessor: those of sm_86, sm_89 and sm_120
// multiply TF32 no faster than FMA does, and bf16 twice as fast. A layered product is taken to
// reach four fifths of the tensor cores' rate, since its loads keep shared memory busy for three quarters of the time.
// The libraries are taken to reach three quarters of the FMA rate, and of the tensor cores' what is published for
// products of this size, some 225 TFLOP/s on an H100. The rest is one estimate for all: instructions counted in the
// kernels' machine code, latencies as commonly published.
constexpr Row kRows[] = {
    // clock, launch, FMA float32, float64; bytes from L2, memory; latency of a load, shared memory, barrier
    // step, mma, fragment, start, store, exchange, product; element, setup, its element
    // layered: slot, mma, product; libraries: float32, TF32
    {75, {1590, 3, 2, 64, 24, 12, 400, 30, 40, 10, 8, 4, 25, 12, 4, 60, 8, 2000, 60, 1, 10, 1500, 48, 48}},
    {80, {1410, 3, 2, 4, 24, 12, 400, 30, 40, 10, 8, 4, 25, 12, 4, 60, 8, 2000, 60, 1, 10, 1500, 48, 330}},
    {86, {1695, 3, 1, 64, 24, 12, 400, 30, 40, 10, 32, 4, 25, 12, 4, 60, 8, 2000, 60, 1, 40, 1500, 96, 96}},
    {89, {2520, 3, 1, 64, 24, 12, 400, 30, 40, 10, 32, 4, 25, 12, 4, 60, 8, 2000, 60, 1, 40, 1500, 96, 96}},
    {90, {1755, 3, 1, 2, 24, 12, 400, 30, 40, 10, 8, 4, 25, 12, 4, 60, 8, 2000, 60, 1, 10, 1500, 97, 485}},
    {100, {1965, 3, 1, 2, 24, 12, 400, 30, 40, 10, 8, 4, 25, 12, 4, 60, 8, 2000, 60, 1, 10, 1500, 97, 700}},
    {120, {2407, 3, 1, 64, 24, 12, 400, 30, 40, 10, 32, 4, 25, 12, 4, 60, 8, 2000, 60, 1, 40, 1500, 96, 96}},
};

}  // namespace

const ModelConstants& model_constants(int architecture) {
  const Row* row = kRows;
  for (const Row& next : kRows)
    if (next.architecture <= architecture) row = &next;
  return row->constants;
}

}  // namespace irf::cuda
