// Where the arrays of a layer live while its norm is iterated: in shared memory as far as they fit, state else in the
// results and packed weights in the workspace. Plain C++.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cuda/device/card.h"
#include "iresnet_fast/activations.h"
#include "iresnet_fast/params.h"

namespace irf::cuda {

constexpr int kNormThreads = 512;
constexpr int kNormWarps = kNormThreads / 32;
constexpr int kElsewhere = -1;
constexpr int kWidestRow = 4;  // vectors a lane holds of a row of a matrix

// One row of the table the kernel reads; a block takes one.
template <class T>
struct NormTask {
  NormLayer<T> layer;
  T *u, *v;  // results, and state that is not in shared memory
  // Convolutions: packed weights of A and of A^T, and the table of sources. In the workspace if not in shared memory;
  // all offsets here are in elements of T or kElsewhere.
  int64_t forward, transposed, sources;
  int forward_at, transposed_at, sources_at;
  int weight_at;  // matrices: rows of packed_columns
  int image_at;   // matrices: A^T A v, which one pass over the rows yields together with A v
  int u_at, v_at;
  int u_size, v_size, out_height, out_width;
  int index;  // of the layer
};

// Packed weights have the channels a product yields adjacent, in the vectors of a thread's tile.
template <class T>
constexpr IRF_HOST_DEVICE int tile_vectors(int channels) {
  return channels * static_cast<int>(sizeof(T)) <= 16 ? 1 : 2;
}
template <class T>
constexpr IRF_HOST_DEVICE int packed_columns(int channels) {
  const int tile = tile_vectors<T>(channels) * 16 / static_cast<int>(sizeof(T));
  return (channels + tile - 1) / tile * tile;
}
// An odd number of vectors: packing goes down the columns, and 8 rows then lie in different banks.
template <class T>
constexpr IRF_HOST_DEVICE int packed_pitch(int channels) {
  const int vector = 16 / static_cast<int>(sizeof(T)), columns = packed_columns<T>(channels);
  return columns / vector % 2 ? columns : columns + vector;
}

// Shared memory begins with room for sums over the block, and for matrices over the warps of every lane's vector.
constexpr int kSums = 32;
template <class T>
constexpr int kLaneSums = kNormThreads * 16 / static_cast<int>(sizeof(T));

template <class T>
struct NormPlan {
  std::vector<NormTask<T>> tasks;  // the longest first: blocks start in this order, so that the short ones fill gaps
  int64_t shared = 0;              // elements
  int64_t workspace = 0;           // elements beside the table
};

namespace {

template <class T>
struct SharedMemory {
  int64_t used, size;

  int take(int64_t count) {
    const int64_t vector = 16 / sizeof(T), rounded = (count + vector - 1) / vector * vector;
    if (used + rounded > size) return kElsewhere;
    used += rounded;
    return static_cast<int>(used - rounded);
  }
};

template <class T>
void place_matrix(NormTask<T>& task, SharedMemory<T>& memory) {
  const int columns = task.layer.in_channels;
  const int64_t vector = 16 / sizeof(T), pitch = (columns + vector - 1) / vector * vector;
  memory.used += kLaneSums<T>;
  task.u_at = memory.take(task.layer.out_channels);
  task.v_at = memory.take(columns);
  task.image_at = columns <= kWidestRow * 32 * vector ? memory.take(columns) : kElsewhere;
  task.weight_at = memory.take(task.layer.out_channels * pitch);
  task.forward_at = task.transposed_at = task.sources_at = kElsewhere;
}

template <class T>
void place_convolution(NormTask<T>& task, SharedMemory<T>& memory, int64_t& workspace) {
  const NormLayer<T>& layer = task.layer;
  const int out = layer.out_channels / layer.groups, in = layer.in_channels / layer.groups;
  const int64_t taps = int64_t(layer.kernel_height) * layer.kernel_width;
  const int64_t forward = layer.in_channels * taps * packed_pitch<T>(out);
  const int64_t transposed = layer.out_channels * taps * packed_pitch<T>(in);
  const int64_t sources =
      std::max(int64_t(layer.kernel_height) * layer.height + int64_t(layer.kernel_width) * layer.width,
               int64_t(layer.kernel_height) * task.out_height + int64_t(layer.kernel_width) * task.out_width);
  const int64_t sources_size = sources * sizeof(int) / sizeof(T) + 1;
  task.sources_at = memory.take(sources_size);
  task.v_at = memory.take(task.v_size);
  task.u_at = memory.take(task.u_size);
  task.forward_at = memory.take(forward);
  task.transposed_at = memory.take(transposed);
  task.weight_at = task.image_at = kElsewhere;
  const int64_t vector = 16 / sizeof(T);
  auto in_workspace = [&](int64_t size) {
    const int64_t at = workspace;
    workspace += (size + vector - 1) / vector * vector;
    return at;
  };
  if (task.forward_at == kElsewhere) task.forward = in_workspace(forward);
  if (task.transposed_at == kElsewhere) task.transposed = in_workspace(transposed);
  if (task.sources_at == kElsewhere) task.sources = in_workspace(sources_size);
}

// `static_bytes`: of shared memory that the kernel declares itself, at most.
template <class T, template <class> class Operands>
NormPlan<T> plan_norms(const Operands<T>& op, const Card& card, int static_bytes) {
  NormPlan<T> plan;
  const int64_t size = (card.shared_per_block - static_bytes) / int64_t(sizeof(T));
  for (int i = 0; i < op.layers; ++i) {
    NormTask<T> task{};
    task.layer = op.layer[i];
    task.u = op.u[i];
    task.v = op.v[i];
    task.u_size = static_cast<int>(op.layer[i].u_size());
    task.v_size = static_cast<int>(op.layer[i].v_size());
    task.index = i;
    SharedMemory<T> memory{kSums, size};
    if (task.layer.matrix()) {
      task.out_height = task.out_width = 1;
      place_matrix(task, memory);
    } else {
      task.out_height = task.layer.out_height();
      task.out_width = task.layer.out_width();
      place_convolution(task, memory, plan.workspace);
    }
    plan.shared = std::max(plan.shared, memory.used);
    plan.tasks.push_back(task);
  }
  auto work = [](const NormTask<T>& task) { return task.layer.weight_size() * task.out_height * task.out_width; };
  std::stable_sort(plan.tasks.begin(), plan.tasks.end(),
                   [&](const NormTask<T>& a, const NormTask<T>& b) { return work(a) > work(b); });
  return plan;
}

}  // namespace
}  // namespace irf::cuda
