// The exact first terms of a series on tiles (docs/mathematics.md, 3a): their values from the derivatives D_i that a
// forward walk froze, and what their gradient adds to those of the D_i and of the maps.
#pragma once

#include "cpu/activation_backward.h"
#include "cpu/parameter_sums.h"
#include "cpu/value_ratio.h"

namespace irf {
namespace IRF_ISA {
namespace {

// sums[s] = the sum of d * other over the channels and pixels of every sample, in runs: a sum of sums rounds less than
// one as long. `other(c, column)` gives a vector.
template <class T, class Other>
void trace_sums(const Layout<T>& layout, const T* d, int channels, const Other& other, T* sums) {
  Vector<T> of_pixels{};
  for (int j = 0; j < layout.vectors; ++j) {
    const int column = layout.position[j];
    Vector<T> total{};
    for (int first = 0; first < channels; first += kLongestRun) {
      Vector<T> run{};
      for (int c = first; c < min_of(channels, first + kLongestRun); ++c)
        run = fma(load(d + layout.size(c) + column), other(c, column), run);
      total += run;
    }
    if (layout.dense) store(sums + column, total);
    of_pixels += total;
  }
  if (!layout.dense) gather(layout, of_pixels, sums);
}

// What the threads of a call share: the maps with a right stage packed for products, those of images without one as
// tiles.
template <class T>
struct PreparedTraces {
  const Branch<T>& branch;
  const Traces<T>& traces;
  PackedWeights<T>* forward;     // [count]
  PackedWeights<T>* transposed;  // [count], only of gradients
  T** tile;                      // [count]

  PreparedTraces(const Prepared<T>& prepared, const Traces<T>& traces_, bool gradients, Workspace& workspace)
      : branch(prepared.branch), traces(traces_) {
    forward = workspace.take<PackedWeights<T>>(traces.count);
    transposed = workspace.take<PackedWeights<T>>(traces.count);
    tile = workspace.take_zeroed<T*>(traces.count);
    for (int i = 0; i < traces.count; ++i) {
      const Trace<T>& trace = traces.trace[i];
      if (trace.right >= 0) {
        auto pack = [&](bool transpose) {
          return prepared.pack_map(trace.map, left_channels(i), right_channels(i), trace.kernel, transpose, workspace);
        };
        forward[i] = pack(false);
        if (gradients) transposed[i] = pack(true);
      } else if (!branch.dense()) {
        const int images = prepared.layout.images;
        tile[i] = prepared.take(left_channels(i), workspace);
        load_operand(prepared.layout, trace.map, true, images, images, left_channels(i), tile[i]);
      }
    }
  }

  int left_channels(int i) const { return branch.stage[traces.trace[i].left].in_channels; }
  int right_channels(int i) const { return branch.stage[traces.trace[i].right].in_channels; }

  // Of a map without a right stage, at the vector of `column`.
  IRF_ALWAYS_INLINE Vector<T> map_at(const Layout<T>& layout, int i, int c, int column) const {
    return tile[i] ? load(tile[i] + layout.size(c) + column) : broadcast(traces.trace[i].map[c]);
  }

  // value[s] += the exact terms of sample first + s, whose derivatives are `d`. `room`: a tile of the widest stage;
  // `sums`: [slots].
  void add_values(const Layout<T>& layout, T* const* d, int64_t first, int samples, T* room, T* sums, T* value) const {
    for (int i = 0; i < traces.count; ++i) {
      const Trace<T>& trace = traces.trace[i];
      if (trace.right >= 0) {
        product(forward[i], d[trace.right], layout, {.kind = Epilogue::kBias}, room);
        trace_sums(
            layout, d[trace.left], left_channels(i),
            [&](int c, int column) { return load(room + layout.size(c) + column); }, sums);
      } else {
        trace_sums(
            layout, d[trace.left], left_channels(i), [&](int c, int column) { return map_at(layout, i, c, column); },
            sums);
      }
      for (int s = 0; s < samples; ++s) value[s] += traces.factor(first + s, i) * sums[s];
    }
  }
};

// Backward, of one thread: the gradients of the D_i of a tile, and those of the maps, added up over its tiles.
template <class T>
struct TraceGradients {
  const PreparedTraces<T>& shared;
  const Traces<T>& traces;
  T** of_d;               // [L] the gradient that arrives at D_i, a tile; null where no trace has D_i
  WeightSums<T>* weight;  // [count] of the maps with a right stage
  T** sums;               // [count] of the others: [C_left] numbers if dense, else a tile
  T** scale;              // [count] [slots] the sample's weight times the trace's factor
  T* scaled;              // D_i times that, a tile
  LoneTrace<T>** lone;    // [L] a trace that `activation_backward` takes care of, which `begin` leaves out, or null

  // lone_traces: whether there may be such.
  TraceGradients(const Prepared<T>& prepared, const PreparedTraces<T>& shared_, bool lone_traces, T* panel,
                 Workspace& workspace)
      : shared(shared_), traces(shared_.traces), scaled(nullptr) {
    const Branch<T>& branch = prepared.branch;
    of_d = workspace.take_zeroed<T*>(branch.stages);
    lone = workspace.take_zeroed<LoneTrace<T>*>(branch.stages);
    weight = workspace.take<WeightSums<T>>(traces.count);
    sums = workspace.take_zeroed<T*>(traces.count);
    scale = workspace.take<T*>(traces.count);
    for (int i = 0; i < traces.count; ++i) {
      const Trace<T>& trace = traces.trace[i];
      const int rows = shared.left_channels(i);
      scale[i] = workspace.take<T>(prepared.layout.slots());
      const bool alone = lone_traces && is_lone(i);
      const int of_trace[] = {trace.left, trace.right};
      for (int stage : of_trace)
        if (stage >= 0 && !of_d[stage] && !alone)
          of_d[stage] = prepared.take(branch.stage[stage].in_channels, workspace);
      if (trace.right < 0) {
        sums[i] = workspace.take_zeroed<T>(branch.dense() ? rows : prepared.layout.size(rows));
        const T* map = branch.dense() ? trace.map : shared.tile[i];
        if (alone)
          lone[trace.left] = new (workspace.take<char>(sizeof(LoneTrace<T>))) LoneTrace<T>{scale[i], map, sums[i]};
        continue;
      }
      if (!scaled) scaled = prepared.take(prepared.most_channels, workspace);
      weight[i] = WeightSums<T>{rows,
                                shared.right_channels(i),
                                trace.kernel * trace.kernel,
                                prepared.tap_offsets(trace.kernel, false, workspace),
                                nullptr,
                                panel,
                                trace.kernel};
      weight[i].sums = workspace.take_zeroed<T>(weight[i].size());
    }
  }

  // Whether D_i must be there for `begin`; where a trace is linear in it, `add_map_sums` is early enough.
  bool begins_with(int stage) const {
    for (int i = 0; i < traces.count; ++i) {
      const Trace<T>& trace = traces.trace[i];
      if (trace.right >= 0 && (trace.left == stage || trace.right == stage)) return true;
    }
    return false;
  }

  // Fills `of_d` for the samples of a tile, whose derivatives are `d`, and adds to the gradients of the maps that have
  // a right stage. `weights`: [B]
  void begin(const Layout<T>& layout, T* const* d, const TileSamples& samples, const T* weights) {
    for (int i = 0; i < traces.count; ++i) {
      const Trace<T>& trace = traces.trace[i];
      for (int s = 0; s < layout.slots(); ++s) {
        const int64_t sample = samples.first + s;
        scale[i][s] = s < samples.count ? weights[sample] * traces.factor(sample, i) : T(0);
      }
      spread(layout, scale[i]);
      if (trace.right < 0) {
        if (!lone[trace.left]) add_map(layout, i, !is_first(i, trace.left));
        continue;
      }
      const T *left = d[trace.left], *right = d[trace.right];
      add_scaled(layout, scale[i], left, shared.left_channels(i), true, scaled);
      const OperandPair<T> operands[] = {{scaled, right}};
      contract(weight[i], operands, 1, layout);
      add_product(layout, shared.transposed[i], !is_first(i, trace.right), of_d[trace.right]);
      add_scaled(layout, scale[i], right, shared.right_channels(i), true, scaled);
      add_product(layout, shared.forward[i], trace.left == trace.right || !is_first(i, trace.left), of_d[trace.left]);
    }
  }

  // Adds to the gradients of the maps that stand alone beside D_stage.
  void add_map_sums(const Layout<T>& layout, int stage, const T* d) {
    for (int i = 0; i < traces.count; ++i) {
      if (traces.trace[i].right >= 0 || traces.trace[i].left != stage) continue;
      for (int c = 0; c < shared.left_channels(i); ++c) {
        Vector<T> sum{};
        for (int j = 0; j < layout.vectors; ++j) {
          const int column = layout.position[j];
          const int64_t at = layout.size(c) + column;
          const Vector<T> scaled_d = sample_vector(layout, scale[i], column) * load(d + at);
          if (layout.dense)
            sum += scaled_d;
          else
            store(sums[i] + at, load(sums[i] + at) + scaled_d);
        }
        if (layout.dense) sums[i][c] += sum_lanes<T>(sum);
      }
    }
  }

  // result[c] of a map without a right stage += the sums of this thread, for [begin, end) of its channels.
  void add_to(const Layout<T>& layout, int i, int begin, int end, T* result) const {
    for (int c = begin; c < end; ++c) {
      if (layout.dense) {
        result[c] += sums[i][c];
        continue;
      }
      T* to = result + int64_t(c) * layout.height * layout.width;
      for (int y = 0; y < layout.height; ++y, to += layout.width)
        for (int x = 0; x < layout.width; ++x) {
          const T* of_images = sums[i] + layout.size(c) + layout.lead + y * layout.pitch + x * layout.images;
          T sum{};
          for (int image = 0; image < layout.images; ++image) sum += of_images[image];
          to[x] += sum;
        }
    }
  }

 private:
  // Whether the map of trace i stands alone, and no other trace takes the same derivatives.
  bool is_lone(int i) const {
    bool found = traces.trace[i].right < 0;
    for (int other = 0; other < traces.count; ++other)
      if (other != i)
        found = found && traces.trace[other].left != traces.trace[i].left &&
                traces.trace[other].right != traces.trace[i].left;
    return found;
  }

  // Whether no trace before has written the gradient of D_stage.
  bool is_first(int i, int stage) const {
    for (int before = 0; before < i; ++before)
      if (traces.trace[before].left == stage || traces.trace[before].right == stage) return false;
    return true;
  }

  void add_map(const Layout<T>& layout, int i, bool accumulate) {
    T* target = of_d[traces.trace[i].left];
    for (int c = 0; c < shared.left_channels(i); ++c)
      for (int j = 0; j < layout.vectors; ++j) {
        const int column = layout.position[j];
        const int64_t at = layout.size(c) + column;
        const Vector<T> before = accumulate ? load(target + at) : Vector<T>{};
        store(target + at, fma(sample_vector(layout, scale[i], column), shared.map_at(layout, i, c, column), before));
      }
  }

  void add_product(const Layout<T>& layout, const PackedWeights<T>& map, bool accumulate, T* target) {
    product(map, scaled, layout, {.kind = Epilogue::kBias, .second = accumulate ? target : nullptr}, target);
  }
};

// One for each of `walks` [chunks], which have ParameterSums: the threads.
template <class T, class Walks>
TraceGradients<T>** make_trace_gradients(const Prepared<T>& prepared, const PreparedTraces<T>& shared, bool lone_traces,
                                         const Walks& walks, Workspace& workspace) {
  auto** of_threads = workspace.take<TraceGradients<T>*>(prepared.chunks);
  for (int i = 0; i < prepared.chunks; ++i)
    of_threads[i] = new (workspace.take<char>(sizeof(TraceGradients<T>)))
        TraceGradients<T>(prepared, shared, lone_traces, walks[i]->weight[0].panel, workspace);
  return of_threads;
}

// Adds up the threads in a fixed order, as gather_gradients does. of_threads: [chunks]; result: [count].
template <class T>
void gather_map_gradients(const Prepared<T>& prepared, const Traces<T>& traces, TraceGradients<T>* const* of_threads,
                          T* const* result) {
  if (traces.count == 0) return;
  for_each_chunk(prepared, [&](int64_t chunk) {
    for (int i = 0; i < traces.count; ++i) {
      const Trace<T>& trace = traces.trace[i];
      const int rows = prepared.branch.stage[trace.left].in_channels;
      const int64_t per_row = trace.size / rows;
      const int begin = static_cast<int>(rows * chunk / prepared.chunks);
      const int end = static_cast<int>(rows * (chunk + 1) / prepared.chunks);
      std::memset(result[i] + begin * per_row, 0, sizeof(T) * (end - begin) * per_row);
      for (int k = 0; k < prepared.chunks; ++k)
        trace.right >= 0 ? of_threads[k]->weight[i].add_to(result[i], begin, end)
                         : of_threads[k]->add_to(prepared.layout, i, begin, end, result[i]);
    }
  });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
