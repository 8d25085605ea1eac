#include "cpu/way.h"

#include <atomic>

namespace irf {
namespace {

enum class Forced { kNo, kTiles, kLayers };
std::atomic<Forced> forced{Forced::kNo};

// Below so many weights in all tiles always win, and counting would take longer than it saves.
constexpr int64_t kLeastWeights = int64_t(1) << 16;

// Pixels of an image above which tiles are taken: in the sweep, whose images have 4 x 4, 8 x 8 and more, they were
// never more than 3 % slower from 8 x 8 on, and on 4 x 4 up to 1.6 times as slow.
constexpr int64_t kSmallImage = 25;

// A convolution of a library turns its weights around in every call, which costs about as much as reading them so
// often.
constexpr double kReadsOfTurning = 8;

template <class T>
int64_t weights_of(const Stage<T>& stage) {
  return int64_t(stage.in_channels) * stage.out_channels * stage.kernel * stage.kernel;
}

}  // namespace

// Fitted to times of both ways by `benchmarks/bench_sweep.py --fit`, which prints these lines; benchmarks/README.md
// says how.
constinit const WayConstants kDenseConstants{
    .tiles = {0.0184, 0.0558, 0.354, 0},
    .layers = {0.0312, 0, 0.331, 1.01, 3.49e+03},
};
constinit const WayConstants kConvolutionConstants{
    .tiles = {0.0181, 0.0372, 0.0699, 1.91},
    .layers = {0, 0.0151, 0.0917, 4.14, 1.07e+05},
};

template <class T>
WayCounts way_counts(const Branch<T>& branch, const Work& work, int threads, const TileSizes& tiles) {
  const double pixels = double(branch.pixels()), samples = double(branch.batch);
  const double products = double(work.stacked + work.chain);
  const double vectors = double(work.stacked * work.events + work.chain * work.probes);  // of every sample
  WayCounts counts{};
  for (int i = 0; i < branch.stages; ++i) {
    const Stage<T>& stage = branch.stage[i];
    const double weights = double(weights_of(stage)), gradients = work.gradients ? double(work.events) : 0;
    const double on_tile = weights * double(tiles.columns * tiles.tiles);
    counts.tiles[0] += vectors * on_tile;
    counts.tiles[1] += gradients * on_tile;
    counts.tiles[2] += vectors * weights * double(tiles.tiles);
    counts.tiles[3] += 2 * weights / threads;
    counts.layers[branch.dense() ? 0 : 1] += (vectors + gradients) * weights * samples * pixels / threads;
    counts.layers[2] += (products + gradients) * weights * (branch.dense() ? 1 : kReadsOfTurning) / threads;
    counts.layers[3] += vectors * double(stage.in_channels) * samples * pixels / threads;
    counts.layers[4] += products + (work.gradients ? 1 : 0);
  }
  return counts;
}

WayTimes way_times(const WayCounts& counts, bool dense) {
  const WayConstants& constants = dense ? kDenseConstants : kConvolutionConstants;
  WayTimes times{};
  for (int i = 0; i < kTileCounts; ++i) times.tiles += counts.tiles[i] * constants.tiles[i];
  for (int i = 0; i < kLayerCounts; ++i) times.layers += counts.layers[i] * constants.layers[i];
  return times;
}

template <class T>
Way choose_way(const Branch<T>& branch, const Work& work, const Parallel& parallel, const Kernels<T>& kernels) {
  const Forced wanted = forced.load(std::memory_order_relaxed);
  if (wanted != Forced::kNo) return wanted == Forced::kLayers ? Way::kLayers : Way::kTiles;
  int64_t weights = 0;
  for (int i = 0; i < branch.stages; ++i) weights += weights_of(branch.stage[i]);
  // Torch has no fast convolution of float64.
  if (weights < kLeastWeights || (!branch.dense() && (sizeof(T) == 8 || branch.pixels() > kSmallImage)))
    return Way::kTiles;
  const WayCounts counts = way_counts(branch, work, parallel.threads, kernels.tile_sizes(branch, parallel));
  const WayTimes times = way_times(counts, branch.dense());
  return times.layers < times.tiles ? Way::kLayers : Way::kTiles;
}

bool force_way(const std::string& name) {
  if (name != "" && name != "tiles" && name != "layers") return false;
  forced = name == "" ? Forced::kNo : name == "tiles" ? Forced::kTiles : Forced::kLayers;
  return true;
}

template WayCounts way_counts(const Branch<float>&, const Work&, int, const TileSizes&);
template WayCounts way_counts(const Branch<double>&, const Work&, int, const TileSizes&);
template Way choose_way(const Branch<float>&, const Work&, const Parallel&, const Kernels<float>&);
template Way choose_way(const Branch<double>&, const Work&, const Parallel&, const Kernels<double>&);

}  // namespace irf
