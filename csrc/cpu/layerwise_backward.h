// The gradient of a branch layer by layer: the twin of branch_backward in branch.h.
#pragma once

#include "cpu/layerwise.h"
#include "cpu/layerwise_gradients.h"
#include "cpu/layerwise_traces.h"
#include "cpu/packed_gradients.h"

namespace irf {
namespace IRF_ISA {
namespace {

// `grad` (zero if null) and weight / m times every cotangent, one after the other.
template <class T>
void load_cotangents(const LayerWalk<T>& walk, const BranchBackwardOperands<T>& op, int64_t first, T* target) {
  const int64_t n = walk.outputs().numbers(), size = n / walk.samples;
  if (op.grad)
    std::memcpy(target, op.grad + first * size, sizeof(T) * n);
  else
    std::memset(target, 0, sizeof(T) * n);
  for (int j = 0; j < op.pairs; ++j) {
    const T* source = op.cotangents + (j * walk.branch.batch + first) * size;
    target += n;
    each_share(walk.parallel, walk.samples, n, 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) {
        const Vector<T> weight = broadcast(op.weight[first + s] / static_cast<T>(op.pairs));
        each_vector<T>(s * size, (s + 1) * size, [&](int64_t k, int lanes) {
          store_first(target + k, weight * load_first(source + k, lanes), lanes);
        });
      }
    });
  }
}

// The tangents of a slab one after the other: of one pair, where the caller has them.
template <class T>
const T* load_tangents(const LayerWalk<T>& walk, const T* tangents, int64_t first, T* buffer) {
  if (walk.m == 0) return nullptr;
  if (walk.m == 1) return tangents + first * walk.size();
  for (int j = 0; j < walk.m; ++j)
    std::memcpy(buffer + j * walk.numbers(0), tangents + (j * walk.branch.batch + first) * walk.size(),
                sizeof(T) * walk.numbers(0));
  return buffer;
}

// The weight gradient of stage `i` from its `h` and the cotangents [1 + m] behind it: two at a time, as of one probe,
// each by itself where sums are long, and never all of them: longer ones round worse than those of the ordinary
// gradient.
template <class T>
void weight_gradient(const LayerWalk<T>& walk, int i, const T* cotangents, bool accumulate, T* result) {
  const int64_t inputs = walk.numbers(i),
                outputs = walk.samples * walk.branch.stage[i].out_channels * walk.branch.pixels();
  constexpr int64_t kLongSum = 2048;
  const int at_once = 2 * walk.samples * walk.branch.pixels() <= kLongSum ? 2 : 1;
  for (int j = 0; j <= walk.m; j += at_once)
    walk.library.weight_gradient(walk.library.context, i, walk.stage[i].h + j * inputs, cotangents + j * outputs,
                                 min_of(at_once, 1 + walk.m - j) * walk.samples, accumulate || j > 0, result);
}

// The gradient of stage i's bias from the cotangents behind it: added up over slabs, or, of a bias that is not shared,
// done.
template <class T>
void bias_gradient(const LayerWalk<T>& walk, int i, const T* cotangents, T* result) {
  const Stage<T>& stage = walk.branch.stage[i];
  const EventSizes sizes{walk.samples, stage.out_channels, walk.branch.pixels()};
  const Spread spread = stage.bias_spread;
  if (spread == Spread::kShared) return add_channel_sums(walk.parallel, sizes, cotangents, result);
  result += walk.first * sample_numbers(walk.branch, spread, stage.out_channels);
  set_bias_gradient(walk.parallel, sizes, spread, cotangents, result);
}

template <class T>
void layerwise_branch_backward(const Branch<T>& branch, const BranchBackwardOperands<T>& op, const Parallel& parallel,
                               const LibraryProducts<T>& library) {
  Workspace workspace;
  const LayerKept<T> kept(branch);
  const bool recall = op.pairs == 1 && kept.fits(op.kept, op.kept_size);
  LayerWalk<T> walk(branch, parallel, library, Leaves::kCurvature, recall ? Holds::kRecalled : Holds::kSeparate,
                    op.pairs, 1 + op.pairs, workspace);
  const int m = op.pairs;
  T* packed = op.grad_parameters;
  StageGradients<T>* gradients = unpack_gradients(branch, packed, workspace);
  T* const* map_gradients = unpack_map_gradients(op.traces, packed, workspace);
  const LayerTraceGradients<T> traces(walk, op.traces, op.weight, map_gradients, workspace);
  for (int i = 0; i < branch.stages; ++i) {
    if (gradients[i].bias && branch.stage[i].bias_spread == Spread::kShared)
      std::memset(gradients[i].bias, 0, sizeof(T) * branch.stage[i].out_channels);
    if (gradients[i].beta) *gradients[i].beta = T(0);
  }
  T* tangent_buffer = m > 1 ? walk.take_rows(m, branch.stage[0].in_channels, workspace) : nullptr;
  int64_t most = 0;
  for (int i = 0; i < branch.stages; ++i) most = max_of(most, walk.numbers(i));
  T* block_sums = workspace.take<T>(divide_up(most, kSlopeBlock));

  for_each_slab(walk, [&](int64_t first) {
    const T* tangents = load_tangents(walk, op.tangents, first, tangent_buffer);
    if (recall) kept.point(const_cast<T*>(op.kept), first, walk);  // only read
    walk.forward(op.x + first * walk.size(), tangents, recall ? 1 : branch.stages);
    T* const cotangents = walk.state;
    load_cotangents(walk, op, first, cotangents);
    traces.begin(recall);
    for (int i = branch.stages - 1; i >= 0; --i) {
      const Stage<T>& stage = branch.stage[i];
      const StageRows<T>& rows = walk.stage[i];
      const bool from_value = recall && i > 0 && known_from_value(stage);
      if (recall && i > 0 && !from_value) {
        const StageRows<T> again{rows.h, rows.d, rows.et, nullptr};
        walk.activate(i, rows.a, {}, rows.a + walk.numbers(i), again);
      }
      weight_gradient(walk, i, cotangents, first > 0, gradients[i].weight);
      if (stage.bias) bias_gradient(walk, i, cotangents, gradients[i].bias);
      if (i == 0 && !op.grad_x && !stage.beta && !stage.factor) break;
      const int bends = i == 0 && stage.straight() && !stage.factor ? 0 : m;  // else r_0 serves nobody
      const T* product = walk.multiply(i, true, cotangents, 1 + bends);
      if (stage.beta)
        *gradients[i].beta += slope_gradient_of_rows(stage, parallel, walk.inputs(i), m, walk.factor(i), product,
                                                     rows.a, traces.of_d[i], block_sums);
      if (stage.factor)
        set_factor_gradient<T>(
            stage.activation, parallel, walk.inputs(i), m, walk.parameters[i], stage.factor_spread, product, rows.a,
            traces.of_d[i],
            gradients[i].factor + first * sample_numbers(branch, stage.factor_spread, stage.in_channels));
      if (from_value)
        cotangent_rows_from_value(stage.activation, parallel, walk.numbers(i), m, product, rows.h, cotangents);
      else
        cotangent_rows(parallel, walk.numbers(i), bends, product, rows.d, rows.et, cotangents);
      traces.add_bend(i, cotangents);
    }
    if (!op.grad_x) return;
    add_rows(parallel, walk.inputs(0), cotangents, {}, op.residual && op.grad ? op.grad + first * walk.size() : nullptr,
             op.grad_x + first * walk.size());
  });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
