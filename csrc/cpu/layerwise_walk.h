// The layer-by-layer way over a branch: each linear map as one product of a library over all samples of a slab, with
// our own passes between. For branches whose weights are large against what one tile holds of the state (cpu/way.h).
#pragma once

#include "cpu/layerwise_rows.h"
#include "cpu/library.h"
#include "cpu/spread.h"
#include "cpu/workspace.h"

namespace irf {
namespace IRF_ISA {
namespace {

// A slab is as many samples as keep the rows of its widest stage within this, all `copies` of them: few enough for the
// last-level cache, enough for the full rate of a product.
constexpr int64_t kSlabBytes = int64_t(8) << 20;

// Of nothing but sizes, since what is kept of a forward pass lies by slabs.
template <class T>
int64_t slab_samples(const Branch<T>& branch, int copies) {
  int64_t widest = branch.stage[0].in_channels;
  for (int i = 0; i < branch.stages; ++i) widest = max_of(widest, int64_t(branch.stage[i].out_channels));
  const int64_t bytes = copies * widest * branch.pixels() * int64_t(sizeof(T));
  return min_of(branch.batch, max_of(int64_t(1), kSlabBytes / bytes));
}

// What a forward walk leaves of every stage.
enum class Leaves { kValue, kDerivatives, kCurvature };

// Whether a stage's `h` is read once, by the next product; or also later, by a weight gradient; or, but for that of the
// first stage, is what an earlier call kept, or made of it when it is wanted.
enum class Holds { kShared, kSeparate, kRecalled };

// Buffers and walks over one slab, of `most_samples` samples at most, with m tangents beside each.
template <class T>
struct LayerWalk {
  const Branch<T>& branch;
  const Parallel& parallel;
  const LibraryProducts<T>& library;
  const int stages, m;
  const int64_t most_samples;
  int64_t first = 0, samples;  // of this slab
  StageRows<T>* stage;         // [L]
  Parameters<T>* parameters;   // [L]
  T* state;                    // [copies] rows of the widest stage: of chains and cotangents

  LayerWalk(const Branch<T>& branch_, const Parallel& parallel_, const LibraryProducts<T>& library_, Leaves leaves,
            Holds holds, int tangents, int copies, Workspace& workspace)
      : branch(branch_),
        parallel(parallel_),
        library(library_),
        stages(branch_.stages),
        m(tangents),
        most_samples(slab_samples(branch_, max_of(2, max_of(1 + m, copies)))),
        samples(most_samples) {
    int widest = branch.stage[0].in_channels;
    for (int i = 0; i < stages; ++i) widest = max_of(widest, branch.stage[i].out_channels);
    stage = workspace.take<StageRows<T>>(stages);
    parameters = workspace.take<Parameters<T>>(stages);
    T* shared = holds == Holds::kSeparate ? nullptr : take_rows(1 + m, widest, workspace);
    for (int i = 0; i < stages; ++i) {
      const Stage<T>& s = branch.stage[i];
      parameters[i] = {slope_of(s), s.constant};
      stage[i] = {};
      const bool separate = holds == Holds::kSeparate || (holds == Holds::kRecalled && i == 0);
      stage[i].h = separate ? take_rows(1 + m, s.in_channels, workspace) : shared;
      if (holds == Holds::kRecalled && i > 0 && known_from_value(s)) continue;
      const bool curvature = leaves == Leaves::kCurvature;
      if (leaves != Leaves::kValue && !s.identity()) stage[i].d = take_rows(1, s.in_channels, workspace);
      if (curvature && m > 0 && !s.straight()) stage[i].et = take_rows(m, s.in_channels, workspace);
      if (curvature && (s.beta || s.factor)) stage[i].a = take_rows(1 + m, s.in_channels, workspace);
    }
    state = copies > 0 ? take_rows(copies, widest, workspace) : nullptr;
  }

  int64_t size() const { return branch.in_size(); }
  EventSizes inputs(int i) const { return {samples, branch.stage[i].in_channels, branch.pixels()}; }
  EventSizes outputs() const { return {samples, branch.stage[stages - 1].out_channels, branch.pixels()}; }
  int64_t numbers(int i) const { return inputs(i).numbers(); }

  const T* multiply(int i, bool transpose, const T* from, int64_t copies) const {
    return library.multiply(library.context, i, transpose, from, copies * samples);
  }

  // The bias of stage i and its factor, for the samples of this slab.
  RowOperand<T> bias(int i) const {
    const Stage<T>& s = branch.stage[i];
    return {from_sample(branch, s.bias, s.bias_spread, s.out_channels, first), s.bias_spread};
  }
  RowOperand<T> factor(int i) const {
    const Stage<T>& s = branch.stage[i];
    return {from_sample(branch, s.factor, s.factor_spread, s.in_channels, first), s.factor_spread};
  }

  // Fills `out` of stage i from a = source + bias and its tangents.
  void activate(int i, const T* source, const RowOperand<T>& bias, const T* tangents, const StageRows<T>& out) const {
    activate_rows<T>(branch.stage[i].activation, parallel, inputs(i), source, bias, tangents, m,
                     {parameters[i], factor(i)}, out);
  }

  // Events x and tangents [m] -> what stages `from` .. `last` - 1 leave.
  void forward(const T* x, const T* tangents, int last) const {
    activate(0, x, {}, tangents, stage[0]);
    for (int i = 0; i + 1 < last; ++i) {
      const T* product = multiply(i, false, stage[i].h, 1 + m);
      activate(i + 1, product, bias(i), product + numbers(i + 1), stage[i + 1]);
    }
  }

  // The last product of a forward walk: g without its bias, then J t of every tangent.
  const T* finish() const { return multiply(stages - 1, false, stage[stages - 1].h, 1 + m); }

  // J^T of `copies` slabs in `state`, but for the factor D_0; the result is the library's.
  const T* vjp(int copies) const {
    for (int i = stages - 1; i > 0; --i)
      scale_rows(parallel, numbers(i), copies, multiply(i, true, state, copies), stage[i].d, state);
    return multiply(0, true, state, copies);
  }

  // state <- J state
  void jvp() const {
    scale_rows(parallel, numbers(0), 1, state, stage[0].d, state);
    for (int i = 0; i + 1 < stages; ++i)
      scale_rows(parallel, numbers(i + 1), 1, multiply(i, false, state, 1), stage[i + 1].d, state);
    scale_rows(parallel, outputs().numbers(), 1, multiply(stages - 1, false, state, 1), static_cast<const T*>(nullptr),
               state);
  }

  T* take_rows(int copies, int channels, Workspace& workspace) const {
    return workspace.take<T>(copies * most_samples * branch.pixels() * channels);
  }
};

// Calls body(first) for every slab, after telling `walk` which samples it has.
template <class T, class Body>
void for_each_slab(LayerWalk<T>& walk, const Body& body) {
  for (int64_t first = 0; first < walk.branch.batch; first += walk.most_samples) {
    walk.first = first;
    walk.samples = min_of(walk.most_samples, walk.branch.batch - first);
    body(first);
  }
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
