#include "cuda/plan_model.h"

#include <algorithm>
#include <cmath>

namespace irf::cuda {
namespace {

constexpr double kSchedulers = 4;
constexpr double kBytesPerCycle = 24;  // that a multiprocessor draws from L2 while all the others do too
constexpr double kLoadLatency = 400;   // of a first load from global memory in an epilogue
constexpr double kSharedLatency = 30;  // of shared memory, which a lone warp of a scheduler cannot hide
constexpr double kBarrierCycles = 40;

double ceil_div(double n, double m) { return std::ceil(n / m); }

// Issue cycles of one FMA instruction of a warp on its scheduler.
double fma_cycles(int element_bytes, const Card& card) {
  const int architecture = card.architecture;
  if (element_bytes == 4) return architecture <= 80 ? 2 : 1;
  return architecture == 80 ? 4 : architecture == 90 || architecture == 100 ? 2 : 64;
}

struct Cost {
  double issue, wavefronts;  // of a warp
};

bool on_tensor_cores(const ResidentPlan& plan, const StagePlan& stage) {
  return plan.precision != Precision::kFull && stage.tile != TileKind::kNarrow;
}

// A warp's tile advancing by the depth of its precision.
Cost unit_cost(const ResidentPlan& plan, const StagePlan& stage, const TileShape& shape, int element_bytes,
               const Card& card) {
  const double depth = depth_of(plan.precision);
  if (on_tensor_cores(plan, stage)) {  // conversions and fragments of 16 x 8, about 8 cycles each
    const double rows = shape.rows / 16.0, columns = shape.columns / 8.0;
    const double words = (4 * rows + 2 * columns), loads = words * (plan.precision == Precision::kBf16 ? 2 : 1);
    return {8 * rows * columns + 4 * words + loads, loads};
  }
  const double columns = shape.groups * shape.width;
  const double loads = depth * (shape.thread_rows + columns) / shape.width;
  return {depth * shape.thread_rows * columns * fma_cycles(element_bytes, card) + loads + 10, 4 * loads};
}

double stage_bytes(const StagePlan& stage, int element_bytes) {
  return double(stage.flat_rows) * stage.column_pitch * element_bytes;
}

}  // namespace

double stage_cycles(const ResidentPlan& plan, const StagePlan& stage, int blocks, int element_bytes, const Card& card) {
  const TileShape shape = tile_shape(plan.family, stage.tile, element_bytes);
  const double busy = blocks * stage.row_tiles * stage.column_tiles * stage.splits;
  const double taps = stage.kernel * stage.kernel, chunks = ceil_div(stage.flat_rows, stage.chunk);
  const double units = ceil_div(stage.flat_rows / double(depth_of(plan.precision)), stage.splits);
  const Cost unit = unit_cost(plan, stage, shape, element_bytes, card);
  const double per_scheduler = ceil_div(busy, kSchedulers);
  const double starts = 25 * (std::min(units, ceil_div(taps, stage.splits)) + chunks);
  const double issue = std::max(per_scheduler * unit.issue, unit.issue + kSharedLatency);
  double cycles = std::max(units * issue + per_scheduler * starts, busy * units * unit.wavefronts);
  double bytes = stage.weight == kNotShared ? blocks * stage_bytes(stage, element_bytes) : 0;
  const double stores = shape.thread_rows * shape.groups, given = stores * (stage.splits - 1) / stage.splits;
  cycles += per_scheduler * (12 * stores / stage.splits + 4 * given) + 4 * busy * (stores / stage.splits + 2 * given);
  if (stage.scaled && stage.derivative == kNotShared)
    bytes += double(blocks) * plan.items * plan.pixels * stage.N_padded * element_bytes;
  if (bytes > 0) cycles = std::max(cycles + kLoadLatency, bytes / kBytesPerCycle);
  return cycles + (1 + chunks) * kBarrierCycles + (stage.splits - 1) * kSharedLatency + 60;
}

double resident_cycles(const ResidentPlan& plan, const WalkRequest& request, int element_bytes, const Card& card) {
  const int blocks = plan.blocks_per_multiprocessor;
  const double event = double(plan.items) * plan.pixels * plan.event_pitch;
  double repeat = 3 * kBarrierCycles + blocks * event / plan.threads * 8;
  double setup = 2000 + blocks * event / plan.threads * 60, weights = 0;
  for (int i = 0; i < plan.stages; ++i) {
    const StagePlan& stage = plan.stage[i];
    repeat += stage_cycles(plan, stage, blocks, element_bytes, card);
    if (stage.weight != kNotShared) weights += blocks * stage_bytes(stage, element_bytes) / kBytesPerCycle;
    setup += blocks * double(plan.items) * plan.pixels * stage.N_padded * element_bytes / kBytesPerCycle;
  }
  const double rounds = ceil_div(double(plan.groups), double(card.multiprocessors) * blocks);
  return weights + rounds * (setup + request.repeats * repeat);
}

// Per product: tiles of 128 x 64 on 128 threads, two blocks a multiprocessor, or the bytes that move.
double layered_microseconds(const BranchShape& shape, const WalkRequest& request, Precision precision,
                            int element_bytes, const Card& card) {
  const double pixels = shape.height ? double(shape.height) * shape.width : 1;
  const double rows = double(request.probes) * double(shape.batch) * pixels;
  precision = usable_precision(precision, element_bytes, card);
  const double speedup = precision == Precision::kFull ? 1 : 2.5;
  double microseconds = request.sums ? kLaunchMicroseconds : 0;
  for (int i = 0; i < shape.stages; ++i) {
    const int N = channel_pad(shape.channels[i + 1], precision), K = channel_pad(shape.channels[i], precision);
    const double columns = std::min(64, std::max(16, N)), tiles = ceil_div(rows, 128) * ceil_div(N, columns);
    const double units = shape.kernel[i] * shape.kernel[i] * K / 4.0;
    const double unit = 4 * columns * fma_cycles(element_bytes, card) / speedup + 50;
    const double compute = ceil_div(tiles, card.multiprocessors) * units * unit + 1500;
    const double bytes = rows * (K + 2.0 * N) * element_bytes / card.multiprocessors;
    microseconds += std::max(compute, bytes / 12) / kClockMegahertz + kLaunchMicroseconds;
  }
  return request.repeats * microseconds;
}

}  // namespace irf::cuda
