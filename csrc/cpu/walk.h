// The walks over the stages of a branch on one tile (docs/mathematics.md, 1). `forward` freezes the derivatives; `vjp`
// and `jvp` then apply J^T and J without evaluating an activation again.
#pragma once

#include "cpu/from_value.h"
#include "cpu/prepared.h"
#include "cpu/spread.h"
#include "cpu/tile_io.h"
#include "cpu/vector_math.h"

namespace irf {
namespace IRF_ISA {
namespace {

// How many derivatives a forward walk keeps.
enum class Order { kValue, kFirst, kSecond };

template <class T, class Act, Order order>
void activate_as(const Layout<T>& layout, const T* a, int channels, Parameters<T> scalars, T* h, T* d, T* e) {
  for (int c = 0; c < channels; ++c) {
    const Parameters<Vector<T>> p = spread_parameters<Act>(scalars, c, channels);
    for (int j = 0; j < layout.vectors; ++j) {
      const int column = layout.position[j];
      const int64_t at = int64_t(c) * layout.stride + column;
      const Jet<Vector<T>> jet = Act::template jet<VectorMath<T>>(load(a + at), p);
      store(h + at, keep_pixels(layout, column, jet.h));
      if constexpr (order != Order::kValue) store(d + at, keep_pixels(layout, column, jet.d));
      if constexpr (order == Order::kSecond) store(e + at, keep_pixels(layout, column, jet.e));
    }
  }
}

template <class T, Order order>
void activate(Activation activation, const Layout<T>& layout, const T* a, int channels, Parameters<T> p, T* h, T* d,
              T* e) {
  switch (activation) {
#define IRF_CASE(name, Struct) \
  case Activation::k##Struct:  \
    return activate_as<T, Struct, order>(layout, a, channels, p, h, d, e);
    IRF_FOR_EACH_ACTIVATION(IRF_CASE)
#undef IRF_CASE
    case Activation::kCount:
      break;
  }
}

// h, D, E <- those times a given factor.
template <class T, Order order>
void apply_factor(const Layout<T>& layout, const T* factor, int channels, const T* plain_h, const T* plain_d, T* h,
                  T* d, T* e) {
  for (int c = 0; c < channels; ++c)
    for (int j = 0; j < layout.vectors; ++j) {
      const int64_t at = layout.size(c) + layout.position[j];
      const Vector<T> f = load(factor + at);
      store(h + at, f * load(plain_h + at));
      if constexpr (order != Order::kValue) store(d + at, f * load(plain_d + at));
      if constexpr (order == Order::kSecond) store(e + at, f * load(e + at));
    }
}

// The samples of a tile.
struct TileSamples {
  int64_t first;
  int count;
};

// Buffers and walks of one thread.
template <class T>
struct Walk {
  const Prepared<T>& prepared;
  Layout<T> layout;  // that of `prepared`, with the room of this thread
  const int stages;
  T *x, *g;                // input and output tiles of `forward`
  T** a;                   // [L + 1] pre-activations: a[0] = x, a[L] = g; between them one buffer shared unless `keep`
  T** h;                   // [L] activated; one shared buffer unless `keep`
  T **d, **e;              // [L] derivatives
  T** factor_tile;         // [L] given factors, null where there are none
  T** bias_tile;           // [L] biases that are not shared, null where there are none
  T **plain_h, **plain_d;  // [L] h and D before the factor, null where no gradient wants them
  TileSamples tile;        // those of the operands
  T* state[2];             // the chain's ping-pong buffers

  Walk(const Prepared<T>& prepared_, Order order, bool keep, Workspace& workspace)
      : prepared(prepared_), layout(prepared.layout), stages(prepared.branch.stages) {
    const Stage<T>* stage = prepared.branch.stage;
    layout.narrow = prepared.take_narrow(workspace);
    a = workspace.take<T*>(stages + 1);
    h = workspace.take<T*>(stages);
    d = workspace.take<T*>(stages);
    e = workspace.take<T*>(stages);
    factor_tile = workspace.take<T*>(stages);
    bias_tile = workspace.take<T*>(stages);
    plain_h = workspace.take_zeroed<T*>(stages);
    plain_d = workspace.take_zeroed<T*>(stages);
    T* shared_a = prepared.take(prepared.most_channels, workspace);
    T* shared_h = keep ? nullptr : prepared.take(prepared.most_channels, workspace);
    for (int i = 0; i < stages; ++i) {
      const int channels = stage[i].in_channels;
      a[i] = i == 0 || (keep && stage[i].beta) ? prepared.take(channels, workspace) : shared_a;
      h[i] = keep ? prepared.take(channels, workspace) : shared_h;
      d[i] = order != Order::kValue ? prepared.take(channels, workspace) : nullptr;
      e[i] = order == Order::kSecond ? prepared.take(channels, workspace) : nullptr;
      factor_tile[i] = stage[i].factor ? prepared.take(channels, workspace) : nullptr;
      const bool own_bias = stage[i].bias && stage[i].bias_spread != Spread::kShared;
      bias_tile[i] = own_bias ? prepared.take(stage[i].out_channels, workspace) : nullptr;
    }
    x = a[0];
    g = a[stages] = prepared.take(stage[stages - 1].out_channels, workspace);
    for (T*& buffer : state)
      buffer = order == Order::kValue ? nullptr : prepared.take(prepared.most_channels, workspace);
  }

  // Brings factors, and biases that are not shared, of the samples from `first` on into tiles: those of sample
  // first + k / copies into the columns of k = 0 .. count - 1.
  void load_operands(int64_t first, int count, int64_t copies = 1) {
    load_factors(first, count, copies);
    for (int i = 0; i < stages; ++i) {
      const Stage<T>& stage = prepared.branch.stage[i];
      load_operand_tile(stage.bias, stage.bias_spread, stage.out_channels, copies, bias_tile[i]);
    }
  }

  // The factors alone, where the forward walk is known.
  void load_factors(int64_t first, int count, int64_t copies = 1) {
    tile = {first, count};
    for (int i = 0; i < stages; ++i) {
      const Stage<T>& stage = prepared.branch.stage[i];
      load_operand_tile(stage.factor, stage.factor_spread, stage.in_channels, copies, factor_tile[i]);
    }
  }

  // a_i -> h_i, with derivatives up to `order`.
  template <Order order>
  void activate_stage(int i) const {
    const Stage<T>& stage = prepared.branch.stage[i];
    T* const value = plain_h[i] ? plain_h[i] : h[i];
    T* const derivative = plain_d[i] ? plain_d[i] : d[i];
    activate<T, order>(stage.activation, layout, a[i], stage.in_channels, prepared.parameters(i), value, derivative,
                       e[i]);
    if (stage.factor)
      apply_factor<T, order>(layout, factor_tile[i], stage.in_channels, value, derivative, h[i], d[i], e[i]);
  }

  // x -> g.
  template <Order order>
  void forward() const {
    for (int i = 0; i < stages; ++i) {
      const Stage<T>& stage = prepared.branch.stage[i];
      activate_stage<order>(i);
      product(prepared.forward[i], h[i], layout,
              {.kind = Epilogue::kBias, .bias = bias_tile[i] ? nullptr : stage.bias, .second = bias_tile[i]}, a[i + 1]);
    }
  }

  // state[0] <- J^T state[0]
  void vjp() {
    for (int i = stages - 1; i >= 0; --i) {
      product(prepared.transposed[i], state[0], layout, {.kind = Epilogue::kScale, .d = d[i]}, state[1]);
      swap_state();
    }
  }

  // state[0] <- J state[0]; `kept`, if given, takes what `Kept` keeps of the tangents of stages 1 .. L-1 on the way.
  void jvp(T* const* kept = nullptr) {
    multiply(d[0], state[0], prepared.branch.stage[0].in_channels);
    const T* in = state[0];
    for (int i = 0; i + 1 < stages; ++i) {
      if (kept && known_from_value(prepared.branch.stage[i + 1])) {
        product(prepared.forward[i], in, layout, {.kind = Epilogue::kScale, .d = d[i + 1]}, kept[i + 1]);
        in = kept[i + 1];
        continue;
      }
      if (kept)
        product(prepared.forward[i], in, layout, {.kind = Epilogue::kTangent, .d = d[i + 1], .second = state[1]},
                kept[i + 1]);
      else
        product(prepared.forward[i], in, layout, {.kind = Epilogue::kScale, .d = d[i + 1]}, state[1]);
      swap_state();
      in = state[0];
    }
    product(prepared.forward[stages - 1], in, layout, {.kind = Epilogue::kBias}, state[1]);
    swap_state();
    if (layout.masked) clear_pads(state[0], prepared.branch.stage[stages - 1].out_channels);
  }

  void swap_state() {
    T* other = state[0];
    state[0] = state[1];
    state[1] = other;
  }

  void multiply(const T* factor, T* target, int channels) const { multiply(factor, target, channels, target); }

  void multiply(const T* factor, const T* source, int channels, T* target) const {
    for (int c = 0; c < channels; ++c)
      for (int j = 0; j < layout.vectors; ++j) {
        const int64_t at = layout.size(c) + layout.position[j];
        store(target + at, load(factor + at) * load(source + at));
      }
  }

  void clear_pads(T* target, int channels) const {
    for (int c = 0; c < channels; ++c)
      for (int j = 0; j < layout.vectors; ++j) {
        const int64_t at = int64_t(c) * layout.stride + layout.position[j];
        store(target + at, keep_pixels(layout, layout.position[j], load(target + at)));
      }
  }

 private:
  // One operand of the samples of `tile` into its own tile, if it has one.
  void load_operand_tile(const T* operand, Spread spread, int channels, int64_t copies, T* target) const {
    if (!target) return;
    const T* source = from_sample(prepared.branch, operand, spread, channels, tile.first);
    load_operand(layout, source, spread == Spread::kPixel, tile.count, copies, channels, target);
  }
};

// One walk per chunk, all scratch taken by the calling thread.
template <class T>
Walk<T>** make_walks(const Prepared<T>& prepared, Order order, bool keep, Workspace& workspace) {
  auto** walks = workspace.take<Walk<T>*>(prepared.chunks);
  for (int i = 0; i < prepared.chunks; ++i)
    walks[i] = new (workspace.take<char>(sizeof(Walk<T>))) Walk<T>(prepared, order, keep, workspace);
  return walks;
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
