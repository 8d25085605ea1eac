#include "cuda/plan/product.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "cuda/device/pack.h"
#include "cuda/plan/measured.h"

namespace irf::cuda {
namespace {

// One step of a block's pipeline: 64 bytes of every row of A. Of each of its four warps, one on every scheduler.
struct Step {
  int columns;
  double multiplies;       // FMA instructions, or fragment products on tensor cores
  double slots;            // issue slots, these included
  double exposed_latency;  // cycles that a warp alone on its scheduler waits besides
};

// Counted in sm_90 machine code, the outer loop with its copies and the inner loop (docs/cuda-evidence.md shows the
// loops).
constexpr Step kFullSteps[] = {{64, 1024, 1237, 200}, {32, 512, 716, 130}, {16, 256, 438, 95}};
constexpr Step kTf32Steps[] = {{64, 32, 188, 150}, {16, 8, 145, 100}};
constexpr Step kBf16Steps[] = {{64, 32, 196, 150}, {16, 8, 144, 100}};
constexpr Step kDoubleStep = {32, 256, 429, 200};

constexpr int kStepBytes = 64;
constexpr int kMostBlocks = 4;  // of a multiprocessor, by their static shared memory and registers
constexpr int kMostSplits = 8;
constexpr int kLeastSteps = 8;  // of a split: below, filling its pipeline costs more than it saves
// Sums may always take this much, and beyond it no more than the wider of the rows that a product reads and writes.
constexpr double kFreeSumsBytes = 64 << 20;

double ceil_div(double n, double m) { return std::ceil(n / m); }

int operand_bytes(Precision precision, int element_bytes) {
  return precision == Precision::kBf16 && element_bytes == 4 ? 2 : element_bytes;
}

double multiply_cycles(Precision precision, int element_bytes, const ModelConstants& model) {
  if (element_bytes == 8) return model.double_fma_cycles;
  return precision == Precision::kFull ? model.float_fma_cycles : model.layered_mma_cycles;
}

// Columns of the part of a row that the gathering kernel's lanes hold: 4 or 16 lanes, 16 bytes each.
int gathering_columns(int columns, int element_bytes) {
  const int vector = 16 / element_bytes;
  return vector * (columns <= 4 * vector ? 4 : 16);
}

struct Model {
  const ProductShape& shape;
  Precision precision;
  int element_bytes;
  const Card& card;
  const ModelConstants& constants;

  int K() const { return channel_pad(shape.K, precision); }
  int N() const { return channel_pad(shape.N, precision); }
  int taps() const { return shape.kernel * shape.kernel; }
  double rows() const { return double(shape.rows); }
  double operand_bytes() const { return rows() * K() * irf::cuda::operand_bytes(precision, element_bytes); }
  // What an epilogue reads and writes besides the sums: one buffer of rows each.
  double epilogue_bytes() const { return 2 * rows() * N() * element_bytes; }
  double widest_bytes() const { return rows() * std::max(K(), N()) * element_bytes; }
  double sums_bytes(const ProductPlan& plan) const {
    return double(gathered_elements(plan, shape, precision)) * element_bytes;
  }

  double microseconds(double cycles) const {
    return cycles / constants.clock_megahertz + constants.launch_microseconds;
  }
  double memory_cycles(double bytes) const { return bytes / card.multiprocessors / constants.memory_bytes_per_cycle; }
  // Of sums that one kernel writes and the next reads: from L2 where they fit beside what else is read.
  double sums_cycles(double bytes) const {
    const bool cached = 2 * bytes <= double(card.l2_bytes);
    return bytes / card.multiprocessors / (cached ? constants.l2_bytes_per_cycle : constants.memory_bytes_per_cycle);
  }

  KernelCost multiply(const ProductPlan& plan, const Step& step) const {
    const bool by_taps = plan.route == ProductRoute::kByTaps;
    const double flat = double(by_taps ? 1 : taps()) * K(), columns = by_taps ? double(taps()) * N() : N();
    const double steps = ceil_div(flat * irf::cuda::operand_bytes(precision, element_bytes), kStepBytes);
    const double tiles = ceil_div(rows(), kProductRows) * ceil_div(columns, step.columns) * plan.splits;
    const double blocks = ceil_div(tiles, card.multiprocessors), rounds = ceil_div(blocks, kMostBlocks);
    const double share = ceil_div(steps, plan.splits), slots = step.slots * constants.layered_slot_cycles;
    const double issue = std::max(step.multiplies * multiply_cycles(precision, element_bytes, constants), slots);
    const double compute = share * std::max(blocks * issue, rounds * (issue + step.exposed_latency));
    const double sums = sums_bytes(plan), other = operand_bytes() + (plan.gathered() ? 0 : epilogue_bytes());
    const double memory = memory_cycles(other) + sums_cycles(sums);
    return {share * blocks * step.slots, other + sums,
            microseconds(std::max(compute + rounds * constants.layered_product_cycles, memory))};
  }

  // In favour of the library: whatever the shape, it keeps all multiprocessors busy; but no tile has less than 32
  // columns.
  KernelCost library(const ProductPlan& plan) const {
    const double multiplies = rows() * taps() * K() * ((shape.N + 31) / 32 * 32);
    const double rate =
        precision == Precision::kFull ? constants.library_full_multiplies : constants.library_tf32_multiplies;
    const double sums = sums_bytes(plan), memory = memory_cycles(operand_bytes()) + sums_cycles(sums);
    const double cycles = std::max(multiplies / card.multiprocessors / rate, memory) + constants.layered_product_cycles;
    return {0, operand_bytes() + sums, microseconds(cycles)};
  }

  KernelCost gather(const ProductPlan& plan) const {
    const double sums = sums_bytes(plan), cycles = sums_cycles(sums) + memory_cycles(epilogue_bytes());
    return {0, sums + epilogue_bytes(), microseconds(2 * constants.load_latency_cycles + cycles)};
  }
};

// What has been measured of a product; null if nothing has.
const MeasuredProduct* measured_product(const ProductShape& shape, Precision precision, int element_bytes,
                                        const Card& card) {
  for (const MeasuredProduct& row : kMeasuredProducts) {
    const bool same = row.architecture == card.architecture && row.multiprocessors == card.multiprocessors &&
                      row.precision == precision && element_bytes == 4 &&
                      channel_pad(row.shape.K, precision) == channel_pad(shape.K, precision) &&
                      channel_pad(row.shape.N, precision) == channel_pad(shape.N, precision) &&
                      row.shape.kernel == shape.kernel;
    const double ratio = double(shape.rows) / double(row.shape.rows);
    if (same && ratio <= kMeasuredRows && ratio >= 1 / kMeasuredRows) return &row;
  }
  return nullptr;
}

// The fastest by the model, of all routes or of one.
ProductPlan fastest(const ProductShape& shape, Precision precision, int element_bytes, const Card& card,
                    const ModelConstants& constants, const ProductRoute* only) {
  const Model model{shape, precision, element_bytes, card, constants};
  ProductPlan best{};
  double least = INFINITY;
  const auto consider = [&](ProductRoute route, const Step* step, int splits) {
    if (only && route != *only) return;
    // The gathering kernel counts rows in 32 bits.
    if ((route != ProductRoute::kDirect || splits > 1) && shape.rows > INT32_MAX) return;
    ProductPlan plan{};
    plan.route = route;
    plan.columns = step ? step->columns : 0;
    plan.splits = splits;
    if (model.sums_bytes(plan) > std::max(kFreeSumsBytes, model.widest_bytes())) return;
    plan.epilogue_columns = plan.gathered() ? gathering_columns(model.N(), element_bytes) : plan.columns;
    plan.multiply = step ? model.multiply(plan, *step) : model.library(plan);
    if (plan.gathered()) plan.gather = model.gather(plan);
    // A library must save at least a launch, since its call takes the host as long as several.
    const double cost = plan.microseconds() + (step ? 0 : constants.launch_microseconds);
    if (cost < least) best = plan, least = cost;
  };
  const auto consider_tile = [&](const Step& step) {
    const int flat = model.K() * operand_bytes(precision, element_bytes) / kStepBytes;
    for (int splits = 1; splits <= kMostSplits; ++splits) {
      if (splits == 1 || model.taps() * flat / splits >= kLeastSteps) consider(ProductRoute::kDirect, &step, splits);
      if (shape.kernel > 1 && (splits == 1 || flat / splits >= kLeastSteps))
        consider(ProductRoute::kByTaps, &step, splits);
    }
  };
  if (element_bytes == 8) {
    consider_tile(kDoubleStep);
    return best;
  }
  if (precision == Precision::kFull)
    for (const Step& step : kFullSteps) consider_tile(step);
  else
    for (const Step& step : precision == Precision::kTf32 ? kTf32Steps : kBf16Steps) consider_tile(step);
  // torch's operators would round the sums of bf16 operands to bf16.
  if (card.libraries && precision != Precision::kBf16) consider(ProductRoute::kLibrary, nullptr, 1);
  return best;
}

}  // namespace

int gathered_columns(const ProductPlan& plan, const ProductShape& shape, Precision precision) {
  const int columns = channel_pad(shape.N, precision);
  return plan.route == ProductRoute::kByTaps ? shape.kernel * shape.kernel * columns : columns;
}

int64_t gathered_elements(const ProductPlan& plan, const ProductShape& shape, Precision precision) {
  return plan.gathered() ? plan.splits * shape.rows * gathered_columns(plan, shape, precision) : 0;
}

ProductPlan plan_route(const ProductShape& shape, ProductRoute route, Precision precision, int element_bytes,
                       const Card& card) {
  return fastest(shape, precision, element_bytes, card, model_constants(card.architecture), &route);
}

ProductPlan model_product(const ProductShape& shape, Precision precision, int element_bytes, const Card& card,
                          const ModelConstants& constants) {
  return fastest(shape, precision, element_bytes, card, constants, nullptr);
}

ProductPlan plan_product(const ProductShape& shape, Precision precision, int element_bytes, const Card& card) {
  constexpr size_t kRemembered = 4096;  // a walk asks for the same few products again and again
  thread_local std::map<std::array<int64_t, 10>, ProductPlan> remembered;
  const std::array<int64_t, 10> key = {channel_pad(shape.K, precision),
                                       channel_pad(shape.N, precision),
                                       shape.kernel,
                                       shape.rows,
                                       static_cast<int>(precision),
                                       element_bytes,
                                       card.architecture,
                                       card.multiprocessors,
                                       card.libraries,
                                       card.l2_bytes};
  if (const auto found = remembered.find(key); found != remembered.end()) return found->second;
  if (remembered.size() == kRemembered) remembered.clear();
  const ModelConstants& constants = model_constants(card.architecture);
  ProductPlan plan{};
  if (const MeasuredProduct* measured = measured_product(shape, precision, element_bytes, card)) {
    plan = fastest(shape, precision, element_bytes, card, constants, &measured->fastest);
    plan.measured = true;
  }
  if (plan.splits == 0)
    plan = fastest(shape, precision, element_bytes, card, constants, nullptr);  // no such route here
  return remembered[key] = plan;
}

}  // namespace irf::cuda
