#include <torch/csrc/stable/library.h>

#include "device.h"
#include "torch/flow_program.h"

namespace irf::binding {
namespace {

// Where the states of a forward pass are. A state that is not saved is in z or in the room for one more, in turns, so
// that it never is where its step reads from.
template <class T>
class States {
 public:
  // `saved`: null where nothing is saved.
  States(const FlowProgram& flow, T* saved, T* z, T* room) : flow_(flow), saved_(saved), z_(z), room_(room) {}

  T* operator[](int i) const {
    if (saved_ && flow_.saved(i) != FlowProgram::kNotSaved) return saved_ + flow_.saved(i);
    return (flow_.count() - i) % 2 == 0 ? z_ : room_;
  }

 private:
  const FlowProgram& flow_;
  T *saved_, *z_, *room_;
};

// Results of a series that a flow does not return.
template <class T>
struct Unused {
  T* norms;        // [m, B]
  int64_t* terms;  // [m, B]
};

// z = x + g(x) and `value` [B], its log-determinant if the step has one. Returns what its backward pass need not
// compute again; nothing unless `keep`. neumann: [m, B, d] or null.
template <class T>
Tensor residual(OnDevice<T>& device, const FlowStep& step, const T* x, T* z, T* value, T* neumann,
                const Unused<T>& unused, bool keep, const Tensor& like) {
  std::vector<Stage<T>> stages;
  const Branch<T> branch = step.branch->fill<T>(stages);
  device.use_precision(step.precision);
  Tensor kept = make({0}, like);
  if (step.logdet == Logdet::kNone) {
    device.branch(branch, {x, z, true});
    return kept;
  }
  auto keep_if_any = [&](Tensor found) -> T* {
    kept = found;
    return kept.numel() > 0 ? mutable_data<T>(kept) : nullptr;
  };
  if (step.logdet == Logdet::kExact) {
    device.residual_logdet_exact(branch, {x, z, value, keep ? keep_if_any(device.exact_kept(branch, like)) : nullptr});
    return kept;
  }
  std::vector<Trace<T>> traces;
  ResidualLogdetOperands<T> operands{.x = x,
                                     .probes = step.probes,
                                     .probe = data<T>(step.probe),
                                     .series = {.terms = step.terms,
                                                .coefficients = data<T>(step.coefficients),
                                                .per_sample = step.per_sample,
                                                .value = value,
                                                .neumann = neumann,
                                                .norms = unused.norms,
                                                .terms_used = unused.terms,
                                                .traces = step.fill_traces<T>(traces)},
                                     .z = z,
                                     .kept = nullptr};
  if (keep && step.probes == 1) operands.kept = keep_if_any(device.lasting(device.kept_size(branch, operands), like));
  device.residual_logdet(branch, operands);
  return kept;
}

template <class T>
void forward(const FlowProgram& flow, bool save, bool keep, Tensor& z, Tensor& logdet, Tensor& saved, Tensors& kept) {
  OnDevice<T> device(z);
  if (flow.saved_size() == 0) save = false;
  if (save) saved = device.lasting(flow.saved_size(), z);
  // One more state, the log-determinants of all steps, and the norms of a series.
  const int64_t batch = flow.batch(), norms = flow.most_probes() * batch;
  Tensor room = make({flow.state_size() + flow.logdets() * batch + norms}, z);
  Tensor terms = make({norms}, z, ScalarType::Long);
  T* const values = mutable_data<T>(room) + flow.state_size();
  const Unused<T> unused{values + flow.logdets() * batch, mutable_data<int64_t>(terms)};
  const States<T> states(flow, save ? mutable_data<T>(saved) : nullptr, mutable_data<T>(z), mutable_data<T>(room));
  T* value = flow.logdets() == 1 ? mutable_data<T>(logdet) : values;
  for (int i = 0; i < flow.count(); ++i) {
    const FlowStep& step = flow.steps()[i];
    const T* in = i == 0 ? data<T>(flow.x()) : states[i];
    T* out = states[i + 1];
    if (step.kind == StepKind::kNormalize) {
      device.actnorm({step.sizes, in, data<T>(step.tensors[0]), data<T>(step.tensors[1]), out, value});
    } else if (step.kind == StepKind::kRearrange) {
      device.rearrange({batch, flow.event_size(), in, data<int64_t>(step.tensors[0]), false, out});
    } else {
      T* neumann = save && step.series() ? mutable_data<T>(saved) + step.neumann : nullptr;
      Tensor own = residual(device, step, in, out, value, neumann, unused, keep, z);
      if (keep && step.keeps()) kept.push_back(std::move(own));
    }
    if (step.has_logdet()) value += batch;
  }
  if (flow.logdets() == 0) torch::stable::zero_(logdet);
  if (flow.logdets() > 1) device.sum_rows({flow.logdets(), batch, values, mutable_data<T>(logdet)});
}

std::tuple<Tensor, Tensor, Tensor, Tensors> residual_flow(const Tensor& x, const Tensors& tensors, const Tensors& draws,
                                                          const std::vector<int64_t>& program, bool save, bool keep) {
  const FlowProgram flow(x, tensors, draws, program);
  Tensor z = make(flow.z_sizes(), x), logdet = make({flow.batch()}, x), saved = make({0}, x);
  Tensors kept;
  if (flow.state_size() == 0) {  // no samples, or samples without numbers
    torch::stable::zero_(logdet);
    for (const FlowStep& step : flow.steps())
      if (keep && step.keeps()) kept.push_back(make({0}, x));
    return {z, logdet, saved, kept};
  }
  if (flow.count() == 0) torch::stable::copy_(z, flow.x());
  with_type(x, "x", [&]<class T>(T) { forward<T>(flow, save, keep, z, logdet, saved, kept); });
  return {z, logdet, saved, kept};
}

// Gradient of <grad, z> + sum_b weight_b logdet_b of one block. neumann: [m, B, d], of a series; kept: of `residual`.
template <class T>
void residual_backward(OnDevice<T>& device, const FlowStep& step, const T* x, const T* grad, const T* weight,
                       const T* neumann, const Tensor* kept, T* grad_x, T* grad_parameters) {
  std::vector<Stage<T>> stages;
  const Branch<T> branch = step.branch->fill<T>(stages);
  device.use_precision(step.precision);
  const int64_t kept_size = kept ? kept->numel() : 0;
  const T* recalled = kept_size > 0 ? data<T>(*kept) : nullptr;
  if (step.logdet == Logdet::kExact) {
    device.residual_logdet_exact_backward(branch, {x, grad, weight, grad_x, grad_parameters, recalled, kept_size});
    return;
  }
  const bool pairs = step.series() && weight;
  std::vector<Trace<T>> traces;
  device.branch_backward(branch, {.x = x,
                                  .grad = grad,
                                  .pairs = pairs ? step.probes : 0,
                                  .tangents = pairs ? data<T>(step.probe) : nullptr,
                                  .cotangents = pairs ? neumann : nullptr,
                                  .weight = pairs ? weight : nullptr,
                                  .residual = true,
                                  .grad_x = grad_x,
                                  .grad_parameters = grad_parameters,
                                  .kept = recalled,
                                  .kept_size = kept_size,
                                  .traces = pairs ? step.fill_traces<T>(traces) : Traces<T>{}});
  if (pairs) step.traces.add_gradients(*step.branch, grad_parameters);
}

template <class T>
void backward(const FlowProgram& flow, const T* z, const T* saved, const Tensors& kept, const Tensor& grad_z,
              const T* weight, bool input_gradient, Tensor& grad_x, Tensor& grad_parameters) {
  OnDevice<T> device(grad_x);
  // Gradients of states are in grad_x or in the room for one more, in turns, so that that of x ends where it belongs.
  Tensor room = make({flow.state_size()}, grad_x);
  auto state = [&](int i) -> const T* {
    return i == 0 ? data<T>(flow.x()) : i == flow.count() ? z : saved + flow.saved(i);
  };
  int first = 0;  // without a gradient of x, steps without parameters at the beginning serve nobody
  while (!input_gradient && first < flow.count() && !flow.steps()[first].has_parameters()) ++first;
  size_t next_kept = kept.size();
  const T* grad = data<T>(grad_z);
  for (int i = flow.count() - 1; i >= first; --i) {
    const FlowStep& step = flow.steps()[i];
    T* out = i == first && !input_gradient ? nullptr : mutable_data<T>(i % 2 == 0 ? grad_x : room);
    T* parameters = mutable_data<T>(grad_parameters) + step.parameters;
    if (step.kind == StepKind::kNormalize) {
      device.actnorm_backward({step.sizes, state(i + 1), data<T>(step.tensors[1]), grad, weight, out, parameters,
                               parameters + step.sizes.channels});
    } else if (step.kind == StepKind::kRearrange) {
      device.rearrange({flow.batch(), flow.event_size(), grad, data<int64_t>(step.tensors[0]), true, out});
    } else {
      const Tensor* own = step.keeps() && !kept.empty() ? &kept[--next_kept] : nullptr;
      residual_backward(device, step, state(i), grad, weight, step.series() ? saved + step.neumann : nullptr, own, out,
                        parameters);
    }
    grad = out;
  }
}

std::tuple<Tensor, Tensor> residual_flow_backward(const Tensor& x, const std::optional<Tensor>& z,
                                                  const Tensors& tensors, const Tensors& draws,
                                                  const std::vector<int64_t>& program, const Tensor& saved,
                                                  const Tensors& kept, const std::optional<Tensor>& grad_z,
                                                  const std::optional<Tensor>& grad_logdet, bool input_gradient) {
  const FlowProgram flow(x, tensors, draws, program);
  std::vector<int64_t> x_sizes;
  for (int64_t axis = 0; axis < x.dim(); ++axis) x_sizes.push_back(x.size(axis));
  Tensor grad_x = make(x_sizes, x), grad_parameters = make({flow.parameter_count()}, x);
  auto result = [&] { return std::tuple(input_gradient ? grad_x : make({0}, x), grad_parameters); };
  if (flow.state_size() == 0) {
    torch::stable::zero_(grad_parameters);
    return result();
  }
  check_like(saved, x, flow.saved_size(), "saved");
  STD_TORCH_CHECK(saved.is_contiguous(), "saved must be contiguous; pass it as the forward pass returned it.");
  STD_TORCH_CHECK(z || !flow.ends_with_normalize(), "z must be given of a flow that ends with a normalisation; do so.");
  const auto end = dense_like(z, x, x.numel(), "z");
  const auto weight = dense_like(grad_logdet, x, flow.batch(), "grad_logdet");
  size_t keeping = 0;
  for (const FlowStep& step : flow.steps()) keeping += step.keeps();
  STD_TORCH_CHECK(kept.empty() || kept.size() == keeping, "kept must hold one tensor for each of ", keeping,
                  " log-determinants of blocks, or none, got ", kept.size(), "; pass what the forward pass returned.");
  for (const Tensor& t : kept) {
    check_like(t, x, t.numel(), "kept");
    STD_TORCH_CHECK(t.is_contiguous(), "kept must be contiguous; pass it as the forward pass returned it.");
  }
  Tensor upstream = grad_z ? dense(*grad_z) : make(flow.z_sizes(), x);
  check_like(upstream, x, x.numel(), "grad_z");
  if (!grad_z) torch::stable::zero_(upstream);
  if (!grad_logdet) torch::stable::zero_(grad_parameters);  // nothing else would write those of the maps of traces
  if (flow.count() == 0) torch::stable::copy_(grad_x, upstream);
  with_type(x, "x", [&]<class T>(T) {
    backward<T>(flow, data<T>(end), data<T>(saved), kept, upstream, data<T>(weight), input_gradient, grad_x,
                grad_parameters);
  });
  return result();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(iresnet_fast, IRF_DEVICE, m) {
  m.impl("residual_flow", TORCH_BOX(&residual_flow));
  m.impl("residual_flow_backward", TORCH_BOX(&residual_flow_backward));
}

}  // namespace irf::binding
