// A linear layer as an operator on one input: A v, A^T u and the weight gradient, for a matrix or for a convolution
// with any stride, padding, dilation and groups. Convolutions run through the same product and contraction as the
// branch walks, on a grid that holds the padded input; output (y, x) lives at grid position (y * stride, x * stride),
// every other position is zero.
#pragma once

#include "cpu/contract.h"
#include "cpu/product.h"

namespace irf {
namespace IRF_ISA {
namespace {

template <class T>
T dot(const T* a, const T* b, int64_t size) {
  Vector<T> sum0{}, sum1{};
  int64_t i = 0;
  for (; i + 2 * kLanes<T> <= size; i += 2 * kLanes<T>) {
    sum0 = fma(load(a + i), load(b + i), sum0);
    sum1 = fma(load(a + i + kLanes<T>), load(b + i + kLanes<T>), sum1);
  }
  T sum = sum_lanes<T>(sum0 + sum1);
  for (; i < size; ++i) sum += a[i] * b[i];
  return sum;
}

template <class T>
void add_multiple(T factor, const T* source, int64_t size, T* target) {
  const Vector<T> f = broadcast(factor);
  int64_t i = 0;
  for (; i + kLanes<T> <= size; i += kLanes<T>) store(target + i, fma(f, load(source + i), load(target + i)));
  for (; i < size; ++i) target[i] += factor * source[i];
}

// Tensors without elements may have no address, which memcpy must not see.
template <class T>
void copy(const T* source, int64_t size, T* target) {
  if (size > 0) std::memcpy(target, source, sizeof(T) * size);
}

// A convolution on its grid, with room for one input and one output. `products`: pack the weights for apply and
// apply_transposed.
template <class T>
struct GridConvolution {
  const NormLayer<T>& layer;
  bool same;  // stride 1, output the size of the input: both share one image and its pads (the layout of a branch)
  Layout<T> grid;
  T *input, *output;                      // [in_channels], [out_channels] on the grid
  T *input_mask, *output_mask;            // [stride] 1 where an input (output) lives, else 0
  PackedWeights<T>*forward, *transposed;  // [groups]

  GridConvolution(const NormLayer<T>& layer_, bool products, Workspace& workspace) : layer(layer_) {
    same = layer.stride_height == 1 && layer.stride_width == 1 && layer.out_height() == layer.height &&
           layer.out_width() == layer.width;
    const int span_rows = (layer.kernel_height - 1) * layer.dilation_height;
    const int span_columns = (layer.kernel_width - 1) * layer.dilation_width;
    grid = same ? grid_layout<T>(layer.height, layer.width, layer.padding_width, span_rows / 2, span_columns / 2, 1,
                                 workspace)
                : grid_layout<T>(layer.height + 2 * layer.padding_height, layer.width + 2 * layer.padding_width, 0,
                                 span_rows, span_columns, 1, workspace);
    input = workspace.take_zeroed<T>(grid.size(layer.in_channels));
    output = workspace.take_zeroed<T>(grid.size(layer.out_channels));
    input_mask = workspace.take_zeroed<T>(grid.stride);
    output_mask = workspace.take_zeroed<T>(grid.stride);
    for (int y = 0; y < layer.height; ++y)
      for (int x = 0; x < layer.width; ++x) input_mask[input_column(y, x)] = T(1);
    for (int y = 0; y < layer.out_height(); ++y)
      for (int x = 0; x < layer.out_width(); ++x) output_mask[output_column(y, x)] = T(1);

    const int taps = layer.kernel_height * layer.kernel_width;
    int* offset = workspace.take<int>(taps);
    int* reverse = workspace.take<int>(taps);
    for (int t = 0; t < taps; ++t) {
      const int row = (t / layer.kernel_width) * layer.dilation_height - (same ? layer.padding_height : 0);
      const int column = (t % layer.kernel_width) * layer.dilation_width - (same ? layer.padding_width : 0);
      offset[t] = row * grid.pitch + column;
      reverse[t] = -offset[t];
    }
    forward = workspace.take<PackedWeights<T>>(layer.groups);
    transposed = workspace.take<PackedWeights<T>>(layer.groups);
    const int out = layer.out_channels / layer.groups, in = layer.in_channels / layer.groups;
    for (int group = 0; group < layer.groups; ++group) {
      const T* weight = layer.weight + int64_t(group) * out * in * taps;
      forward[group] = PackedWeights<T>{out, in, taps, pick_tile_shape(out), offset, nullptr};
      if (!products) continue;
      forward[group] = reserve_weights<T>(out, in, taps, offset, workspace);
      transposed[group] = reserve_weights<T>(in, out, taps, reverse, workspace);
      for (int tile = 0; tile < forward[group].tiles(); ++tile)
        pack_tile(forward[group], tile, weight, int64_t(in) * taps, taps);
      for (int tile = 0; tile < transposed[group].tiles(); ++tile)
        pack_tile(transposed[group], tile, weight, taps, int64_t(in) * taps);
    }
  }

  int output_column(int y, int x) const {
    return grid.lead + y * layer.stride_height * grid.pitch + x * layer.stride_width;
  }
  int input_column(int y, int x) const {
    return grid.lead + (same ? y * grid.pitch + x : (y + layer.padding_height) * grid.pitch + x + layer.padding_width);
  }

  // output = A input, zero where no output lives.
  void apply() {
    for (int group = 0; group < layer.groups; ++group)
      product(forward[group], input + grid.size(group * forward[group].channels), grid, {.kind = Epilogue::kBias},
              output + grid.size(group * forward[group].rows));
    keep(output, layer.out_channels, output_mask);
  }

  // input = A^T output, zero outside the image.
  void apply_transposed() {
    for (int group = 0; group < layer.groups; ++group)
      product(transposed[group], output + grid.size(group * transposed[group].channels), grid,
              {.kind = Epilogue::kBias}, input + grid.size(group * transposed[group].rows));
    keep(input, layer.in_channels, input_mask);
  }

  void keep(T* tile, int channels, const T* mask) const {
    if (same && !grid.masked) return;  // the vectors cover pixels only
    for (int c = 0; c < channels; ++c)
      for (int j = 0; j < grid.vectors; ++j) {
        T* at = tile + grid.size(c) + grid.position[j];
        store(at, load(at) * load(mask + grid.position[j]));
      }
  }

  void read_input(const T* v) {
    each_input([&](T& cell) { cell = *v++; });
  }
  void read_output(const T* u) {
    each_output([&](T& cell) { cell = *u++; });
  }
  void write_input(T* v) {
    each_input([&](T& cell) { *v++ = cell; });
  }
  void write_output(T* u) {
    each_output([&](T& cell) { *u++ = cell; });
  }

  template <class Body>
  void each_input(const Body& body) {
    for (int c = 0; c < layer.in_channels; ++c)
      for (int y = 0; y < layer.height; ++y)
        for (int x = 0; x < layer.width; ++x) body(input[grid.size(c) + input_column(y, x)]);
  }
  template <class Body>
  void each_output(const Body& body) {
    for (int c = 0; c < layer.out_channels; ++c)
      for (int y = 0; y < layer.out_height(); ++y)
        for (int x = 0; x < layer.out_width(); ++x) body(output[grid.size(c) + output_column(y, x)]);
  }

  // target += gradient of <output, A input> with respect to the weight.
  void add_weight_gradient(Workspace& workspace, T* target) const {
    const int out = layer.out_channels / layer.groups, in = layer.in_channels / layer.groups;
    const int taps = layer.kernel_height * layer.kernel_width;
    WeightSums<T> gradient{
        out, in, taps, forward[0].offset, nullptr, workspace.take<T>(WeightSums<T>::panel_size(grid))};
    gradient.sums = workspace.take<T>(gradient.size());
    for (int group = 0; group < layer.groups; ++group) {
      std::memset(gradient.sums, 0, sizeof(T) * gradient.size());
      const OperandPair<T> operands[] = {{output + grid.size(group * out), input + grid.size(group * in)}};
      contract(gradient, operands, 1, grid);
      gradient.add_to(target + int64_t(group) * out * in * taps, 0, out);
    }
  }
};

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
