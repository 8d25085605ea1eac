// The Jacobian of a branch column by column: unit vectors e_j through the Jacobian-vector chain, on a tile whose
// derivatives are frozen. What the chain passes, the backward pass needs again (docs/mathematics.md, 4c).
#pragma once

#include "cpu/walk.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Calls body(index in an event, its first column in a tile) for every number of an event.
template <class T, class Body>
IRF_ALWAYS_INLINE void each_number(const Layout<T>& layout, int channels, const Body& body) {
  int64_t index = 0;
  for (int c = 0; c < channels; ++c)
    for (int y = 0; y < layout.height; ++y)
      for (int x = 0; x < (layout.dense ? 1 : layout.width); ++x)
        body(index++, layout.size(c) + layout.lead + y * layout.pitch + x * layout.images);
}

template <class T>
struct UnitTangents {
  const Walk<T>& walk;
  const Layout<T>& layout;
  const int stages;
  const Stage<T>* stage;
  T* start;          // convolutions: D_0 e_j
  int64_t* columns;  // convolutions: where in a tile each number of an event begins

  UnitTangents(const Walk<T>& walk_, Workspace& workspace)
      : walk(walk_),
        layout(walk.layout),
        stages(walk.stages),
        stage(walk.prepared.branch.stage),
        start(nullptr),
        columns(nullptr) {
    if (layout.dense) return;
    start = workspace.take_zeroed<T>(layout.size(stage[0].in_channels));
    columns = workspace.take<int64_t>(walk.prepared.branch.in_size());
    each_number(layout, stage[0].in_channels, [this](int64_t j, int64_t column) { columns[j] = column; });
  }

  // The first stage whose tangents take a product: with a matrix, those of stage 1 are its columns.
  int first_product() const { return layout.dense ? 1 : 0; }

  // Fills t_i (where t[i] is not null) and D_i t_i of stages 1 .. L-1 for t_0 = e_j.
  void chain(int64_t j, T* const* t, T* const* dt) const {
    begin(j, t, dt);
    for (int i = max_of(1, first_product()); i + 1 < stages; ++i) step(i, dt[i], t, dt);
  }

  // Those of stage 1.
  void begin(int64_t j, T* const* t, T* const* dt) const {
    if (stages == 1) return;
    if (layout.dense) return scale_column(j, walk.d[1], t[1], dt[1]);
    put(j, walk.d[0]);
    step(0, start, t, dt);
    clear(j);
  }

  // J e_j from D_{L-1} t_{L-1}.
  void column(int64_t j, T* const* dt, T* out) const {
    if (stages > 1)
      return product(walk.prepared.forward[stages - 1], dt[stages - 1], layout, {.kind = Epilogue::kBias}, out);
    if (layout.dense) return scale_column(j, nullptr, nullptr, out);
    put(j, walk.d[0]);
    product(walk.prepared.forward[0], start, layout, {.kind = Epilogue::kBias}, out);
    clear(j);
  }

  // Convolutions: start = factor e_j, e_j, or zero again.
  void put(int64_t j, const T* factor) const { std::memcpy(start + columns[j], factor + columns[j], bytes()); }
  void put_one(int64_t j) const {
    for (int s = 0; s < layout.images; ++s) start[columns[j] + s] = T(1);
  }
  void clear(int64_t j) const { std::memset(start + columns[j], 0, bytes()); }

 private:
  size_t bytes() const { return sizeof(T) * layout.images; }

  void step(int i, const T* in, T* const* t, T* const* dt) const {
    const T* d = walk.d[i + 1];
    if (t[i + 1])
      product(walk.prepared.forward[i], in, layout, {.kind = Epilogue::kTangent, .d = d, .second = dt[i + 1]},
              t[i + 1]);
    else
      product(walk.prepared.forward[i], in, layout, {.kind = Epilogue::kScale, .d = d}, dt[i + 1]);
  }

  // t = A_0 D_0 e_j and dt = d t; without d, dt is t itself.
  void scale_column(int64_t j, const T* d, T* t, T* dt) const {
    const T* factor = walk.d[0] + layout.size(static_cast<int>(j));
    for (int m = 0; m < stage[0].out_channels; ++m) {
      const Vector<T> weight = broadcast(stage[0].weight[m * int64_t(stage[0].in_channels) + j]);
      for (int v = 0; v < layout.vectors; ++v) {
        const int64_t at = layout.size(m) + layout.position[v];
        const Vector<T> tangent = weight * load(factor + layout.position[v]);
        if (t) store(t + at, tangent);
        store(dt + at, d ? tangent * load(d + at) : tangent);
      }
    }
  }
};

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
