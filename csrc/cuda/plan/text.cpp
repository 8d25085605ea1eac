// Plans in words.
#include <cstdio>

#include "cuda/plan/plan.h"

namespace irf::cuda {
namespace {

const char* name_of(Family family) {
  constexpr const char* kNames[] = {"dense 4", "dense 8", "dense 16",     "dense 32",
                                    "image 7", "image 8", "tensor dense", "tensor image"};
  return kNames[static_cast<int>(family)];
}
const char* name_of(Precision precision) {
  constexpr const char* kNames[] = {"full", "tf32", "bf16"};
  return kNames[static_cast<int>(precision)];
}

const char* name_of(ProductRoute route) {
  constexpr const char* kNames[] = {"direct", "by taps", "library"};
  return kNames[static_cast<int>(route)];
}

template <class... Args>
void print(std::string& to, const char* format, Args... args) {
  char line[200];
  std::snprintf(line, sizeof line, format, args...);
  to += line;
}

// What the bytes of shared memory are for.
std::string shared_memory(const ResidentPlan& plan, int element_bytes) {
  const int rows = plan.items * plan.pixels, events = rows * plan.event_pitch * element_bytes;
  int weights = 0, derivatives = plan.entry != kNotShared ? events : 0;
  for (int i = 0; i < plan.stages; ++i) {
    const StagePlan& stage = plan.stage[i];
    if (stage.weight != kNotShared) weights += stage.flat_rows * stage.column_pitch * element_bytes;
    if (stage.derivative != kNotShared) derivatives += rows * stage.N_padded * element_bytes;
  }
  const int state = plan.positions * plan.pitch * element_bytes, stream = 2 * plan.stream_size * element_bytes;
  const int vectors = ((plan.first_vector != kNotShared) + (plan.second_vector != kNotShared)) * events;
  std::string text;
  print(text, "shared memory %d bytes: state %d, weights %d, streamed %d, derivatives %d, vectors %d, other %d\n",
        plan.shared_bytes, state, weights, stream, derivatives, vectors,
        plan.shared_bytes - state - weights - stream - derivatives - vectors);
  return text;
}

}  // namespace

std::string describe_plan(const ResidentPlan& plan, const Card& card, int element_bytes) {
  std::string text;
  print(text, "%s, %s precision: %s, %.0f us modelled\n", card.name, name_of(plan.precision),
        plan.resident ? "resident" : "layered", plan.microseconds);
  if (!plan.resident) return text;
  const double rounds = double(plan.groups) / plan.blocks;
  print(text, "%d items per block, %d threads, %d blocks (%d per multiprocessor), %lld groups in %.1f rounds\n",
        plan.items, plan.threads, plan.blocks, plan.blocks_per_multiprocessor, static_cast<long long>(plan.groups),
        rounds);
  print(text, "tiles of family %s\n", name_of(plan.family));
  text += shared_memory(plan, element_bytes);
  print(text, "%5s %6s %6s %7s  %-10s %-14s %6s  %-10s %s\n", "stage", "in", "out", "kernel", "tile", "tiles", "splits",
        "weights", "derivatives");
  for (int i = 0; i < plan.stages; ++i) {
    const StagePlan& stage = plan.stage[i];
    const TileShape tile = tile_shape(plan.family, stage.tile, element_bytes);
    char shape[24], tiles[24];
    std::snprintf(shape, sizeof shape, "%d x %d", tile.rows, tile.columns);
    std::snprintf(tiles, sizeof tiles, "%d x %d", stage.row_tiles, stage.column_tiles);
    print(text, "%5d %6d %6d %7d  %-10s %-14s %6d  %-10s %s\n", i, stage.K, stage.N, stage.kernel, shape, tiles,
          stage.splits, stage.weight != kNotShared ? "shared" : "streamed",
          !stage.scaled                    ? "none"
          : stage.derivative != kNotShared ? "shared"
                                           : "global");
  }
  return text;
}

std::string describe_walk(const BranchShape& shape, const WalkRequest& request, const ResidentPlan& plan,
                          const Card& card, int element_bytes) {
  std::string text = describe_plan(plan, card, element_bytes);
  if (plan.resident) return text;
  const ResidentPlan resident = plan_resident(shape, request, plan.precision, element_bytes, card);
  if (resident.resident)
    print(text, "a resident walk would take %.0f us modelled\n", resident.microseconds);
  else
    text += "no resident walk fits a multiprocessor\n";
  print(text, "%5s %6s %6s %7s  %-8s %7s %6s %6s  %s\n", "stage", "in", "out", "kernel", "route", "columns", "splits",
        "us", "chosen by");
  for (int j = 0; j < shape.stages; ++j) {
    const int i = request.kind == WalkKind::kTransposed ? shape.stages - 1 - j : j;
    const ProductShape product = product_shape(shape, request, i);
    const ProductPlan chosen = plan_product(product, plan.precision, element_bytes, card);
    print(text, "%5d %6d %6d %7d  %-8s %7d %6d %6.1f  %s\n", j, product.K, product.N, product.kernel,
          name_of(chosen.route), chosen.columns, chosen.splits, chosen.microseconds(),
          chosen.measured ? "measurement" : "model");
  }
  return text;
}

}  // namespace irf::cuda
