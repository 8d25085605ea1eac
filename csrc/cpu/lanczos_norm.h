// Lanczos iteration on A^T A of every layer of a model in one call, or on A A^T where u is the shorter vector: the
// largest singular value, and its residual. Threads take whole layers, so the result does not depend on how many there
// are.
#pragma once

#include "cpu/krylov_basis.h"
#include "cpu/largest_entry.h"
#include "cpu/linear_map.h"
#include "iresnet_fast/lanczos.h"

namespace irf {
namespace IRF_ISA {
namespace {

struct RootMath {
  static float sqrt(float x) { return __builtin_sqrtf(x); }
  static double sqrt(double x) { return __builtin_sqrt(x); }
};

// B^T B of a matrix, with B = A, or A^T on the left side.
template <class T>
struct MatrixGram {
  const NormLayer<T>& layer;
  bool left;
  T* image;

  MatrixGram(const NormLayer<T>& layer_, bool left_, Workspace& workspace)
      : layer(layer_), left(left_), image(workspace.take<T>(left ? layer.in_channels : layer.out_channels)) {}

  // image = B q, w = B^T image; returns |image|^2.
  T apply(const T* q, T* w) {
    const int rows = layer.out_channels, columns = layer.in_channels;
    T square = T(0);
    std::memset(left ? image : w, 0, sizeof(T) * columns);
    for (int i = 0; i < rows; ++i) {
      const T* row = layer.weight + int64_t(i) * columns;
      if (left) {
        add_multiple(q[i], row, columns, image);
      } else {  // both ways in one pass
        image[i] = dot(row, q, columns);
        square += image[i] * image[i];
        add_multiple(image[i], row, columns, w);
      }
    }
    if (!left) return square;
    for (int i = 0; i < rows; ++i) w[i] = dot(layer.weight + int64_t(i) * columns, image, columns);
    return dot(image, image, columns);
  }

  void write_image(T* target) {
    std::memcpy(target, image, sizeof(T) * (left ? layer.in_channels : layer.out_channels));
  }
};

// The same of a convolution.
template <class T>
struct ConvolutionGram {
  GridConvolution<T> map;
  bool left;

  ConvolutionGram(const NormLayer<T>& layer, bool left_, Workspace& workspace)
      : map(layer, true, workspace), left(left_) {}

  T apply(const T* q, T* w) {
    T square;
    if (left) {
      map.read_output(q);
      map.apply_transposed();
      square = dot(map.input, map.input, map.grid.size(map.layer.in_channels));
      map.apply();
      map.write_output(w);
    } else {
      map.read_input(q);
      map.apply();
      square = dot(map.output, map.output, map.grid.size(map.layer.out_channels));
      map.apply_transposed();
      map.write_input(w);
    }
    return square;
  }

  void write_image(T* target) { left ? map.write_input(target) : map.write_output(target); }
};

template <class T>
void random_unit(uint32_t key, int64_t size, T* target) {
  random_vector(key, size, T(1), target);
  make_unit(target, size);
}

template <class T>
bool has_direction(T length) {
  return length > T(0) && length <= Lanczos<T>::kLargest;
}

// basis.vector(0) = the direction of hint, companion and random vector, by their shares; a vector without a positive
// finite length has none.
template <class T, class Gram>
void start_vector(Gram& gram, const T* hint, const T* companion, uint32_t key, const KrylovBasis<T>& basis) {
  const int64_t size = basis.size;
  T *start = basis.vector(0), *rest = basis.vector(1), share = Lanczos<T>::kMostShare;
  const T hint_length = root(dot(hint, hint, size)), companion_length = root(dot(companion, companion, size));
  if (has_direction(hint_length)) {
    std::memcpy(start, hint, sizeof(T) * size);
    scale(start, size, T(1) / hint_length);
    const T square = gram.apply(start, rest);
    add_multiple(-square, start, size, rest);
    share = start_share(square, root(dot(rest, rest, size)));
  }
  random_vector(key, size, share, start);
  if (has_direction(hint_length)) add_multiple(T(1) / hint_length, hint, size, start);
  if (has_direction(companion_length)) add_multiple(share / companion_length, companion, size, start);
  const T length = root(dot(start, start, size));
  if (length > Lanczos<T>::kCancelled)
    scale(start, size, T(1) / length);
  else
    random_unit(key, size, start);
}

// The Lanczos iteration of one layer from basis.vector(0). Leaves the Ritz vector in `near`, the companion of the next
// call beside it; returns the Ritz value, 0 if the start sees nothing, and counts the steps.
template <class T, class Gram>
T lanczos(Gram& gram, const KrylovBasis<T>& basis, int64_t most, T tolerance, T* near, T* companion, int64_t& steps) {
  T alpha[kLargestBasis], beta[kLargestBasis], leading[kLargestBasis], inverse[kLargestBasis];
  for (steps = 0;;) {
    const int last = static_cast<int>(min_of(min_of(most - steps, basis.size), int64_t(kLargestBasis)));
    T value = T(0), largest = T(0);
    bool settled = false;
    int k = 1;
    for (;; ++k) {
      const T* q = basis.vector(k - 1);
      T* w = basis.vector(k);
      alpha[k - 1] = gram.apply(q, w);
      largest = max_of(largest, alpha[k - 1]);
      add_multiple(-alpha[k - 1], q, basis.size, w);
      if (k > 1) add_multiple(-beta[k - 2], basis.vector(k - 2), basis.size, w);
      beta[k - 1] = basis.orthogonalize(k, w);
      const bool invariant = k == basis.size || !(beta[k - 1] > T(16) * Lanczos<T>::kEps * largest);
      if (invariant || k == last || look_after(k, tolerance)) {
        value = Tridiagonal<T, RootMath>{k, alpha, beta, inverse}.lead(leading);
        settled = invariant || beta[k - 1] * leading[k - 1] <= tolerance * value;
        if (settled || k == last) break;
      }
      scale(w, basis.size, T(1) / beta[k - 1]);
    }
    steps += k;
    if (!(value > T(0))) return T(0);
    basis.combine(k, leading, near);
    make_unit(near, basis.size);
    if (settled || steps == most) {
      T coordinates[kLargestBasis];
      Tridiagonal<T, RootMath>{k, alpha, beta, inverse}.accompany(value, leading, coordinates);
      basis.combine(k, coordinates, companion);
      return value;
    }
    std::memcpy(basis.vector(0), near, sizeof(T) * basis.size);
  }
}

template <class T>
struct LanczosLayer {
  const LanczosNormOperands<T>& op;
  int64_t index;
  const NormLayer<T>& layer = op.layer[index];
  bool left = layer.u_size() < layer.v_size();
  int64_t size = min_of(layer.u_size(), layer.v_size());
  uint32_t key = random_key(*op.seed);

  void run() const {
    Workspace workspace;
    NormLayer<T> scaled = layer;
    T largest;
    const T factor = take_to_ordinary_size(scaled, workspace, &largest);
    if (!has_direction(largest)) return without_norm(largest * T(0), 0);
    if (layer.matrix())
      run(MatrixGram<T>(scaled, left, workspace), factor, workspace);
    else
      run(ConvolutionGram<T>(scaled, left, workspace), factor, workspace);
  }

 private:
  template <class Gram>
  void run(Gram gram, T factor, Workspace& workspace) const {
    const int64_t most = min_of(min_of(op.max_iterations, size), int64_t(kLargestBasis));
    const KrylovBasis<T> basis{workspace.take<T>((most + 1) * size), size};
    T *near = left ? op.u[index] : op.v[index], *far = left ? op.v[index] : op.u[index];
    start_vector(gram, left ? layer.u : layer.v, op.companion_hint[index], key, basis);
    const T value =
        lanczos(gram, basis, op.max_iterations, op.tolerance, near, op.companion[index], op.iterations[index]);
    if (!(value > T(0))) return without_norm(T(0), op.iterations[index]);
    T* back = basis.vector(0);  // free again
    const T sigma = root(gram.apply(near, back));
    gram.write_image(far);
    scale(far, left ? layer.v_size() : layer.u_size(), T(1) / sigma);
    scale(back, size, T(1) / sigma);
    add_multiple(-sigma, near, size, back);
    op.sigma[index] = sigma / factor;
    op.residual[index] = root(dot(back, back, size)) / factor;
  }

  // A weight that is zero or not finite keeps the directions of its hints.
  void without_norm(T sigma, int64_t iterations) const {
    auto keep = [&](const T* hint, int64_t hint_size, T* target) {
      copy(hint, hint_size, target);
      const T length = root(dot(hint, hint, hint_size));
      if (has_direction(length))
        scale(target, hint_size, T(1) / length);
      else
        random_unit(key, hint_size, target);
    };
    keep(layer.u, layer.u_size(), op.u[index]);
    keep(layer.v, layer.v_size(), op.v[index]);
    for (int64_t i = 0; i < size; ++i) op.companion[index][i] = T(0);
    op.sigma[index] = op.residual[index] = sigma;
    op.iterations[index] = iterations;
  }
};

template <class T>
void lanczos_norm(const LanczosNormOperands<T>& op, const Parallel& parallel) {
  run_each(parallel, op.layers, [&](int64_t index) { LanczosLayer<T>{op, index}.run(); });
}

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
