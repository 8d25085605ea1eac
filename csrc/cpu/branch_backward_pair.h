// The gradient of a branch with one pair of cotangent and tangent, as every training step with one probe asks for it.
// Each stage's cotangent, ordinary backward pass and weight gradient come one after the other, so that a tile needs
// little more than what the forward pass kept of it.
#pragma once

#include "cpu/activation_backward.h"
#include "cpu/kept.h"
#include "cpu/traces.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Backward walk of one thread.
template <class T>
struct PairWalk : Walk<T>, ParameterSums<T> {
  using Walk<T>::prepared;
  using Walk<T>::layout;
  using Walk<T>::stages;
  using Walk<T>::a;
  using Walk<T>::h;
  using Walk<T>::d;
  T** tangent;     // [L] t_0, and D t_i or t_i as `Kept` keeps them
  T* dt;           // D t of a stage that keeps t
  T* of_factor;    // the gradient of a stage's factor
  T *r[2], *s[2];  // what arrives from the stage above and goes to the one below: cotangent, ordinary backward pass
  T* piece;        // what the forward pass would have kept of a tile, or null
  TraceGradients<T>* traces = nullptr;  // set by `trace`

  PairWalk(const Prepared<T>& prepared_, const Kept<T>& kept, bool recall, const StageGradients<T>* result,
           Workspace& workspace)
      : Walk<T>(prepared_, recall ? Order::kValue : Order::kFirst, false, workspace),
        ParameterSums<T>(prepared_, result, workspace) {
    const int in_channels = prepared.branch.stage[0].in_channels;
    tangent = workspace.take<T*>(stages);
    tangent[0] = prepared.take(in_channels, workspace);
    if (recall) d[0] = prepared.take(in_channels, workspace);
    dt = prepared.take(prepared.most_channels, workspace);
    of_factor = has_factors(prepared.branch) ? prepared.take(prepared.most_channels, workspace) : nullptr;
    for (int k = 0; k < 2; ++k) {
      r[k] = prepared.take(prepared.most_channels, workspace);
      s[k] = prepared.take(prepared.most_channels, workspace);
    }
    piece = recall ? nullptr : workspace.take<T>(kept.tile_size());
    if (piece) kept.clear_pads(piece);
  }

  // x and t_0 are set; fills what the forward pass keeps.
  void remember() {
    this->template forward<Order::kFirst>();
    std::memcpy(this->state[0], tangent[0], sizeof(T) * layout.size(prepared.branch.stage[0].in_channels));
    this->jvp(tangent);
  }

  // Before anything else: the traces whose gradients `backward` adds too.
  void trace(TraceGradients<T>* of_thread, Workspace& workspace) {
    traces = of_thread;
    for (int i = 0; i < stages; ++i)
      if (traces->of_d[i] && !d[i]) d[i] = prepared.take(prepared.branch.stage[i].in_channels, workspace);
  }

  // Before `backward`: what the traces send back. `weights`: [B]
  void begin_traces(const T* weights) {
    for (int i = 0; !piece && i < stages; ++i)
      if (traces->begins_with(i)) derive(i);
    traces->begin(layout, d, this->tile, weights);
  }

  // r[0] and s[0] hold r_L and s_L; adds the parameter gradients, and leaves s_0 in s[0] if `input_gradient`.
  void backward(bool input_gradient) {
    for (int i = stages - 1; i >= 0; --i) {
      const Stage<T>& stage = prepared.branch.stage[i];
      const bool wanted = i > 0 || input_gradient || stage.beta || stage.factor, by_value = known_from_value(stage);
      const bool values_first = i == 0 && (by_value || !wanted || straight_start());
      if (values_first) {
        this->template activate_stage<Order::kFirst>(0);
        this->multiply(d[0], tangent[0], stage.in_channels, dt);
      }
      T* through = by_value && i > 0 ? tangent[i] : dt;  // D t
      if (wanted) pull_back(i, values_first ? h[i] : a[i], values_first ? dt : tangent[i]);
      if (!traces->lone[i] || !wanted || (i == 0 && straight_start())) traces->add_map_sums(layout, i, d[i]);
      const OperandPair<T> operands[] = {{s[0], h[i]}, {r[0], through}};
      contract(this->weight[i], operands, 2, layout);
      this->add_bias_gradient(prepared, i, s[0], this->tile);
      swap(r);
      swap(s);
    }
  }

 private:
  // D_i from what was kept.
  void derive(int i) {
    const Stage<T>& stage = prepared.branch.stage[i];
    if (i > 0 && known_from_value(stage))
      value_ratio<T>(stage.activation, layout, h[i], stage.in_channels, d[i], nullptr);
    else
      this->template activate_stage<Order::kFirst>(i);
  }

  // Whether r_0 serves nobody: s_0 needs it no more, nor does a factor's gradient.
  bool straight_start() const { return prepared.branch.stage[0].straight() && !prepared.branch.stage[0].factor; }

  static void swap(T* (&buffers)[2]) {
    T* below = buffers[1];
    buffers[1] = buffers[0];
    buffers[0] = below;
  }

  // r[0], s[0] of stage i + 1 -> r[1], s[1] of stage i.
  void pull_back(int i, const T* kept, const T* kept_tangent) {
    const Stage<T>& stage = prepared.branch.stage[i];
    if (i == 0 && straight_start())
      return product(prepared.transposed[0], s[0], layout, {.kind = Epilogue::kScale, .d = d[0]}, s[1]);
    product(prepared.transposed[i], r[0], layout, {.kind = Epilogue::kBias}, r[1]);
    product(prepared.transposed[i], s[0], layout, {.kind = Epilogue::kBias}, s[1]);
    T* const of_d = traces->of_d[i];
    const T gradient = activation_backward(
        stage.activation, layout,
        ActivationBackward<T>{stage.in_channels, prepared.parameters(i), kept, kept_tangent, r[1], s[1], h[i], dt,
                              this->factor_tile[i], of_factor, of_d, of_d ? d[i] : nullptr, traces->lone[i]});
    if (stage.factor) this->set_factor_gradient(prepared, i, of_factor, this->tile);
    if (stage.beta) this->add_slope_gradient(stage, i, gradient);
  }
};

// The gradient [B, d'] that arrives at the output of a tile, zero if none does.
template <class T>
void load_grad(const Prepared<T>& prepared, const T* grad, int64_t first, int samples, T* tile) {
  const Branch<T>& branch = prepared.branch;
  const int channels = branch.stage[branch.stages - 1].out_channels;
  if (grad)
    load_events(prepared.layout, grad + first * channels * branch.pixels(), samples, channels, tile);
  else
    std::memset(tile, 0, sizeof(T) * prepared.layout.size(channels));
}

// The gradient of the input of a tile, and that of x itself in x + g(x) (or null), if anybody wants it.
template <class T>
void store_grad_x(const Prepared<T>& prepared, const T* tile, const T* of_x_itself, int64_t first, int samples,
                  T* grad_x) {
  if (!grad_x) return;
  const int64_t at = first * prepared.branch.in_size();
  store_events(prepared.layout, tile, samples, prepared.branch.stage[0].in_channels, grad_x + at,
               of_x_itself ? of_x_itself + at : nullptr);
}

template <class T>
void branch_backward_pair(const Branch<T>& branch, const BranchBackwardOperands<T>& op, const Parallel& parallel) {
  Workspace workspace;
  Prepared<T> prepared(branch, parallel, workspace);
  const Kept<T> kept(prepared);
  const bool recall = op.kept && kept.fits(op.kept, op.kept_size);
  prepared.pack(recall ? kPackTransposed : kPackForward | kPackTransposed, workspace);
  const Layout<T>& layout = prepared.layout;
  const int in_channels = branch.stage[0].in_channels;
  const int64_t in_size = branch.in_size();
  T* packed = op.grad_parameters;
  const StageGradients<T>* gradients = unpack_gradients(branch, packed, workspace);
  T* const* map_gradients = unpack_map_gradients(op.traces, packed, workspace);
  const PreparedTraces<T> prepared_traces(prepared, op.traces, true, workspace);

  auto** walks = workspace.take<PairWalk<T>*>(prepared.chunks);
  for (int i = 0; i < prepared.chunks; ++i)
    walks[i] =
        new (workspace.take<char>(sizeof(PairWalk<T>))) PairWalk<T>(prepared, kept, recall, gradients, workspace);
  TraceGradients<T>** traces = make_trace_gradients(prepared, prepared_traces, true, walks, workspace);
  for (int i = 0; i < prepared.chunks; ++i) walks[i]->trace(traces[i], workspace);

  for_each_chunk(prepared, [&](int64_t chunk) {
    PairWalk<T>& walk = *walks[chunk];
    for_each_tile(prepared, chunk, [&](int64_t first, int samples) {
      load_events(layout, op.x + first * in_size, samples, in_channels, walk.x);
      load_events(layout, op.tangents + first * in_size, samples, in_channels, walk.tangent[0]);
      recall ? walk.load_factors(first, samples) : walk.load_operands(first, samples);
      // `op.kept` is only read.
      T* piece = recall ? kept.piece(const_cast<T*>(op.kept), chunk, first) : walk.piece;
      kept.point(piece, walk.a, walk.h, walk.tangent);
      if (!recall) walk.remember();
      load_events(layout, op.cotangents + first * in_size, samples, in_channels, walk.r[0], op.weight + first);
      load_grad(prepared, op.grad, first, samples, walk.s[0]);
      walk.begin_traces(op.weight);
      walk.backward(op.grad_x != nullptr);
      store_grad_x(prepared, walk.s[0], op.residual ? op.grad : nullptr, first, samples, op.grad_x);
    });
  });

  gather_gradients(prepared, walks, gradients);
  gather_map_gradients(prepared, op.traces, traces, map_gradients);
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
