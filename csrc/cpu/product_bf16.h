// The products of product.h with operands rounded to bfloat16 and float32 sums. Two channels make one 32-bit word, of
// the weights and of the tile: in these words everything lies as in float32, with half the channels, so that taps,
// positions and epilogues are the same.
#pragma once

#include "cpu/bf16.h"
#include "cpu/product.h"

namespace irf {
namespace IRF_ISA {
namespace {

// The tile is rounded first, which few rows do not make up for, and sums of few terms are half filled and store as
// much. Measured on a Zen 4: at least as fast from there on, 1.5 to 1.9 times with more of either.
template <class T>
bool bf16_product_pays(int rows, int channels, int taps) {
  return kBf16Products<T> && channels > 1 && rows * taps >= 16 && channels * taps >= 6;
}

#if defined(__AVX512F__)
// tile [channels][stride] -> words [channels / 2 rounded up][stride]; a missing last channel is zero.
IRF_BF16 inline void pair_channels(const float* tile, int channels, int64_t stride, float* words) {
  alignas(64) static constexpr int16_t kInterleave[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                          8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i interleave = _mm512_load_si512(kInterleave);
  for (int c = 0; c < channels; c += 2, tile += 2 * stride, words += stride)
    for (int64_t p = 0; p < stride; p += kLanes<float>) {
      const __m512 odd = c + 1 < channels ? _mm512_loadu_ps(tile + stride + p) : _mm512_setzero_ps();
      const __m512i both = bf16_vector(_mm512_loadu_ps(tile + p), odd);
      _mm512_storeu_si512(words + p, _mm512_permutexvar_epi16(interleave, both));
    }
}

template <int kRows, int kVectors>
IRF_BF16 __attribute__((noinline)) void product_bf16_tile(const PackedWeights<float>& packed, int tile,
                                                          const float* words, int64_t stride, const int* position,
                                                          const EpilogueOperands<float>& op, float* out) {
  __m512 sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) sum[i][j] = _mm512_setzero_ps();
  const float* w = packed.data + tile * packed.tile_size();
  int64_t at[kVectors];
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; ++j) at[j] = position[j];
  for (int t = 0; t < packed.taps; ++t) {
    const float* column = words + packed.offset[t];
    for (int c = 0; c < packed.depth(); ++c) {
      __m512i x[kVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) x[j] = _mm512_loadu_si512(column + at[j]);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const __m512i s = (__m512i)_mm512_set1_ps(w[i]);
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) sum[i][j] = add_bf16_products(sum[i][j], s, x[j]);
      }
      w += kRows;
      column += stride;
    }
  }
  Vector<float> acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) acc[i][j] = (Vector<float>)sum[i][j];
  const int first_row = tile * kRows;
  finish_tile<float, kRows, kVectors>(acc, packed.rows - first_row, first_row, at, stride, op, out);
}

template <int kShape, int kVectors = kTileVectors[kShape]>
void product_bf16_group(int vectors, const PackedWeights<float>& packed, const float* words, int64_t stride,
                        const int* position, const EpilogueOperands<float>& op, float* out) {
  if constexpr (kVectors > 1) {
    if (vectors < kVectors)
      return product_bf16_group<kShape, kVectors - 1>(vectors, packed, words, stride, position, op, out);
  }
  for (int tile = 0; tile < packed.tiles(); ++tile)
    product_bf16_tile<kTileRows[kShape], kVectors>(packed, tile, words, stride, position, op, out);
}

template <int kShape>
void product_bf16_shape(const PackedWeights<float>& packed, const float* words, const Layout<float>& layout,
                        const EpilogueOperands<float>& op, float* out) {
  const int groups = divide_up(layout.vectors, kTileVectors[kShape]);
  int done = 0;
  for (int group = 0; group < groups; ++group) {
    const int vectors = divide_up(layout.vectors - done, groups - group);
    product_bf16_group<kShape>(vectors, packed, words, layout.stride, layout.position + done, op, out);
    done += vectors;
  }
}

// The words of two channels for up to 8 rows, at[i * row_stride + k * channel_stride] where one of the strides is 1: a
// matrix, or its transpose.
IRF_BF16 inline void pack_bf16_rows(const float* at, int64_t row_stride, int64_t channel_stride, int rows,
                                    float* words) {
  const __mmask8 mask = static_cast<__mmask8>((1 << rows) - 1);
  __m256i packed;
  if (channel_stride == 1) {  // both channels of a row are side by side, as 64 bits
    const __m512i index = _mm512_mullo_epi64(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi64(row_stride));
    const __m512d pairs = _mm512_mask_i64gather_pd(_mm512_setzero_pd(), mask, index, at, sizeof(float));
    packed = (__m256i)_mm512_cvtneps_pbh((__m512)pairs);
  } else {
    const __m256 even = _mm256_maskz_loadu_ps(mask, at), odd = _mm256_maskz_loadu_ps(mask, at + channel_stride);
    const __m256i interleave = _mm256_set_epi16(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0);
    packed = _mm256_permutexvar_epi16(interleave, (__m256i)_mm256_cvtne2ps_pbh(odd, even));
  }
  _mm256_mask_storeu_epi32(words, mask, packed);
}

template <class T>
void pack_bf16_tile(const PackedWeights<T>& packed, int first, const T* source, int64_t row_stride,
                    int64_t channel_stride, T* out) {
  const int height = kTileRows[packed.shape], rows = min_of(height, packed.rows - first);
  const bool matrix = row_stride == 1 || channel_stride == 1;
  for (int t = 0; t < packed.taps; ++t)
    for (int c = 0; c < packed.channels; c += 2, out += height) {
      const T* at = source + first * row_stride + c * channel_stride + t;
      const bool both = c + 1 < packed.channels;
      if (matrix && both && rows == height) {
        pack_bf16_rows(at, row_stride, channel_stride, height, out);
        continue;
      }
      for (int i = 0; i < height; ++i, at += row_stride) {
        uint32_t word = 0;
        if (i < rows) word = bf16_bits(*at) | (both ? bf16_bits(at[channel_stride]) << 16 : 0);
        std::memcpy(out + i, &word, sizeof word);
      }
    }
}

template <class T>
void product_bf16(const PackedWeights<T>& packed, const T* in, const Layout<T>& layout, const EpilogueOperands<T>& op,
                  T* out) {
  pair_channels(in, packed.channels, layout.stride, layout.narrow);
  switch (packed.shape) {
    case 0:
      return product_bf16_shape<0>(packed, layout.narrow, layout, op, out);
    case 1:
      return product_bf16_shape<1>(packed, layout.narrow, layout, op, out);
    default:
      return product_bf16_shape<2>(packed, layout.narrow, layout, op, out);
  }
}
#endif

}  // namespace
}  // namespace IRF_ISA
}  // namespace irf
