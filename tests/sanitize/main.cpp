// Every CPU kernel on ragged shapes, under the address and undefined-behaviour sanitizers (`make sanitize`): all
// instruction sets of this CPU, 1 and 3 threads, buffers of exactly the size the kernels may touch. Checks that results
// are finite, that they agree between instruction sets and thread counts, that those in float32 are as near to float64
// as the ones of "scalar" are, and a few identities. Torch-free. `make neon` runs the same for AArch64.
#include "bf16.h"
#include "branch_data.h"
#include "cases.h"
#include "checks.h"
#include "differences.h"
#include "fingerprint.h"
#include "flow.h"
#include "lanczos.h"
#include "layerwise.h"
#include "traces.h"

namespace {

template <class T>
void check_branch(const std::string& name, const BranchCase& c, bool layers) {
  const BranchData<T> data(c);
  const int64_t batch = c.batch, size = data.size, all = batch * size, m = c.probes;
  const int terms = 4;
  const Numbers<T> x = random_numbers<T>(all), v = random_numbers<T>(m * all), y = random_numbers<T>(m * all);
  const Numbers<T> grad = random_numbers<T>(all), weight = random_numbers<T>(batch);
  const Numbers<T> coefficients = random_numbers<T>(c.per_sample ? batch * terms : terms);
  const Numbers<T> tail(terms, T(1));
  const TraceData<T> traces(data);

  on_all_machines<T>(name, [&](const std::string& where, const irf::Parallel& parallel) {
    const Ways<T> kernels{irf::kernels<T>(), layers};
    const irf::Branch<T>& branch = data.branch;
    Numbers<T> g = unwritten<T>(all);
    kernels.branch(branch, {x.data(), g.data(), false}, parallel);

    Numbers<T> forward = unwritten<T>(3 * all), transposed = unwritten<T>(3 * all);
    kernels.jacobian_powers(branch, {x.data(), v.data(), 3, false, forward.data()}, parallel);
    kernels.jacobian_powers(branch, {x.data(), y.data(), 3, true, transposed.data()}, parallel);
    for (int k = 0; k < 3; ++k)
      expect(near<T>(dot(forward.data() + k * all, y.data(), all), dot(transposed.data() + k * all, v.data(), all),
                     double(all)),
             where, "<J^k v, y> is not <v, (J^T)^k y>");

    std::vector<Numbers<T>> results;
    for (bool pairs : {false, true})
      for (bool ordinary : {false, true}) {
        Numbers<T> grad_x = unwritten<T>(all), packed = unwritten<T>(data.parameter_count);
        irf::BranchBackwardOperands<T> op{};
        op.x = x.data();
        op.grad = ordinary ? grad.data() : nullptr;
        op.residual = ordinary;
        if (pairs) op.pairs = int(m), op.tangents = v.data(), op.cotangents = y.data(), op.weight = weight.data();
        op.grad_x = grad_x.data(), op.grad_parameters = packed.data();
        kernels.branch_backward(branch, op, parallel);
        Numbers<T> alone = unwritten<T>(data.parameter_count);
        op.grad_x = nullptr, op.grad_parameters = alone.data();
        kernels.branch_backward(branch, op, parallel);
        expect(close(alone, packed), where, "the gradient of the parameters depends on whether that of x is wanted");
        results.push_back(grad_x);
        results.push_back(packed);
      }
    if constexpr (sizeof(T) == 8) check_differences(data, kernels, {int(m), x, grad, v, y, weight}, parallel, where);
    Numbers<T> pulled = unwritten<T>(all);
    kernels.jacobian_powers(branch, {x.data(), grad.data(), 1, true, pulled.data()}, parallel);
    for (int64_t i = 0; i < all; ++i) pulled[i] += grad[i];
    expect(close(results[2], pulled), where, "the gradient of <grad, x + g(x)> is not (I + J)^T grad");
    for (size_t part = 0; part < 2; ++part) {  // the gradient is linear in what it is asked for
      Numbers<T> sum(results[2 + part]);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += results[4 + part][i];
      expect(close(results[6 + part], sum), where, "gradients do not add up");
    }

    for (bool stop : {false, true}) {
      Numbers<T> z = unwritten<T>(all), value = unwritten<T>(batch), neumann = unwritten<T>(m * all);
      Numbers<T> norms = unwritten<T>(m * batch), only_value = unwritten<T>(batch);
      Numbers<int64_t> used(m * batch, -1);
      irf::ResidualLogdetOperands<T> op{};
      op.x = x.data(), op.probes = int(m), op.probe = v.data();
      op.series = {.terms = terms,
                   .coefficients = coefficients.data(),
                   .per_sample = c.per_sample,
                   .tail = stop ? tail.data() : nullptr,
                   .tolerance = T(0.3),
                   .relative = stop,
                   .value = only_value.data(),
                   .norms = norms.data(),
                   .terms_used = used.data()};
      kernels.residual_logdet(branch, op, parallel);
      op.z = z.data(), op.series.value = value.data(), op.series.neumann = neumann.data();
      kernels.residual_logdet(branch, op, parallel);
      expect(only_value == value, where, "the value depends on what else is asked for");
      for (int64_t i = 0; i < all; ++i) expect(near<T>(z[i], x[i] + g[i], 1), where, "z is not x + g(x)");
      for (int64_t steps : used)
        expect(steps >= 1 && steps <= terms && (stop || steps == terms), where, "number of terms");
      for (Numbers<T>* numbers : {&value, &neumann, &norms}) results.push_back(*numbers);
      results.emplace_back(used.begin(), used.end());
    }

    // A training step: the backward pass takes up what the forward pass kept, or computes it again if it does not fit.
    Numbers<T> kept = unwritten<T>(kernels.kept_size(branch, parallel));
    Numbers<T> neumann = unwritten<T>(all), value = unwritten<T>(batch), norms = unwritten<T>(batch);
    Numbers<int64_t> used(batch, -1);
    irf::ResidualLogdetOperands<T> step{};
    step.x = x.data(), step.probes = 1, step.probe = v.data();
    step.series = {.terms = terms,
                   .coefficients = coefficients.data(),
                   .per_sample = c.per_sample,
                   .value = value.data(),
                   .neumann = neumann.data(),
                   .norms = norms.data(),
                   .terms_used = used.data()};
    step.kept = kept.data();
    kernels.residual_logdet(branch, step, parallel);
    std::vector<Numbers<T>> gradients;
    const int64_t kept_sizes[] = {0, int64_t(kept.size()) - 1, int64_t(kept.size())};
    for (int64_t kept_size : kept_sizes) {
      Numbers<T> grad_x = unwritten<T>(all), packed = unwritten<T>(data.parameter_count);
      const Numbers<T> part(kept.begin(), kept.begin() + kept_size);
      irf::BranchBackwardOperands<T> op{};
      op.x = x.data(), op.grad = grad.data(), op.residual = true;
      op.pairs = 1, op.tangents = v.data(), op.cotangents = neumann.data(), op.weight = weight.data();
      op.kept = kept_size > 0 ? part.data() : nullptr, op.kept_size = kept_size;
      op.grad_x = grad_x.data(), op.grad_parameters = packed.data();
      kernels.branch_backward(branch, op, parallel);
      gradients.push_back(grad_x);
      gradients.push_back(packed);
    }
    for (size_t k = 2; k < gradients.size(); ++k)
      expect(close(gradients[k], gradients[k % 2]), where, "gradients from what was kept differ");
    for (Numbers<T>* numbers : {&value, &neumann, &gradients[4], &gradients[5]}) results.push_back(*numbers);
    const TraceCall<T> call{c, terms, x, v, grad, weight, coefficients};
    check_traces(data, traces, kernels, call, parallel, where, results);
    if constexpr (sizeof(T) == 8) check_trace_differences(data, traces, kernels, call, parallel, where);

    if (size <= 64) {
      Numbers<T> jacobian = unwritten<T>(batch * size * size);
      kernels.jacobian(branch, {x.data(), jacobian.data()}, parallel);
      for (int64_t row = 0; row < all; ++row)
        expect(
            near<T>(dot(jacobian.data() + row * size, v.data() + row / size * size, size), forward[row], double(size)),
            where, "the Jacobian times v is not J v");
      results.push_back(jacobian);
      // Its exact log-determinant: in evaluation, and as the forward pass of a step.
      Numbers<T> exact_z = unwritten<T>(all), logdet = unwritten<T>(batch), again = unwritten<T>(batch);
      kernels.residual_logdet_exact(branch, {x.data(), exact_z.data(), logdet.data(), nullptr}, parallel);
      for (int64_t i = 0; i < all; ++i) expect(near<T>(exact_z[i], x[i] + g[i], 1), where, "z is not x + g(x)");
      Numbers<T> kept_exact = unwritten<T>(kernels.exact_kept_size(branch, parallel));
      kernels.residual_logdet_exact(branch, {x.data(), exact_z.data(), again.data(), kept_exact.data()}, parallel);
      expect(close(again, logdet), where, "the exact log-determinant depends on what is kept");
      results.push_back(logdet);
      std::vector<Numbers<T>> exact;
      for (int64_t short_by : {int64_t(0), int64_t(1), int64_t(kept_exact.size())}) {
        Numbers<T> grad_x = unwritten<T>(all), packed = unwritten<T>(data.parameter_count);
        const Numbers<T> part(kept_exact.begin(), kept_exact.end() - short_by);
        kernels.residual_logdet_exact_backward(branch,
                                               {x.data(), grad.data(), weight.data(), grad_x.data(), packed.data(),
                                                part.empty() ? nullptr : part.data(), int64_t(part.size())},
                                               parallel);
        exact.push_back(grad_x);
        exact.push_back(packed);
      }
      for (size_t k = 2; k < exact.size(); ++k)
        expect(close(exact[k], exact[k % 2]), where, "gradients from what the exact pass kept differ");
      results.push_back(exact[0]);
      results.push_back(exact[1]);
      Numbers<T> ordinary = unwritten<T>(all), unused = unwritten<T>(data.parameter_count);
      kernels.residual_logdet_exact_backward(branch,
                                             {x.data(), grad.data(), nullptr, ordinary.data(), unused.data(),
                                              kept_exact.data(), int64_t(kept_exact.size())},
                                             parallel);
      expect(close(ordinary, pulled), where, "without log-determinants the gradient is not (I + J)^T grad");
    }

    for (int64_t most : {int64_t(0), int64_t(1000)}) {
      const T limit = 100 * std::numeric_limits<T>::epsilon() * T(std::sqrt(double(size)));
      Numbers<T> solution = unwritten<T>(all), residual = unwritten<T>(batch), image = unwritten<T>(all);
      Numbers<int64_t> iterations(batch, -1);
      kernels.residual_inverse(
          branch, {x.data(), limit, most, most, T(0.9), solution.data(), iterations.data(), residual.data()}, parallel);
      for (int64_t b = 0; b < batch; ++b)
        expect(iterations[b] <= most && (most == 0 || residual[b] <= limit), where, "the inverse did not converge");
      if (most == 0) continue;
      kernels.branch(branch, {solution.data(), image.data(), false}, parallel);
      for (int64_t i = 0; i < all; ++i) image[i] += solution[i];
      expect(close(image, x), where, "x + g(x) is not z");
      results.push_back(solution);
    }
    for (Numbers<T>* numbers : {&g, &forward, &transposed}) results.push_back(*numbers);
    return results;
  });
}

template <class T>
void check_layers(const std::string& name, const std::vector<LayerCase>& cases) {
  const size_t n = cases.size();
  std::vector<Numbers<T>> weights, us, vs, grads;
  std::vector<irf::NormLayer<T>> layers;
  for (const LayerCase& c : cases) {
    irf::NormLayer<T> layer{c.out, c.in, c.height, c.width, c.kh,     c.kw, c.sh, c.sw,
                            c.ph,  c.pw, c.dh,     c.dw,    c.groups, {},   {},   {}};
    weights.push_back(random_numbers<T>(layer.weight_size()));
    us.push_back(random_numbers<T>(layer.u_size()));
    vs.push_back(random_numbers<T>(layer.v_size()));
    grads.push_back(random_numbers<T>(layer.weight_size()));
    layers.push_back(layer);
  }
  for (T& number : weights[0]) number = 0;  // a layer of zeros must come out as zero
  for (size_t i = 0; i < n; ++i)
    layers[i].weight = weights[i].data(), layers[i].u = us[i].data(), layers[i].v = vs[i].data();

  on_all_machines<T>(name, [&](const std::string& where, const irf::Parallel& parallel) {
    const irf::Kernels<T>& kernels = irf::kernels<T>();
    std::vector<Numbers<T>> results;
    auto iterate = [&](const std::vector<irf::NormLayer<T>>& from, int64_t most, T tol, std::vector<Numbers<T>>& u,
                       std::vector<Numbers<T>>& v) {
      std::vector<T*> u_data, v_data;
      u.clear(), v.clear();
      for (size_t i = 0; i < n; ++i) {
        u.push_back(unwritten<T>(us[i].size())), v.push_back(unwritten<T>(vs[i].size()));
      }
      for (size_t i = 0; i < n; ++i) u_data.push_back(u[i].data()), v_data.push_back(v[i].data());
      Numbers<T> sigma = unwritten<T>(n);
      Numbers<int64_t> iterations(n, -1);
      kernels.spectral_norm(
          {int(n), from.data(), most, tol, sigma.data(), iterations.data(), u_data.data(), v_data.data()}, parallel);
      for (int64_t count : iterations) expect(count >= 0 && count <= most, where, "number of iterations");
      return sigma;
    };
    std::vector<Numbers<T>> u, v, same_u, same_v;
    for (T tol : {T(-1), T(0.01)}) {
      const Numbers<T> sigma = iterate(layers, 4, tol, u, v);
      std::vector<irf::NormLayer<T>> refined(layers);
      for (size_t i = 0; i < n; ++i) refined[i].u = u[i].data(), refined[i].v = v[i].data();
      const Numbers<T> again = iterate(refined, 0, T(-1), same_u, same_v);
      expect(sigma[0] == 0 && u[0] == us[0] && v[0] == vs[0], where, "a zero weight");
      for (size_t i = 1; i < n; ++i)
        expect(near<T>(again[i], sigma[i], double(us[i].size())), where, "sigma is not <u, A v>");
      expect(same_u == u && same_v == v, where, "no iteration changes the vectors");
      results.push_back(sigma);
      if (tol > 0) continue;

      const Numbers<T> coeff(n, T(0.5));
      std::vector<Numbers<T>> result;
      std::vector<T*> result_data;
      std::vector<const T*> grad_data;
      for (size_t i = 0; i < n; ++i) result.push_back(unwritten<T>(weights[i].size()));
      for (size_t i = 0; i < n; ++i) result_data.push_back(result[i].data()), grad_data.push_back(grads[i].data());
      irf::SpectralNormalizeOperands<T> op{int(n),  refined.data(), again.data(),      coeff.data(),
                                           nullptr, false,          result_data.data()};
      kernels.spectral_normalize(op, parallel);
      results.insert(results.end(), result.begin(), result.end());
      op.grad = grad_data.data();
      for (bool through : {false, true}) {
        op.through_sigma = through;
        kernels.spectral_normalize_backward(op, parallel);
        results.insert(results.end(), result.begin(), result.end());
      }
      for (size_t i = 1; i < n; ++i)  // W / sigma does not change with the length of W
        expect(again[i] <= coeff[i] ||
                   near<T>(dot(result[i].data(), weights[i].data(), weights[i].size()), 0, double(weights[i].size())),
               where, "the gradient through sigma is not orthogonal to the weight of layer " + std::to_string(i));
    }
    return results;
  });
}

template <class T>
void check_all() {
  const char* type = kTypeName<T>;
  random_state<T> = 2;  // whatever was drawn before
  const std::pair<const char*, std::vector<BranchCase>> groups[] = {
      {"dense", dense_cases()}, {"images", image_cases()}, {"operands", operand_cases()}};
  for (const auto& [group, cases] : groups) {
    const int before = failures;
    for (size_t i = 0; i < cases.size(); ++i)
      for (bool layers : {false, true})
        check_branch<T>(std::string(group) + " " + std::to_string(i) + (layers ? " layers" : ""), cases[i], layers);
    std::printf("%s, %s: %zu branches, %s\n", group, type, cases.size(), failures == before ? "ok" : "FAILED");
  }
  const int before = failures;
  check_layers<T>("layers", layer_cases());
  check_lanczos<T>("Lanczos", layer_cases());
  check_flow<T>("between blocks");
  std::printf("spectral norms, %s: %zu layers, %s\n", type, layer_cases().size(), failures == before ? "ok" : "FAILED");
}

}  // namespace

int main() {
  check_fingerprint();
  check_bf16();
  check_all<double>();
  check_all<float>();
  for (const auto& [isa, tally] : tallies)
    std::printf(
        "%s, float32: at most %.0f eps from float64 where scalar is at most %.0f, at most %.2f of what is allowed\n",
        isa.c_str(), tally.error, tally.scalar, tally.share);
  if (failures > 0) std::printf("%d checks failed\n", failures);
  return failures > 0;
}
