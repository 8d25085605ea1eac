#include "cuda/plan/model.h"

#include <algorithm>
#include <cmath>

#include "cuda/layered/terms.h"
#include "cuda/plan/product.h"

namespace irf::cuda {
namespace {

// Facts of the hardware and of the kernels.
constexpr double kSchedulers = 4;        // of a multiprocessor, each issues one instruction of a warp per cycle
constexpr double kVectorWavefronts = 4;  // of shared memory, for 16 bytes per lane
constexpr double kRepeatBarriers = 3;    // between the last product of a repeat and the next

double ceil_div(double n, double m) { return std::ceil(n / m); }

double fma_cycles(int element_bytes, const ModelConstants& model) {
  return element_bytes == 4 ? model.float_fma_cycles : model.double_fma_cycles;
}

struct Cost {
  double issue, wavefronts;  // of a warp
};

// What it costs a warp's tile to advance by the depth of its precision.
Cost unit_cost(const ResidentPlan& plan, const TileShape& shape, int element_bytes, const ModelConstants& model) {
  const double depth = depth_of(plan.precision);
  if (plan.precision != Precision::kFull) {
    const double rows = shape.rows / 16.0, columns = shape.columns / 8.0;  // fragments
    const double words = (4 * rows + 2 * columns), loads = words * (plan.precision == Precision::kBf16 ? 2 : 1);
    return {model.mma_cycles * rows * columns + model.fragment_cycles * words + loads, loads};
  }
  const double columns = shape.groups * shape.width;
  const double loads = depth * (shape.thread_rows + columns) / shape.width;
  const double fma = depth * shape.thread_rows * columns * fma_cycles(element_bytes, model);
  return {fma + loads + model.step_cycles, kVectorWavefronts * loads};
}

double stage_bytes(const StagePlan& stage, int element_bytes) {
  return double(stage.flat_rows) * stage.column_pitch * element_bytes;
}

// What the warps of a multiprocessor do in one product.
struct StageWork {
  double busy, per_scheduler;  // warps
  double units, chunks;        // advances of a warp's tile; parts of the weights that are streamed
  double kept, given;          // vectors of sums: every split keeps its share, and gives the others away
  double starts, stores;       // issue slots of a warp
  Cost unit;
};

StageWork stage_work(const ResidentPlan& plan, const StagePlan& stage, int blocks, int element_bytes,
                     const ModelConstants& model) {
  const TileShape shape = tile_shape(plan.family, stage.tile, element_bytes);
  StageWork work{};
  work.busy = blocks * stage.row_tiles * stage.column_tiles * stage.splits;
  work.per_scheduler = ceil_div(work.busy, kSchedulers);
  work.units = ceil_div(stage.flat_rows / double(depth_of(plan.precision)), stage.splits);
  work.chunks = ceil_div(stage.flat_rows, stage.chunk);
  const double vectors = shape.thread_rows * shape.groups, taps = stage.kernel * stage.kernel;
  work.kept = vectors / stage.splits;
  work.given = vectors - work.kept;
  work.starts = model.start_cycles * (std::min(work.units, ceil_div(taps, stage.splits)) + work.chunks);
  work.stores = model.store_cycles * work.kept + model.exchange_cycles * work.given;
  work.unit = unit_cost(plan, shape, element_bytes, model);
  return work;
}

}  // namespace

double stage_slots(const ResidentPlan& plan, const StagePlan& stage, int blocks, int element_bytes,
                   const ModelConstants& model) {
  const StageWork work = stage_work(plan, stage, blocks, element_bytes, model);
  return work.per_scheduler * (work.units * work.unit.issue + work.starts + work.stores);
}

double stage_cycles(const ResidentPlan& plan, const StagePlan& stage, int blocks, int element_bytes,
                    const ModelConstants& model) {
  const StageWork work = stage_work(plan, stage, blocks, element_bytes, model);
  const double issue = std::max(work.per_scheduler * work.unit.issue, work.unit.issue + model.shared_latency_cycles);
  double cycles =
      std::max(work.units * issue + work.per_scheduler * work.starts, work.busy * work.units * work.unit.wavefronts);
  // What is given takes one store and one load each.
  cycles += work.per_scheduler * work.stores + kVectorWavefronts * work.busy * (work.kept + 2 * work.given);
  double bytes = stage.weight == kNotShared ? blocks * stage_bytes(stage, element_bytes) : 0;
  if (stage.scaled && stage.derivative == kNotShared)
    bytes += double(blocks) * plan.items * plan.pixels * stage.N_padded * element_bytes;
  if (bytes > 0) cycles = std::max(cycles + model.load_latency_cycles, bytes / model.l2_bytes_per_cycle);
  return cycles + (1 + work.chunks) * model.barrier_cycles + (stage.splits - 1) * model.shared_latency_cycles +
         model.product_cycles;
}

double resident_microseconds(const ResidentPlan& plan, const WalkRequest& request, int element_bytes, const Card& card,
                             const ModelConstants& model) {
  const int blocks = plan.blocks_per_multiprocessor;
  const double elements = blocks * double(plan.items) * plan.pixels * plan.event_pitch / plan.threads;  // of a thread
  double repeat = kRepeatBarriers * model.barrier_cycles + elements * model.element_cycles;
  double setup = model.setup_cycles + elements * model.element_setup_cycles, weights = 0;
  for (int i = 0; i < plan.stages; ++i) {
    const StagePlan& stage = plan.stage[i];
    repeat += stage_cycles(plan, stage, blocks, element_bytes, model);
    if (stage.weight != kNotShared) weights += blocks * stage_bytes(stage, element_bytes) / model.l2_bytes_per_cycle;
    setup += blocks * double(plan.items) * plan.pixels * stage.N_padded * element_bytes / model.l2_bytes_per_cycle;
  }
  const double rounds = ceil_div(double(plan.groups), double(card.multiprocessors) * blocks);
  const double cycles = weights + rounds * (setup + request.repeats * repeat);
  return cycles / model.clock_megahertz + model.launch_microseconds;
}

double layered_microseconds(const BranchShape& shape, const WalkRequest& request, Precision precision,
                            int element_bytes, const Card& card, const ModelConstants& model) {
  double microseconds = 0;
  for (int i = 0; i < shape.stages; ++i)
    microseconds +=
        model_product(product_shape(shape, request, i), precision, element_bytes, card, model).microseconds();
  const double finished = request.sums ? ceil_div(request.repeats, kTermsAtOnce) : 0;  // launches
  return request.repeats * microseconds + finished * model.launch_microseconds;
}

}  // namespace irf::cuda
