#include "cuda/plan/costs.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "cuda/kept.h"
#include "cuda/layered/terms.h"
#include "cuda/plan/gradient.h"
#include "cuda/plan/model.h"
#include "cuda/plan/plan.h"

namespace irf::cuda {
namespace {

constexpr int kBytes = sizeof(float), kWide = 4;        // channels of a 16-byte vector
constexpr int kStagesOfPack = 16, kStagesOfGather = 8;  // that one launch serves

double ceil_div(double n, double m) { return std::ceil(n / m); }

// What a warp of a block of kGradientBlocks issues per chunk, counted in sm_90 machine code: the loop over chunks with
// its copies, and the turns of its inner loop.
struct GradientWork {
  double multiplies, slots;                // FMA
  double tensor_multiplies, tensor_slots;  // the same products on tensor cores, operands rounded before
};
constexpr GradientWork kGradientWork[] = {
    {1024, 1280, 32, 261}, {512, 724, 16, 211}, {512, 781, 16, 275}, {512, 743, 16, 238}};

// Lists the kernels of one precision; `microseconds` are those of plan/constants.h.
class Listing {
 public:
  Listing(const Branch<float>& branch, Precision precision, const Card& card, std::vector<LaunchedKernel>& kernels)
      : branch_(branch),
        shape_(shape_of(branch)),
        precision_(precision),
        card_(card),
        constants_(model_constants(card.architecture)),
        kernels_(kernels) {}

  void pack() {
    for (int first = 0; first < branch_.stages; first += kStagesOfPack) {
      double bytes = 0;
      for (int i = first; i < std::min(first + kStagesOfPack, branch_.stages); ++i)
        bytes += 2 * kBytes * weight_elements(i);
      stream("pack_kernel", bytes);
    }
  }

  // A forward walk that leaves z and the derivatives, and with a tangent J v and what is kept.
  void forward(bool tangent) {
    const WalkRequest request{WalkKind::kForward, 1, tangent ? 2 : 1, false, false};
    const ResidentPlan plan = plan_walk(shape_, request, precision_, kBytes, card_);
    const double kept = tangent ? double(kept_size(branch_, precision_)) * kBytes : 0;
    if (plan.resident) {
      double derivatives = 0;
      for (int i = 0; i < branch_.stages; ++i) derivatives += identity(i) ? 0 : rows_bytes(i);
      resident("resident_forward_kernel", plan, request, derivatives + kept + (tangent ? 4 : 2) * event_bytes());
      return;
    }
    to_rows(0, identity(0) ? 1 : 2);
    products(false, 0, branch_.stages);
    from_rows(2);
    if (!tangent) return;
    to_rows(0, 1);
    products(false, 0, branch_.stages);
  }

  // The power chain; with a tangent its last term is one inner product.
  void chain(const LogdetStep& step, bool tangent) {
    const WalkRequest request{WalkKind::kTransposed, 1, step.terms, true, step.training};
    const ResidentPlan plan = plan_walk(shape_, request, precision_, kBytes, card_);
    const int walked = step.terms - (tangent ? 1 : 0);
    if (plan.resident) {
      WalkRequest run = request;
      run.repeats = walked;
      double derivatives = 0;
      for (int i = 0; i < branch_.stages; ++i)
        if (!identity(i)) derivatives += rows_bytes(i) * (in_shared_memory(plan, i) ? 1 : walked);
      resident("resident_chain_kernel", plan, run,
               derivatives + (1 + (tangent ? 1 : 0) + (step.training ? 1 : 0)) * event_bytes());
      return;
    }
    to_rows(0, step.training ? 2 : 1);
    stream("start_series_kernel", rows_bytes(0));
    for (int k = 1; k <= walked; ++k) {
      const ProductPlan last = products(true, 0, branch_.stages);
      const double partials = 2 * ceil_div(padded(0), last.epilogue_columns) * rows();
      const bool finished = k % kTermsAtOnce == 0 || k == walked;
      if (finished) stream("finish_terms_kernel", ((k - 1) % kTermsAtOnce + 1) * partials * kBytes);
    }
    if (tangent) stream("shortcut_kernel", 2 * rows_bytes(0));
    if (step.training) from_rows(1);
  }

  // `recall`: the branch and its tangents are not walked again.
  void backward(bool recall) {
    pack();  // the transposed form
    if (!recall) pack();
    const int last = branch_.stages;
    to_rows(0, identity(0) ? 1 : 2);
    if (!recall) products(false, 0, last - 1);
    to_rows(0, straight(0) ? 1 : 2);  // the tangents
    if (!recall) products(false, 0, last - 1);
    to_rows(last, 1);  // the cotangents
    products(true, straight(0) ? 1 : 0, last);
    to_rows(last, 1);  // the gradient of z
    products(true, 0, last);
    from_rows(2);
    double partials = 0;
    for (int i = 0; i < last; ++i) partials += weight_gradient(i);
    for (int first = 0; first < last; first += kStagesOfGather)
      stream("gather_kernel", partials * ceil_div(std::min(kStagesOfGather, last - first), last));
  }

 private:
  bool identity(int i) const { return branch_.stage[i].identity(); }
  bool straight(int i) const { return branch_.stage[i].straight(); }
  int channels(int i) const {
    return i < branch_.stages ? branch_.stage[i].in_channels : branch_.stage[i - 1].out_channels;
  }
  double padded(int i) const { return channel_pad(channels(i), precision_); }
  double rows() const { return double(branch_.batch) * branch_.pixels(); }
  double rows_bytes(int i) const { return rows() * padded(i) * kBytes; }
  double event_bytes() const { return rows() * channels(0) * kBytes; }
  double weight_elements(int i) const {
    const Stage<float>& stage = branch_.stage[i];
    return double(stage.in_channels) * stage.out_channels * stage.kernel * stage.kernel;
  }
  double memory_microseconds(double bytes) const {
    return bytes / card_.multiprocessors / constants_.memory_bytes_per_cycle / constants_.clock_megahertz;
  }

  void add(const char* name, const KernelCost& cost, int64_t blocks = 0) { kernels_.push_back({name, blocks, cost}); }

  // A kernel that only moves data.
  void stream(const char* name, double bytes) {
    const double latency = 2 * constants_.load_latency_cycles / constants_.clock_megahertz;
    add(name, {0, bytes, constants_.launch_microseconds + latency + memory_microseconds(bytes)});
  }
  void to_rows(int i, int buffers) {
    stream("to_rows_kernel", rows() * channels(i) * kBytes + buffers * rows_bytes(i));
  }
  void from_rows(int arrays) { stream("from_rows_kernel", rows_bytes(0) + arrays * event_bytes()); }

  // The products of stages first to last - 1, down from the last where `transposed`; returns the plan of the last one.
  ProductPlan products(bool transposed, int first, int last) {
    ProductPlan plan{};
    for (int j = first; j < last; ++j) {
      const int i = transposed ? last - 1 - (j - first) : j;
      const int K = channels(transposed ? i + 1 : i), N = channels(transposed ? i : i + 1);
      plan = plan_product({K, N, branch_.stage[i].kernel, branch_.batch * branch_.pixels()}, precision_, kBytes, card_);
      add(plan.route == ProductRoute::kLibrary ? "library product" : "stage_product_kernel", plan.multiply);
      if (plan.gathered()) add("gather_sums_kernel", plan.gather);
    }
    return plan;
  }

  // Whether the derivatives of stage i lie in shared memory. A chain of J^T runs the stages from the last to the first,
  // and multiplies by D_i after A_i^T.
  bool in_shared_memory(const ResidentPlan& plan, int i) const {
    return plan.stage[branch_.stages - 1 - i].derivative != kNotShared;
  }

  // `events`: bytes of global memory besides the weights, which pass once to last; the time of the plan does not know
  // them, and they are added to it.
  void resident(const char* name, const ResidentPlan& plan, const WalkRequest& request, double events) {
    const double rounds = ceil_div(double(plan.groups), double(card_.multiprocessors) * plan.blocks_per_multiprocessor);
    double slots = 0, weights = 0;
    for (int i = 0; i < plan.stages; ++i) {
      const StagePlan& stage = plan.stage[i];
      const double bytes = double(stage.flat_rows) * stage.column_pitch * kBytes;
      slots += stage_slots(plan, stage, plan.blocks_per_multiprocessor, kBytes, constants_);
      weights += bytes * (stage.weight != kNotShared ? plan.blocks : double(plan.groups) * request.repeats);
    }
    add(name, {rounds * request.repeats * slots, weights + events,
               resident_microseconds(plan, request, kBytes, card_, constants_) + memory_microseconds(events)});
  }

  // Returns the bytes of the splits' sums.
  double weight_gradient(int i) {
    const Stage<float>& stage = branch_.stage[i];
    const double columns = stage.kernel * stage.kernel * ceil_div(stage.in_channels, kWide) * kWide;
    const auto tiles = [&](const GradientBlock& block) {
      return ceil_div(stage.out_channels, block.rows) * ceil_div(columns, block.columns);
    };
    const GradientBlock* chosen = std::min_element(
        std::begin(kGradientBlocks), std::end(kGradientBlocks), [&](const GradientBlock& a, const GradientBlock& b) {
          return tiles(a) * a.rows * a.columns < tiles(b) * b.rows * b.columns;
        });
    const GradientBlock& tile = *chosen;
    const GradientWork& work = kGradientWork[chosen - kGradientBlocks];
    const double chunks = 2 * ceil_div(rows(), tile.depth);  // of both pairs of rows
    const double wanted = std::floor(double(kGradientBlocksAtOnce) * card_.multiprocessors / tiles(tile));
    const double splits = std::max(1.0, std::min(wanted, std::floor(chunks / kLeastGradientChunks)));
    const double blocks = tiles(tile) * splits, here = ceil_div(blocks, card_.multiprocessors);
    const double partials = splits * ((columns + 1) * stage.out_channels + 1) * kBytes;
    const double bytes = 2 * (rows_bytes(i) + rows_bytes(i + 1)) + partials;

    const bool tensor = precision_ != Precision::kFull;
    const double slots = tensor ? work.tensor_slots : work.slots;
    const double issue =
        std::max(slots * constants_.layered_slot_cycles, tensor ? work.tensor_multiplies * constants_.layered_mma_cycles
                                                                : work.multiplies * constants_.float_fma_cycles);
    // A chunk is copied while the one before it is multiplied.
    const double share = ceil_div(chunks, splits), rounds = ceil_div(here, kGradientBlocksAtOnce);
    const double arrival = rounds * (std::max(issue, constants_.load_latency_cycles) + constants_.barrier_cycles);
    const double compute = (share * std::max(here * issue, arrival) + rounds * constants_.layered_product_cycles) /
                           constants_.clock_megahertz;
    add("weight_gradient_kernel",
        {share * here * slots, bytes, constants_.launch_microseconds + std::max(compute, memory_microseconds(bytes))},
        static_cast<int64_t>(blocks));
    return partials;
  }

  const Branch<float>& branch_;
  const BranchShape shape_;
  const Precision precision_;
  const Card& card_;
  const ModelConstants& constants_;
  std::vector<LaunchedKernel>& kernels_;
};

}  // namespace

std::vector<LaunchedKernel> logdet_kernels(const Branch<float>& branch, const LogdetStep& step, Precision wanted,
                                           const Card& card) {
  std::vector<LaunchedKernel> kernels;
  const BranchShape shape = shape_of(branch);
  const Precision forward =
      cheapest_precision(shape, {WalkKind::kTransposed, 1, step.terms, true, step.training}, wanted, kBytes, card);
  const int64_t size = kept_size(branch, forward);
  const bool kept = step.training && size > 0 && size * kBytes <= card.memory / kKeptShare;
  Listing walk(branch, forward, card, kernels);
  walk.pack();
  walk.forward(kept);
  walk.pack();
  walk.chain(step, kept);
  if (!step.training) return kernels;
  // What was kept decides; else one pair of vectors goes beside every sample.
  const Precision cheapest =
      cheapest_layered_precision(shape, {WalkKind::kForward, 2, 1, false, false}, wanted, kBytes, card);
  Listing(branch, kept ? forward : cheapest, card, kernels).backward(kept);
  return kernels;
}

}  // namespace irf::cuda
