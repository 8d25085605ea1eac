// Every raw op of the package on one screen. They are private (no autograd formula): iresnet_fast/ops wraps them.
//
// A branch is passed as weights, biases, betas, factors (one entry per stage; a tensor without elements means "none"),
// the kernel ids of its activations and their constants. precision: the least exact way in which products of float32
// numbers may be formed, 0 exactly, 1 from TF32, 2 from bf16 operands, with float32 sums; a CPU knows the first, and
// with AVX512-BF16 the last. Letters: B batch, d event, L stages, n terms, m probes. Results are packed into few
// tensors, since each one costs microseconds.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(iresnet_fast, m) {
  // g(x)
  m.def(
      "branch(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] betas, Tensor[] factors, int[] activations, "
      "float[] constants, int precision) -> Tensor");

  // Gradient of <grad, g(x)> + weight (1/m sum_j <cotangent_j, J tangent_j> + sum_k factor_k tr J^k) -> grad_x (empty
  // unless `input_gradient`), packed parameter gradients (per stage: weight, bias, beta, factor; then the maps).
  // residual: of <grad, x + g(x)>. kept, maps, stages and coefficients: as of residual_logdet.
  m.def(
      "branch_backward(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] betas, Tensor[] factors, int[] "
      "activations, float[] constants, Tensor? grad, Tensor? tangents, Tensor? cotangents, Tensor? weight, Tensor[] "
      "maps, int[] stages, Tensor? coefficients, bool residual, bool input_gradient, Tensor? kept, int precision) -> "
      "(Tensor, Tensor)");

  // z, value [B], Neumann vectors [m, B, d] (empty unless `neumann`), norms [m, B], terms [m, B] int64,
  // and what branch_backward need not compute again (empty unless `keep`). The first terms are exact where there are
  // maps: tr J^k = sum <D_left, maps[k-1] D_right>, or <D_left, maps[k-1]> (params.h), stages: left and right (-1:
  // none; -2: none, and a CPU makes the map of which the tensor tells the sizes) of each.
  m.def(
      "residual_logdet(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] betas, Tensor[] factors, int[] "
      "activations, float[] constants, Tensor probe, Tensor coefficients, Tensor[] maps, int[] stages, Tensor? tail, "
      "float tolerance, bool relative, bool neumann, bool keep, int precision) -> (Tensor, Tensor, Tensor, Tensor, "
      "Tensor, Tensor)");

  // A chain of steps in one call (torch/flow_program.h): z, logdet [B], what the backward pass reads of the states
  // (empty unless `save`), and for each block with a log-determinant what it need not compute again (none unless
  // `keep`).
  m.def(
      "residual_flow(Tensor x, Tensor[] tensors, Tensor[] draws, int[] program, bool save, bool keep) -> (Tensor, "
      "Tensor, Tensor, Tensor[])");

  // grad_x (empty unless `input_gradient`), packed parameter gradients (per step: bias, log_scale; or per stage weight,
  // bias, beta, factor, then maps of traces). z: needed if the last step is a normalisation.
  m.def(
      "residual_flow_backward(Tensor x, Tensor? z, Tensor[] tensors, Tensor[] draws, int[] program, Tensor saved, "
      "Tensor[] kept, Tensor? grad_z, Tensor? grad_logdet, bool input_gradient) -> (Tensor, Tensor)");

  // [n, B, d]: J^k start, or (J^T)^k start, k = 1 .. n
  m.def(
      "jacobian_powers(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] betas, Tensor[] factors, int[] "
      "activations, float[] constants, Tensor start, int count, bool transpose, int precision) -> Tensor");

  // [B, d, d]
  m.def(
      "jacobian(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] betas, Tensor[] factors, int[] activations, "
      "float[] constants, int precision) -> Tensor");

  // z, log|det(I + J)| [B], and what the backward pass need not compute again (empty unless `keep`). On the CPU only.
  m.def(
      "residual_logdet_exact(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] betas, Tensor[] factors, int[] "
      "activations, float[] constants, bool keep) -> (Tensor, Tensor, Tensor)");

  // Gradient of <grad_z, z> + sum grad_logdet logdet -> grad_x (empty unless `input_gradient`), packed parameter
  // gradients. On the CPU only.
  m.def(
      "residual_logdet_exact_backward(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] betas, Tensor[] factors, "
      "int[] activations, float[] constants, Tensor? grad_z, Tensor? grad_logdet, bool input_gradient, Tensor? kept) "
      "-> (Tensor, Tensor)");

  // x, iterations [B] int64, residual [B]. lipschitz: of the branch, for the safeguard of Anderson's method, and for
  // the number of iterations that a CUDA graph records where it cannot be told to end.
  m.def(
      "residual_inverse(Tensor z, Tensor[] weights, Tensor[] biases, Tensor[] betas, Tensor[] factors, int[] "
      "activations, float[] constants, float residual_limit, int max_iterations, float lipschitz, bool accelerate, int "
      "precision) -> (Tensor, Tensor, Tensor)");

  // geometry: 10 numbers a layer: height, width (0 for a matrix), stride, padding, dilation (two each), groups, input
  // channels. sigmas [layers], iterations [layers] int64, packed new u and v (all u, then all v)
  m.def(
      "spectral_norm(Tensor[] weights, Tensor[] us, Tensor[] vs, int[] geometry, int max_iterations, float tolerance) "
      "-> (Tensor, Tensor, Tensor)");

  // companions: one vector a layer, as u or v, whichever is shorter. seed: [1] int64. norms [2, layers]: sigmas and
  // residuals; iterations [layers] int64; packed new u, v and companions (all u, then all v, ...)
  m.def(
      "lanczos_norm(Tensor[] weights, Tensor[] us, Tensor[] vs, Tensor[] companions, Tensor seed, int[] geometry, int "
      "max_iterations, float tolerance) -> (Tensor, Tensor, Tensor)");

  // [layers] int64: a hash of the bits of each weight, of any floating point type
  m.def("fingerprint(Tensor[] weights) -> Tensor");

  // Packed W / max(1, sigma / coeff)
  m.def("spectral_normalize(Tensor[] weights, Tensor sigmas, Tensor coeffs) -> Tensor");

  // Packed gradients of the weights
  m.def(
      "spectral_normalize_backward(Tensor[] grads, Tensor[] weights, Tensor[] us, Tensor[] vs, Tensor sigmas, Tensor "
      "coeffs, int[] geometry, bool through_sigma) -> Tensor");
}
