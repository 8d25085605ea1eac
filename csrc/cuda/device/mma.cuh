// Tensor-core products, each in one wrapper with two bodies: PTX, and on the CPU the fragment layout the PTX manual
// documents (tests/simt compares it with a table of its own). sm_80 and later; no plan asks for them before.
//
// Fragments of a warp, g = lane / 4, t = lane % 4:  C and D (16 x 8): rows g and g + 8, columns 2 t and 2 t + 1.
//   TF32 16 x 8 x 8:   a = A(g, t), A(g + 8, t), A(g, t + 4), A(g + 8, t + 4);  b = B(t, g), B(t + 4, g)
//   BF16 16 x 8 x 16:  a = A(g, 2t..), A(g + 8, 2t..), A(g, 2t + 8..), A(g + 8, 2t + 8..);  b = B(2t.., g), B(2t + 8..,
//   g)
//
// load_matrices gives a warp four 8 x 8 matrices of 16-bit elements from shared memory, of which every lane passes the
// address of one row: lane l that of row l % 8 of matrix l / 8, 16 bytes on 16 bytes. Word m of a lane is M(g, 2t..) of
// matrix m, or transposed M(2t, g) and M(2t + 1, g). The first is also a matrix of 8 x 4 words of 32 bits: M(g, t).
#pragma once

#include "cuda/device/device.cuh"

namespace irf::cuda {

#ifdef SIMT_EMULATED
inline unsigned bits_of(float x) { return simt::bits(x); }
inline float float_of(unsigned x) { return simt::unbits<float>(x); }
// Round to nearest, ties away from zero, to 10 mantissa bits.
inline unsigned to_tf32(float x) {
  const unsigned u = bits_of(x);
  return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & 0xffffe000u;
}
// Round to nearest, ties to even, to 7 mantissa bits: `low` in the lower half.
inline unsigned to_bf16_pair(float low, float high) {
  auto half = [](float x) {
    const unsigned u = bits_of(x);
    return x != x ? 0x7fffu : (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
  };
  return half(low) | half(high) << 16;
}
template <int K, class Get>
inline void emulate_mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Get get) {
  struct Fragment {
    unsigned a[4], b[2];
  } mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, all[32];
  simt::gather(&mine, sizeof mine, all, __FILE__, __LINE__);
  const int g = simt::lane() / 4, t = simt::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    for (int k = 0; k < K; ++k) {
      const auto& left = all[row % 8 * 4 + get.lane(k)];
      const auto& right = all[column * 4 + get.lane(k)];
      d[i] += get.value(left.a[row / 8 + 2 * get.word(k)], k) * get.value(right.b[get.word(k)], k);
    }
  }
}
// Inlined, so that the loads are counted for the line that calls.
template <class Word>
__forceinline__ void emulate_load_matrices(unsigned (&to)[4], const void* row, Word word) {
  typedef unsigned Row __attribute__((vector_size(16), may_alias));
  const Row mine = *static_cast<const Row*>(row);
  Row all[32];
  simt::gather(&mine, sizeof mine, all, __FILE__, __LINE__);
  for (int m = 0; m < 4; ++m) to[m] = word(all + 8 * m, simt::lane() / 4, simt::lane() % 4);
}
__forceinline__ void load_matrices(unsigned (&to)[4], const void* row) {
  emulate_load_matrices(to, row, [](const auto* rows, int g, int t) { return rows[g][t]; });
}
__forceinline__ void load_matrices_transposed(unsigned (&to)[4], const void* row) {
  emulate_load_matrices(to, row, [](const auto* rows, int g, int t) {
    auto element = [&](int i) { return rows[i][g / 2] >> (g % 2 * 16) & 0xffffu; };
    return element(2 * t) | element(2 * t + 1) << 16;
  });
}
inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  struct {
    int lane(int k) const { return k % 4; }
    int word(int k) const { return k / 4; }
    float value(unsigned word, int) const { return float_of(word & 0xffffe000u); }
  } get;
  emulate_mma<8>(d, a, b, get);
}
inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  struct {
    int lane(int k) const { return k % 8 / 2; }
    int word(int k) const { return k / 8; }
    float value(unsigned word, int k) const { return float_of(k % 2 ? word & 0xffff0000u : word << 16); }
  } get;
  emulate_mma<16>(d, a, b, get);
}
#else
__device__ __forceinline__ unsigned bits_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ float float_of(unsigned x) { return __uint_as_float(x); }
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
__device__ __forceinline__ unsigned to_tf32(float x) {
  unsigned r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
}
__device__ __forceinline__ unsigned to_bf16_pair(float low, float high) {
  unsigned r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row))));
}
__device__ __forceinline__ void load_matrices_transposed(unsigned (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row))));
}
__device__ __forceinline__ void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else  // sm_75 has neither format, and so no use for the loads
__device__ __forceinline__ unsigned to_tf32(float) { return 0; }
__device__ __forceinline__ unsigned to_bf16_pair(float, float) { return 0; }
__device__ __forceinline__ void load_matrices(unsigned (&)[4], const void*) { __trap(); }
__device__ __forceinline__ void load_matrices_transposed(unsigned (&)[4], const void*) { __trap(); }
__device__ __forceinline__ void mma_tf32(float (&)[4], const unsigned (&)[4], const unsigned (&)[2]) { __trap(); }
__device__ __forceinline__ void mma_bf16(float (&)[4], const unsigned (&)[4], const unsigned (&)[2]) { __trap(); }
#endif
#endif

}  // namespace irf::cuda
