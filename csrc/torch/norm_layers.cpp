#include "torch/norm_layers.h"

#include <algorithm>

namespace irf::binding {
namespace {

// What the numbers of a geometry are called, and the least each may be.
constexpr const char* kNames[] = {"the image height",      "the image width",         "the stride of rows",
                                  "the stride of columns", "the padding of rows",     "the padding of columns",
                                  "the dilation of rows",  "the dilation of columns", "groups"};
constexpr int64_t kLeast[] = {1, 1, 1, 1, 0, 0, 1, 1, 1};

struct Axis {
  int64_t size, output, reach, sources;
};

// One dimension of the image; `reach` is the padded size and as far beyond it as the kernel goes, `sources` the room
// for a table of what each tap of the kernel sees.
Axis axis_of(int64_t kernel, int64_t size, int64_t stride, int64_t padding, int64_t dilation) {
  checked_int(kernel, 1, "the sides of a kernel");
  const int64_t span = dilation * (kernel - 1), padded = size + 2 * padding, rest = padded - span - 1;
  STD_TORCH_CHECK(rest >= 0, "the kernel must fit into the padded image, got a kernel that spans ", span + 1, " of ",
                  padded, " pixels; increase the image or its padding.");
  const int64_t output = rest / stride + 1;
  return {size, output, padded + 2 * span, checked_product({kernel, std::max(size, output)}, kLargestInt / 2, "taps")};
}

}  // namespace

void check_layer(const Tensor& weight, const int64_t* geometry) {
  const int64_t in = checked_int(geometry[9], 0, "the input channels");
  const bool matrix = geometry[0] == 0;
  STD_TORCH_CHECK(weight.dim() == 4 || (matrix && weight.dim() == 2),
                  "a weight must be [out, in] or [out, in / groups, height, width], got ", weight.dim(),
                  " dimensions; reshape it.");
  const int64_t out = checked_int(weight.size(0), 0, "the outputs of a weight");
  if (matrix) return;
  for (int i = 0; i < 9; ++i) checked_int(geometry[i], kLeast[i], kNames[i]);
  const int64_t groups = geometry[8];
  STD_TORCH_CHECK(
      out % groups == 0 && in % groups == 0 && groups <= std::max<int64_t>(out, 1) && weight.size(1) == in / groups,
      "groups must divide the ", out, " outputs and the ", in, " inputs of a weight with ", weight.size(1),
      " inputs in a group, got ", groups, "; change it.");
  Axis axes[2];
  for (int i = 0; i < 2; ++i)
    axes[i] = axis_of(weight.size(2 + i), geometry[i], geometry[2 + i], geometry[4 + i], geometry[6 + i]);
  checked_product({axes[0].reach, axes[1].reach}, kLargestInt, "the pixels of the padded image");
  checked_product({in, axes[0].size, axes[1].size}, kLargestInt, "the numbers of the input");
  checked_product({out, axes[0].output, axes[1].output}, kLargestInt, "the numbers of the output");
  checked_product({out, weight.size(1), weight.size(2), weight.size(3)}, kLargestInt, "the numbers of the weight");
}

}  // namespace irf::binding
