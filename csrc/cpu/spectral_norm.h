// Power iteration on every layer of a model in one call: v <- A^T u / |A^T u|, u <- A v / |A v|, sigma = |A v| (arXiv
// 1804.04368). Threads take whole layers, so the result does not depend on how many there are.
#pragma once

#include "cpu/krylov_basis.h"
#include "cpu/largest_entry.h"
#include "cpu/linear_map.h"
#include "iresnet_fast/lanczos.h"

namespace irf {
namespace IRF_ISA {
namespace {

// Lengths, and whether their squares were all in the range in which no digit is lost: neither zero nor infinite, nor so
// small that squares of entries vanish which count. Beyond it the iteration runs again on a weight of ordinary size.
template <class T>
struct Lengths {
  bool exact = true;

  T root_of(T square) {
    exact = exact && exact_square(square);
    return __builtin_sqrt(square);
  }
  T of(const T* a, int64_t size) { return root_of(dot(a, a, size)); }
};

// `before` is 0 at the first iteration, so a tolerance always takes two.
template <class T>
bool settled(T sigma, T before, T tolerance) {
  const T change = sigma > before ? sigma - before : before - sigma;
  return tolerance >= T(0) && change <= tolerance * sigma;
}

// One pass over the rows of W gives A v and A^T (A v) together, so an iteration reads the matrix once, not twice.
template <class T>
int64_t iterate_matrix(const NormLayer<T>& layer, int64_t most, T tolerance, T* u, T* v, T* image, T& sigma,
                       Lengths<T>& lengths) {
  const int rows = layer.out_channels, columns = layer.in_channels;
  auto pull_back = [&](const T* left) {  // image = A^T left
    std::memset(image, 0, sizeof(T) * columns);
    for (int i = 0; i < rows; ++i) add_multiple(left[i], layer.weight + int64_t(i) * columns, columns, image);
  };
  auto norm_along = [&]() {  // <u, A v>
    T sum = T(0);
    for (int i = 0; i < rows; ++i) sum += u[i] * dot(layer.weight + int64_t(i) * columns, v, columns);
    return sum;
  };
  sigma = most == 0 ? norm_along() : T(0);
  if (most == 0) return 0;
  pull_back(u);
  for (int64_t iteration = 1;; ++iteration) {
    const T scale = lengths.of(image, columns);
    for (int k = 0; scale > T(0) && k < columns; ++k) v[k] = image[k] / scale;  // u may see nothing: then v stays
    std::memset(image, 0, sizeof(T) * columns);
    T square = T(0);
    for (int i = 0; i < rows; ++i) {
      const T* row = layer.weight + int64_t(i) * columns;
      u[i] = dot(row, v, columns);
      square += u[i] * u[i];
      add_multiple(u[i], row, columns, image);
    }
    const T before = sigma;
    sigma = lengths.root_of(square);
    if (sigma > T(0))
      for (int i = 0; i < rows; ++i) u[i] /= sigma;
    else
      copy(layer.u, rows, u);
    if (iteration == most || settled(sigma, before, tolerance)) return iteration;
  }
}

template <class T>
int64_t iterate_convolution(GridConvolution<T>& map, int64_t most, T tolerance, T* u, T* v, T& sigma,
                            Lengths<T>& lengths) {
  const NormLayer<T>& layer = map.layer;
  const int64_t u_cells = map.grid.size(layer.out_channels), v_cells = map.grid.size(layer.in_channels);
  sigma = T(0);
  if (most == 0) {
    map.read_input(v);
    map.apply();
    map.each_output([&](T& cell) { sigma += cell * *u++; });
    return 0;
  }
  map.read_output(u);
  for (int64_t iteration = 1;; ++iteration) {
    map.apply_transposed();
    const T pulled = lengths.of(map.input, v_cells);
    if (pulled > T(0))
      scale(map.input, v_cells, T(1) / pulled);
    else
      map.read_input(v);  // u sees nothing: v stays
    map.apply();
    const T before = sigma;
    sigma = lengths.of(map.output, u_cells);
    if (sigma > T(0))
      scale(map.output, u_cells, T(1) / sigma);
    else
      map.read_output(u);
    if (iteration == most || settled(sigma, before, tolerance)) {
      map.write_input(v);
      map.write_output(u);
      return iteration;
    }
  }
}

template <class T>
void spectral_norm(const SpectralNormOperands<T>& op, const Parallel& parallel) {
  // Returns whether all lengths were exact.
  auto iterate = [&](int64_t index, const NormLayer<T>& layer, Workspace& workspace) {
    T *u = op.u[index], *v = op.v[index], &sigma = op.sigma[index];
    copy(layer.u, layer.u_size(), u);
    copy(layer.v, layer.v_size(), v);
    Lengths<T> lengths;
    if (layer.matrix()) {
      T* image = workspace.take<T>(layer.in_channels);
      op.iterations[index] = iterate_matrix(layer, op.max_iterations, op.tolerance, u, v, image, sigma, lengths);
    } else {
      GridConvolution<T> map(layer, true, workspace);
      op.iterations[index] = iterate_convolution(map, op.max_iterations, op.tolerance, u, v, sigma, lengths);
    }
    return lengths.exact;
  };
  auto one_layer = [&](int64_t index) {
    Workspace workspace;
    NormLayer<T> layer = op.layer[index];
    if (iterate(index, layer, workspace)) return;
    const T factor = take_to_ordinary_size(layer, workspace);
    if (factor == T(1)) return;
    iterate(index, layer, workspace);
    op.sigma[index] /= factor;
  };
  run_each(parallel, op.layers, one_layer);
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
